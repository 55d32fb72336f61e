"""Training of the models that keep no states: fitted, measured, written; several times if asked.

Encoders are fitted over epochs and stopped by the validation part; models of one formula at once.
"""

from __future__ import annotations

import json
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import msgspec
import torch

from ouzel.bundle.bundle import Bundle
from ouzel.bundle.manifest import Kind
from ouzel.data.split import Split
from ouzel.evaluation.by_history import Tensors
from ouzel.events.interactions import Interactions
from ouzel.features.matrix import Matrix, matrix_of
from ouzel.inference.history_fold import fold_in_of
from ouzel.models.closed_form import ClosedForm
from ouzel.models.encoder import Encoder
from ouzel.models.graph_encoder import GraphEncoder
from ouzel.models.rating import RatingModel
from ouzel.models.registry import model_named
from ouzel.recommender.blend import blended
from ouzel.recommender.evaluate import compare, history_scorer, with_blend
from ouzel.recommender.home import Home
from ouzel.recommender.index import AutomaticIndex, asked_by, automatic_index, spread_histories
from ouzel.recommender.options import Progress, TrainOptions
from ouzel.recommender.publish import Provenance, write_model
from ouzel.recommender.rating import fit_rating
from ouzel.training.factorization import fit_encoder, fold_in_validator
from ouzel.training.fit import FitResult

VALIDATION_TARGETS = 1000

Rows = list[dict[str, Any]]


def train_by_history(
    home: Home,
    split: Split,
    interactions: Interactions,
    options: TrainOptions,
    provenance: Provenance,
    progress: Progress,
) -> tuple[Bundle, Rows, FitResult]:
    """Return the Bundle of a model without states, its rows of the comparison, and how it went.

    The Bundle is written but not yet served. With `refit` it is that of a model of everything, and
    the rows those of the model before it.

    Raises:
        ValueError: there is too little data to fit.

    >>> import tempfile
    >>> import numpy as np
    >>> from ouzel.bundle.manifest import DataRange
    >>> from ouzel.data.split import leave_one_out
    >>> from ouzel.events.interactions import History, from_histories
    >>> from ouzel.recommender.options import Silent
    >>> visits = [History(np.array([1, 2, 3, 4][place:] + [1], np.int32), np.arange(5 - place))
    ...           for place in range(2)]
    >>> x = from_histories(visits, num_rows=5)
    >>> data = DataRange(digest="d", cut_off_ms=None, num_events=9, num_users=2)
    >>> told = {"features": {}, "catalogue_digest": "c", "metrics": [], "seed": 0, "parent": None}
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     home, options = Home(Path(folder)), TrainOptions(model="ease")
    ...     bundle, rows, _ = train_by_history(
    ...         home, leave_one_out(x), x, options, Provenance(data=data, **told), Silent())
    >>> bundle.manifest.kind, rows[0]["model"]
    ('closed_form', 'ease')
    """
    fitted, result = _fit(home.training, split.train, options, progress, split=split)
    scorers = {fitted.name: history_scorer(fitted.kind, fitted.tensors)}
    provenance = blended(provenance, scorers, split, options, progress)
    scorers = with_blend(scorers, provenance.features, split.train)
    rows = compare(scorers, split, name=options.split, progress=progress)
    provenance = replace(provenance, metrics=rows)
    bundle = write_fitted(home, fitted, interactions, provenance)
    if options.refit:
        progress.say("Fitting again on all events")
        again, _ = _fit(
            home.training / "refit", interactions, options, progress, epochs=result.best_epoch
        )
        provenance = replace(
            provenance,
            features={**provenance.features, "refit": True},
            data=msgspec.structs.replace(provenance.data, cut_off_ms=None),
            parent=bundle.digest,
        )
        bundle = write_fitted(home, again, interactions, provenance)
    return bundle, rows, result


@dataclass(frozen=True)
class Fitted:
    """A model as a Bundle holds it."""

    name: str
    kind: Kind
    config: Any
    tensors: Tensors


def _fit(
    directory: Path,
    train: Interactions,
    options: TrainOptions,
    progress: Progress,
    *,
    split: Split | None = None,
    epochs: int | None = None,
) -> tuple[Fitted, FitResult]:
    """Return the model of `train` as it is served, and how it went.

    `split` has what stops the epochs; without it there are so many `epochs`.
    """
    model_class = model_named(options.model)
    if issubclass(model_class, RatingModel):
        rating, result = fit_rating(directory, train, options, progress, epochs=epochs)
        return Fitted(rating.name, "encoder", rating.config, rating.tensors()), result
    config = replace(model_class.presets[options.preset], **options.checked_settings)
    if issubclass(model_class, Encoder | GraphEncoder):
        fitted_to = model_class.data_of if issubclass(model_class, Encoder) else matrix_of
        matrix = fitted_to(train)
        if issubclass(model_class, Encoder):
            config = model_class.settled(config, matrix)
        torch.manual_seed(options.seed)
        encoder = _untrained(model_class, config, matrix)
        validate = None
        if split is not None:
            validate = fold_in_validator(
                encoder, split, max_targets=VALIDATION_TARGETS, seed=options.seed
            )
        if split is not None and validate is None and options.split != "none":
            progress.warn(
                "Nothing to validate on: no user has an event in the validation part. All "
                f"{config.epochs} epochs are done"
            )
        result = fit_encoder(
            encoder,
            matrix,
            epochs=epochs or config.epochs,
            minutes=options.minutes,
            validate=validate,
            directory=directory,
            on_epoch=progress.epoch,
            seed=options.seed,
        )
        return Fitted(encoder.name, "encoder", config, encoder.tensors()), result
    assert issubclass(model_class, ClosedForm)
    began = time.perf_counter()
    model = model_class.fit(matrix_of(train), config)
    seconds = time.perf_counter() - began
    progress.say(f"Fitted {model.name} in {seconds:.1f} s")
    directory.mkdir(parents=True, exist_ok=True)
    row = {"epoch": 1, "seconds": round(seconds, 3)}
    (directory / "metrics.jsonl").write_text(json.dumps(row) + "\n")
    fitted = Fitted(model.name, "closed_form", config, model.tensors())
    return fitted, FitResult(epochs=1, best_epoch=1, best_score=0.0, seconds=seconds)


def _untrained(
    model_class: type[Encoder] | type[GraphEncoder], config: Any, matrix: Matrix
) -> Encoder | GraphEncoder:
    if issubclass(model_class, GraphEncoder):
        return model_class.build(config, num_rows=matrix.num_rows)
    return model_class.build(config, num_users=matrix.num_users, num_rows=matrix.num_rows)


def write_fitted(
    home: Home, fitted: Fitted, interactions: Interactions, provenance: Provenance
) -> Bundle:
    """Return the Bundle of a model that keeps no states, written but not yet served.

    `interactions` are all there are, not those it learned from; of a model that goes on learning
    their users are those of its table.

    >>> import tempfile
    >>> import numpy as np
    >>> from ouzel.bundle.manifest import DataRange
    >>> from ouzel.events.interactions import History, from_histories
    >>> x = from_histories([History(np.array([1, 2], np.int32), np.arange(2))], num_rows=3)
    >>> data = DataRange(digest="d", cut_off_ms=None, num_events=2, num_users=1)
    >>> told = {"features": {}, "catalogue_digest": "c", "metrics": [], "seed": 0, "parent": None}
    >>> fitted = Fitted("ease", "closed_form", {}, {"item_item": {"fade": np.ones(1)}})
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     bundle = write_fitted(Home(Path(folder)), fitted, x, Provenance(data=data, **told))
    >>> bundle.manifest.model
    'ease'
    """
    tensors = dict(fitted.tensors)
    if "learning" in tensors:
        tensors["learning"] = {**tensors["learning"], "user_rows": interactions.users_U}
    fields = {
        "kind": fitted.kind,
        "model": fitted.name,
        "config": msgspec.to_builtins(fitted.config),
        "graphs": {},
        "error_bounds": {},
    }
    provenance = replace(provenance, index=_index_of(fitted, interactions))
    return write_model(home, interactions, provenance, fields, tensors, graphs={})


def _index_of(fitted: Fitted, interactions: Interactions) -> AutomaticIndex | None:
    """Return how well the items of a factor model are found; None where no index is asked."""
    if fitted.kind != "encoder":
        return None
    vectors_ND = fitted.tensors["items"]["vectors"]
    fold_in = fold_in_of(fitted.tensors["fold_in"], vectors_ND)
    return automatic_index(vectors_ND, asked_by(spread_histories(interactions), fold_in))
