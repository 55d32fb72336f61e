"""The one fit loop: epochs of batches under a loss, early stopping, checkpoints, a log of metrics.

What is validated and kept is a moving average of the weights, which at a constant learning rate is
what a falling one would come to.

Two runs with one seed on one machine and thread count give the same weights, and so does a run
that was interrupted between epochs and taken up again.

References:
    Polyak and Juditsky, "Acceleration of Stochastic Approximation by Averaging", SIAM J. Control
    Optim. 1992.
"""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, get_type_hints

import msgspec
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.utils import clip_grad_norm_

from ouzel.events.interactions import Interactions
from ouzel.features.batches import TrainingBatch, training_batches, training_windows
from ouzel.models.protocols import SequenceEncoder
from ouzel.training.checkpoint import (
    CHECKPOINT,
    Checkpoint,
    RunState,
    load_checkpoint,
    optimizer_tensors,
    restore_optimizer,
    save_checkpoint,
)
from ouzel.training.objectives import Objective, loss_named
from ouzel.training.repeatable import repeatable


@dataclass(frozen=True, kw_only=True)
class FitSettings:
    """How to train; the model's shape is its own config.

    Raises:
        ValueError: there is no such loss (the message suggests the nearest), or a number is 0.
    """

    loss: str = "sampled_softmax"
    """Which of `ouzel.training.objectives.LOSSES`."""
    epochs: int = 200
    """At most this many passes over the training windows."""
    minutes: float | None = None
    """Stop at the first epoch end after this much training time; None: no limit."""
    learning_rate: float = 1e-3
    """Of AdamW with betas (0.9, 0.98)."""
    weight_decay: float = 0.01
    """Of AdamW, on every parameter."""
    batch_tokens: int = 6400
    """Padded positions of one step."""
    num_negatives: int = 512
    """Negatives a batch shares, for a loss that has some; a catalogue of no more items gets the
    full softmax in place of the sampled one."""
    average_decay: float = 0.998
    """How much of the average of the weights outlives a step; 0: no average."""
    clip_norm: float = 1.0
    """Largest norm of the gradient."""
    validate_every: int = 2
    """Epochs between validations."""
    patience: int = 6
    """Validations without a better NDCG@10 before stopping."""
    seed: int = 0
    """Of the weights' start, dropout, windows, batches and negatives."""

    def __post_init__(self) -> None:
        loss_named(self.loss)
        for name in ("num_negatives", "batch_tokens", "learning_rate"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} is {getattr(self, name)}: give more than 0")


TOLD = ("loss", "num_negatives", "learning_rate", "weight_decay", "batch_tokens")
"""The settings that a person may set beside those of the model; the others follow from the data."""


def told_settings(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return those of `settings` that are in `TOLD`, with values of the types that they have.

    Raises:
        ValueError: a value does not fit, or there is no such loss.

    >>> told_settings({"loss": "gbce", "num_negatives": "256", "dim": "128"})
    {'loss': 'gbce', 'num_negatives': 256}
    """
    hints, told = get_type_hints(FitSettings), {}
    for name in set(TOLD) & set(settings):
        try:
            told[name] = msgspec.convert(settings[name], hints[name], strict=False)
        except msgspec.ValidationError as error:
            raise ValueError(f"{name} is {settings[name]!r}: {error}") from None
        if isinstance(told[name], float) and not math.isfinite(told[name]):
            raise ValueError(f"{name} is {settings[name]!r}: give a finite number")
    FitSettings(**told)
    return {name: told[name] for name in TOLD if name in told}


@dataclass(frozen=True)
class FitResult:
    """How training ended; the model holds the weights of `best_epoch`."""

    epochs: int
    best_epoch: int
    best_score: float
    seconds: float


def fit(
    model: SequenceEncoder,
    interactions: Interactions,
    settings: FitSettings,
    *,
    max_length: int,
    validate: Callable[[], float] | None,
    directory: Path,
    on_batch: Callable[[int, float], None] = lambda epoch, fraction: None,
    on_epoch: Callable[[dict[str, float]], None] = lambda row: None,
) -> FitResult:
    """Return how training `model` on `interactions` went; the model ends with its best weights.

    `validate` returns the score to maximise (NDCG@10); None trains all epochs and keeps the last
    average. `directory` receives `metrics.jsonl` and `checkpoint.safetensors`; if it holds a
    checkpoint of this very run, training goes on from there, and has nothing to do if that was its
    end: `checkpoint.forget` it once the model is safe.

    Raises:
        ValueError: there is nothing to learn from: no user has two interactions.

    >>> import tempfile
    >>> from ouzel.events.interactions import History, from_histories
    >>> from ouzel.models.sequence.esasrec import ESASRec, ESASRecConfig
    >>> x = from_histories([History(np.array([1, 2], np.int32), np.array([10, 20]))], num_rows=3)
    >>> model = ESASRec(ESASRecConfig(dim=8, num_layers=1), x.num_rows)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     fit(model, x, FitSettings(epochs=1), max_length=4, validate=None,
    ...         directory=Path(folder)).epochs
    1
    """
    if not (interactions.lengths_U() >= 2).any():
        raise ValueError("no user has two interactions to learn from; add data with histories")
    directory.mkdir(parents=True, exist_ok=True)
    run = _Run(model, interactions, settings, max_length, directory)
    while not run.finished():
        run.epoch(on_batch)
        if validate is not None and run.state.epoch % settings.validate_every == 0:
            model.eval()
            with torch.no_grad(), run.averaged():
                run.judge(validate())
        on_epoch(run.record())
    return run.close(validated=validate is not None)


class _Run:
    """One training run between its epochs."""

    def __init__(
        self,
        model: SequenceEncoder,
        interactions: Interactions,
        settings: FitSettings,
        max_length: int,
        directory: Path,
    ) -> None:
        self.model, self.interactions, self.settings = model, interactions, settings
        self.max_length = max_length
        self.objective = Objective(
            settings.loss, interactions, num_negatives=settings.num_negatives
        )
        self.log_path = directory / "metrics.jsonl"
        self.checkpoint_path = directory / CHECKPOINT
        self.optimizer = torch.optim.AdamW(
            model.parameters(),
            lr=settings.learning_rate,
            betas=(0.9, 0.98),
            weight_decay=settings.weight_decay,
        )
        self.row: dict[str, float] = {}
        self._resume(_fingerprint(model, interactions, settings, max_length))

    def _resume(self, fingerprint: str) -> None:
        stored = load_checkpoint(self.checkpoint_path, fingerprint)
        if stored and stored.run.epoch > self.settings.epochs:
            stored = None  # Of a run that was to be longer.
        self.state = stored.run if stored else RunState(fingerprint=fingerprint)
        self.best = stored.best if stored else {}
        self.average = stored.average if stored else _copy(self.model.state_dict())
        if stored:
            self.model.load_state_dict(stored.model)
            restore_optimizer(self.optimizer, stored.optimizer)
        else:
            self.log_path.write_text("")

    def finished(self) -> bool:
        """Return whether a limit is reached: epochs, minutes or patience."""
        state, settings = self.state, self.settings
        limit = float("inf") if settings.minutes is None else settings.minutes * 60
        return (
            state.epoch >= settings.epochs
            or state.seconds >= limit
            or state.rounds_without_gain >= settings.patience
        )

    @repeatable()
    def epoch(self, on_batch: Callable[[int, float], None]) -> None:
        """Make one pass over the windows."""
        started = time.perf_counter()
        number = self.state.epoch + 1
        rng = np.random.default_rng([self.settings.seed, number])
        torch.manual_seed(int(rng.integers(2**31)))
        windows = training_windows(self.interactions, max_length=self.max_length, rng=rng)
        total = int((windows[:, 1] - windows[:, 0]).sum())
        self.model.train()
        losses, done = 0.0, 0
        batches = training_batches(
            self.interactions, windows, tokens=self.settings.batch_tokens, rng=rng
        )
        for batch in batches:
            real = int((batch.targets_BL > 0).sum())
            losses += real * self._step(batch, rng)
            done += real
            on_batch(number, done / total)
        seconds = time.perf_counter() - started
        self.state.epoch = number
        self.state.seconds += seconds
        self.row = {
            "epoch": number,
            "loss": round(losses / total, 5),
            "seconds": round(seconds, 2),
            "tokens_per_s": round(total / seconds),
        }

    def _step(self, batch: TrainingBatch, rng: np.random.Generator) -> float:
        vectors_TD, targets_T = self.model.predictions(*map(torch.from_numpy, _columns(batch)))
        loss = self.objective(self.model, vectors_TD, targets_T, rng)
        self.optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        clip_grad_norm_(self.model.parameters(), self.settings.clip_norm)
        self.optimizer.step()
        self._follow()
        return loss.item()

    @torch.no_grad()
    def _follow(self) -> None:
        """Move the average towards the weights, faster while there are few steps to average."""
        self.state.steps += 1
        steps = self.state.steps
        decay = min(self.settings.average_decay, (1 + steps) / (10 + steps))
        weights = self.model.state_dict()
        for name, average in self.average.items():
            average.lerp_(weights[name], 1 - decay)

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """Let the model have the average of its weights for a while."""
        weights = _copy(self.model.state_dict())
        self.model.load_state_dict(self.average)
        yield
        self.model.load_state_dict(weights)

    def judge(self, score: float) -> None:
        """Take a validation score: keep these weights if they are the best so far."""
        self.row["ndcg@10"] = round(score, 5)
        if score > self.state.best_score:
            self.state.best_score, self.state.best_epoch = score, self.state.epoch
            self.state.rounds_without_gain = 0
            self.best = _copy(self.model.state_dict())
        else:
            self.state.rounds_without_gain += 1

    def record(self) -> dict[str, float]:
        """Return the epoch's row after logging it and writing the checkpoint."""
        with self.log_path.open("a") as log:
            log.write(json.dumps(self.row) + "\n")
        checkpoint = Checkpoint(
            run=self.state,
            model=self.model.state_dict(),
            average=self.average,
            best=self.best,
            optimizer=optimizer_tensors(self.optimizer),
        )
        save_checkpoint(self.checkpoint_path, checkpoint)
        return self.row

    def close(self, *, validated: bool) -> FitResult:
        """Put the best weights in place."""
        self.model.load_state_dict(self.best if validated and self.best else self.average)
        self.model.eval()
        state = self.state
        best_epoch = state.best_epoch if self.best else state.epoch
        return FitResult(state.epoch, best_epoch, state.best_score, state.seconds)


def _columns(batch: TrainingBatch) -> tuple[NDArray[np.int64], ...]:
    return batch.rows_BL, batch.times_BL, batch.request_times_BL, batch.targets_BL


def _copy(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.detach().clone() for name, tensor in tensors.items()}


def _fingerprint(
    model: SequenceEncoder, interactions: Interactions, settings: FitSettings, max_length: int
) -> str:
    """Return a digest of all that decides the run: data, shapes, settings, starting weights.

    The limits on its length are left out, so that a longer run takes up a shorter one.
    """
    limits = ("epochs", "minutes", "patience")
    chosen = {key: value for key, value in asdict(settings).items() if key not in limits}
    digest = hashlib.sha256(json.dumps([chosen, max_length, torch.get_num_threads()]).encode())
    digest.update(interactions.offsets_U1.tobytes())
    digest.update(interactions.rows_E.tobytes())
    digest.update(interactions.times_ms_E.tobytes())
    for name, tensor in model.state_dict().items():
        digest.update(name.encode())
        digest.update(tensor.numpy().tobytes())
    return digest.hexdigest()
