"""Fitting of factor models: sweeps until validation says that it is enough.

Shape legend: T = targets.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol, TypeVar

import numpy as np
import torch

from ouzel.data.split import Split
from ouzel.evaluation.by_history import fold_in_scorer
from ouzel.evaluation.sample import mean_ndcg, sampled
from ouzel.features.matrix import Matrix
from ouzel.models.encoder import Encoder
from ouzel.models.graph_encoder import GraphEncoder
from ouzel.training.descent import Descent
from ouzel.training.fit import FitResult

PATIENCE = 3
"""Epochs without a better NDCG@10 before stopping."""


_Matrix_contra = TypeVar("_Matrix_contra", contravariant=True)


class Swept(Protocol[_Matrix_contra]):
    """A model that is fitted in sweeps over a matrix (`Encoder`, `RatingModel`)."""

    def sweep(self, matrix: _Matrix_contra) -> float:
        """Return the mean loss, after improving all factors once."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """Return what must be kept of an epoch to come back to it."""
        ...

    def load_state_dict(self, state_dict: dict[str, Any]) -> object:
        """Come back to an epoch."""
        ...


def fit_encoder(
    model: Swept[_Matrix_contra] | GraphEncoder,
    matrix: _Matrix_contra,
    *,
    epochs: int,
    minutes: float | None,
    validate: Callable[[], float] | None,
    directory: Path,
    on_epoch: Callable[[dict[str, float]], None] = lambda row: None,
    seed: int = 0,
) -> FitResult:
    """Return how fitting `model` to `matrix` went; it ends with its best factors.

    `validate` returns the score to maximise; None does all epochs. No epoch begins after `minutes`.
    `directory` receives `metrics.jsonl`. `seed` is that of batches and negatives, where a model is
    trained by gradients.

    >>> import tempfile
    >>> from ouzel.models.factorization.ials import IALS, IALSConfig
    >>> matrix = Matrix(np.array([0, 2]), np.array([1, 2], np.int32), 3)
    >>> model = IALS.build(IALSConfig(dim=2), num_users=1, num_rows=3)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     fit_encoder(model, matrix, epochs=2, minutes=None, validate=None,
    ...                 directory=Path(folder)).best_epoch
    2
    """
    directory.mkdir(parents=True, exist_ok=True)
    improve = _improving(model, matrix, seed)
    began, best, best_epoch, epoch = time.perf_counter(), -np.inf, 0, 0
    kept = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with (directory / "metrics.jsonl").open("w") as log:
        while epoch < epochs and epoch - best_epoch < PATIENCE:
            if minutes is not None and epoch and time.perf_counter() - began > 60 * minutes:
                break
            epoch += 1
            start = time.perf_counter()
            row = {"epoch": float(epoch), "loss": improve()}
            row["seconds"] = round(time.perf_counter() - start, 3)
            score = float(epoch) if validate is None else validate()
            if validate is not None:
                row["ndcg@10"] = round(score, 5)
            if score > best:
                best, best_epoch = score, epoch
                kept = {name: tensor.clone() for name, tensor in model.state_dict().items()}
            log.write(json.dumps(row) + "\n")
            on_epoch(row)
    model.load_state_dict(kept)
    seconds = time.perf_counter() - began
    return FitResult(epoch, best_epoch, 0.0 if validate is None else best, seconds)


def _improving(
    model: Swept[_Matrix_contra] | GraphEncoder, matrix: _Matrix_contra, seed: int
) -> Callable[[], float]:
    """Return what improves a model by one epoch and says its loss."""
    if isinstance(model, GraphEncoder):
        assert isinstance(matrix, Matrix), "a graph is made of pairs"
        return Descent(model, matrix, seed=seed).epoch
    return lambda: model.sweep(matrix)


def fold_in_validator(
    model: Encoder | GraphEncoder, split: Split, *, max_targets: int, seed: int
) -> Callable[[], float] | None:
    """Return a function that gives the mean NDCG@10 on some validation targets, None: no targets.

    Users are folded in as in service.

    >>> from ouzel.data.split import leave_one_out
    >>> from ouzel.events.interactions import History, from_histories
    >>> from ouzel.models.factorization.ials import IALS, IALSConfig
    >>> split = leave_one_out(from_histories([History(np.array([1, 2, 3]), np.arange(3))],
    ...                                      num_rows=4))
    >>> model = IALS.build(IALSConfig(dim=2), num_users=1, num_rows=4)
    >>> 0 <= fold_in_validator(model, split, max_targets=9, seed=0)() <= 1
    True
    """
    targets = split.validation
    if not len(targets.ends_T):
        return None
    sample = sampled(targets, max_targets, seed=seed)

    def validate() -> float:
        with torch.no_grad():
            scorer = fold_in_scorer(model.tensors())
        return mean_ndcg(scorer, split.full, sample)

    return validate
