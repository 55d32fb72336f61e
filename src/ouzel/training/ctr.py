"""The fit loop of models of fields: log loss on what happened, stopped by AUC.

Where an action is not known of an example (a label that is NaN) it has no part in the loss, so the
heads of several actions learn each from what there is.

References:
    Loshchilov and Hutter, "Decoupled Weight Decay Regularization", ICLR 2019. Polyak and Juditsky,
    "Acceleration of Stochastic Approximation by Averaging", SIAM J. Control Optim. 1992.

Shape legend: E = examples, B = those of a batch, K = items of an example, A = actions, X = E K,
N = catalogue rows, S = places of the item's fields.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Any, get_type_hints

import msgspec
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional
from torch.optim import AdamW, Optimizer

from ouzel.evaluation.ctr import auc
from ouzel.features.examples import Examples
from ouzel.models.ctr.base import CTRModel, OptimizerName
from ouzel.training.ftrl import FTRL
from ouzel.training.repeatable import repeatable

PREDICTED_AT_ONCE = 8192


@dataclass(frozen=True, kw_only=True)
class CTRSettings:
    """How to train a model of fields; its shape is its own config."""

    epochs: int = 30
    """At most this many passes over the examples."""
    minutes: float | None = None
    """Stop at the first epoch end after this much training time; None: no limit."""
    learning_rate: float | None = None
    """Of AdamW, or alpha of FTRL; None: the model's own."""
    weight_decay: float = 0.0
    """Of AdamW, on every parameter."""
    l2: float = 1e-5
    """Weight of the squares of the field vectors that a batch looks up, per example."""
    batch_size: int = 2048
    """Examples of one step."""
    average_decay: float = 0.998
    """How much of the average of the weights outlives a step; 0: no average."""
    patience: int = 2
    """Epochs without a better AUC before stopping."""
    ftrl_beta: float = 1.0
    """Of FTRL: how slowly the rates fall at first."""
    ftrl_l1: float = 1.0
    """Of FTRL: what a weight has to be worth not to be 0."""
    ftrl_l2: float = 1.0
    """Of FTRL: what holds weights small."""
    seed: int = 0
    """Of dropout and of the order of the examples."""

    def __post_init__(self) -> None:
        rates = (self.weight_decay, self.l2, self.ftrl_beta, self.ftrl_l1, self.ftrl_l2)
        if not all(math.isfinite(rate) and rate >= 0 for rate in rates):
            raise ValueError(
                f"weight_decay, l2, ftrl_beta, ftrl_l1, ftrl_l2 are {rates}: give 0 or more"
            )
        if self.learning_rate is not None and not 0 < self.learning_rate < math.inf:
            raise ValueError(f"learning_rate is {self.learning_rate}: give more than 0")
        if min(self.epochs, self.batch_size, self.patience) < 1:
            raise ValueError(
                f"epochs, batch_size, patience are {self.epochs}, {self.batch_size}, "
                f"{self.patience}: give 1 or more"
            )
        if not 0 <= self.average_decay < 1:
            raise ValueError(f"average_decay is {self.average_decay}: give 0 or more, below 1")


TOLD = tuple(field.name for field in fields(CTRSettings) if field.name not in ("minutes", "seed"))
"""The settings that a person may set beside those of the model."""


OF_OPTIMIZER: Mapping[str, OptimizerName] = {
    "weight_decay": "adamw",
    "l2": "adamw",
    "average_decay": "adamw",
    "ftrl_beta": "ftrl",
    "ftrl_l1": "ftrl",
    "ftrl_l2": "ftrl",
}
"""Those that one optimizer has and the other has not."""


def told_settings(settings: Mapping[str, Any], optimizer: OptimizerName) -> dict[str, Any]:
    """Return those of `settings` that are in `TOLD`, with values of the types that they have.

    Raises:
        ValueError: a value does not fit, or a setting is of the other optimizer.

    >>> told_settings({"l2": "1e-4", "dim": "32"}, "adamw")
    {'l2': 0.0001}
    """
    hints, told = get_type_hints(CTRSettings), {}
    for name in TOLD:
        if name in settings:
            if OF_OPTIMIZER.get(name, optimizer) != optimizer:
                raise ValueError(f"{name} is nothing to {optimizer}, which trains it: leave it out")
            try:
                told[name] = msgspec.convert(settings[name], hints[name], strict=False)
            except msgspec.ValidationError as error:
                raise ValueError(f"{name} is {settings[name]!r}: {error}") from None
    CTRSettings(**told)
    return told


@dataclass(frozen=True)
class CTRResult:
    """How training went; `best_score` is the AUC of its best epoch on validation, 0 without one."""

    epochs: int
    best_epoch: int
    best_score: float
    seconds: float


def fit_ctr(
    model: CTRModel,
    draw: Callable[[np.random.Generator], Examples],
    items_NS: NDArray[np.integer],
    settings: CTRSettings,
    *,
    validate: Callable[[], float] | None,
    on_epoch: Callable[[dict[str, float]], None] = lambda row: None,
) -> CTRResult:
    """Return how training went; `model` ends with its best weights, averaged over steps.

    `draw` returns the examples of an epoch: the same ones, or with other items that nobody chose.
    `items_NS` are the ids of all catalogue rows. `validate` returns the score to maximise (AUC);
    None trains all epochs.

    Raises:
        ValueError: there is no example.

    >>> from ouzel.features.examples import Past
    >>> from ouzel.models.ctr import MLP
    >>> from ouzel.models.ctr.base import DeepConfig, Layout
    >>> model = MLP(DeepConfig(), Layout(num_ids=4, request=(1,), item=(1,)), ("like",))
    >>> nothing = Past(np.zeros(0, np.int32), np.zeros(2, np.int64), np.zeros(2, np.int64))
    >>> labels = np.array([[[0.0]], [[1.0]]], np.float32)
    >>> examples = Examples(np.ones((2, 1), np.int32), np.array([[1], [2]]), labels, nothing)
    >>> items = np.array([[0], [3], [4]])
    >>> fit_ctr(model, lambda rng: examples, items, CTRSettings(epochs=2), validate=None).epochs
    2
    """
    run = _Run(model, draw, items_NS, settings)
    best, best_epoch, epoch = -np.inf, 0, 0
    kept = run.weights()
    while epoch < settings.epochs and epoch - best_epoch < settings.patience and run.in_time():
        epoch += 1
        row = run.epoch(epoch)
        score = float(epoch) if validate is None else run.judged(validate)
        if score > best:
            best, best_epoch = score, epoch
            kept = {name: tensor.clone() for name, tensor in run.average.items()}
        on_epoch(row if validate is None else {**row, "auc": round(score, 5)})
    model.load_state_dict(kept)
    model.eval()
    return CTRResult(epoch, best_epoch, 0.0 if validate is None else best, run.seconds)


@torch.no_grad()
def predict(
    model: CTRModel, examples: Examples, items_NS: NDArray[np.integer]
) -> NDArray[np.float32]:
    """Return the logits (E, K, A) of examples.

    >>> from ouzel.features.examples import Past
    >>> from ouzel.models.ctr import MLP
    >>> from ouzel.models.ctr.base import DeepConfig, Layout
    >>> model = MLP(DeepConfig(), Layout(num_ids=4, request=(1,), item=(1,)), ("like",))
    >>> nothing = Past(np.zeros(0, np.int32), np.zeros(1, np.int64), np.zeros(1, np.int64))
    >>> one = Examples(np.ones((1, 1), np.int32), np.array([[1]]), np.ones((1, 1, 1)), nothing)
    >>> predict(model, one, np.array([[0], [3]])).shape
    (1, 1, 1)
    """
    model.eval()
    items = torch.from_numpy(np.asarray(items_NS, np.int64))
    parts = [
        _logits(
            model, examples, np.arange(start, min(start + PREDICTED_AT_ONCE, len(examples))), items
        )
        for start in range(0, len(examples), PREDICTED_AT_ONCE)
    ]
    return np.asarray(torch.cat(parts).numpy(), np.float32)


def auc_validator(
    model: CTRModel, examples: Examples, items_NS: NDArray[np.integer]
) -> Callable[[], float]:
    """Return a function that gives the mean AUC over actions of which both outcomes are known.

    Raises:
        ValueError: there is no such action.

    >>> from types import SimpleNamespace
    >>> model = SimpleNamespace(actions=("like",))
    >>> auc_validator(model, SimpleNamespace(labels_EKA=np.ones((3, 1, 1))), np.zeros((1, 1)))
    Traceback (most recent call last):
    ...
    ValueError: validation has one outcome only: give events of both
    """
    labels_XA = examples.labels_EKA.reshape(-1, len(model.actions))
    told = [at for at, labels_X in enumerate(labels_XA.T) if {0.0, 1.0} <= {*labels_X.tolist()}]
    if not told:
        raise ValueError("validation has one outcome only: give events of both")

    def validate() -> float:
        logits_XA = predict(model, examples, items_NS).reshape(labels_XA.shape)
        known_XA = np.isfinite(labels_XA)
        columns = ((labels_XA[known_XA[:, at], at], logits_XA[known_XA[:, at], at]) for at in told)
        return float(np.mean([auc(*column) for column in columns]))

    return validate


class _Run:
    """One training run between its epochs."""

    def __init__(
        self,
        model: CTRModel,
        draw: Callable[[np.random.Generator], Examples],
        items_NS: NDArray[np.integer],
        settings: CTRSettings,
    ) -> None:
        self.model, self.draw, self.settings = model, draw, settings
        self.items = torch.from_numpy(np.asarray(items_NS, np.int64))
        self.average = self.weights()
        self.seconds, self.steps = 0.0, 0
        self.optimizer = _optimizer(model, settings)

    def weights(self) -> dict[str, Tensor]:
        """Return a copy of the model's weights."""
        return {name: tensor.clone() for name, tensor in self.model.state_dict().items()}

    def in_time(self) -> bool:
        """Return whether there is training time left."""
        return self.settings.minutes is None or self.seconds < 60 * self.settings.minutes

    def judged(self, validate: Callable[[], float]) -> float:
        """Return the validation score of the average of the weights."""
        weights = self.weights()
        self.model.load_state_dict(self.average)
        score = validate()
        self.model.load_state_dict(weights)
        return score

    @repeatable()
    def epoch(self, number: int) -> dict[str, float]:
        """Return the figures of one pass over the examples."""
        started = time.perf_counter()
        rng = np.random.default_rng([self.settings.seed, number])
        torch.manual_seed(int(rng.integers(2**31)))
        self.model.train()
        train, size = self.draw(rng), self.settings.batch_size
        if not len(train):
            raise ValueError("there is no example to learn from: give events")
        order = rng.permutation(len(train))
        losses = [self._step(train, order[at : at + size]) for at in range(0, len(order), size)]
        seconds = time.perf_counter() - started
        self.seconds += seconds
        loss = round(float(np.mean(losses)), 5)
        return {"epoch": number, "loss": loss, "seconds": round(seconds, 2)}

    def _step(self, train: Examples, chosen_B: NDArray[np.int64]) -> float:
        logits = _logits(self.model, train, chosen_B, self.items)
        labels = torch.from_numpy(train.labels_EKA[chosen_B])
        known = ~labels.isnan()
        losses = functional.binary_cross_entropy_with_logits(
            logits[known], labels[known], reduction="sum"
        )
        count = max(1, int(known.sum()))
        # The constants of FTRL are those of single examples.
        alone = self.model.optimizer == "ftrl"
        loss = losses if alone else losses / count + self._size(train, chosen_B)
        self.optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()
        self._follow()
        return losses.item() / count

    def _size(self, train: Examples, chosen_B: NDArray[np.int64]) -> Tensor:
        """Return the penalty of the vectors that some examples look up, by their items."""
        rows_BK = torch.from_numpy(train.rows_EK[chosen_B].astype(np.int64))
        ids_BS = torch.from_numpy(train.requests_ES[chosen_B].astype(np.int64))
        table, items_BKS = self.model.vectors.table, self.items[rows_BK]
        squares: Tensor = table(ids_BS).square().sum() * rows_BK.shape[1]
        squares = squares + table(items_BKS).square().sum()
        return self.settings.l2 * squares / rows_BK.numel()

    @torch.no_grad()
    def _follow(self) -> None:
        """Move the average towards the weights, faster while there are few steps to average."""
        self.steps += 1
        decay = min(self.settings.average_decay, (1 + self.steps) / (10 + self.steps))
        if self.model.optimizer == "ftrl":
            decay = 0.0  # its weights are where all examples so far have led
        weights = self.model.state_dict()
        for name, average in self.average.items():
            average.lerp_(weights[name], 1 - decay)


def _optimizer(model: CTRModel, settings: CTRSettings) -> Optimizer:
    rate = model.learning_rate if settings.learning_rate is None else settings.learning_rate
    if model.optimizer == "ftrl":
        return FTRL(
            model.parameters(),
            alpha=rate,
            beta=settings.ftrl_beta,
            l1=settings.ftrl_l1,
            l2=settings.ftrl_l2,
        )
    return AdamW(model.parameters(), lr=rate, weight_decay=settings.weight_decay)


def _logits(
    model: CTRModel, examples: Examples, chosen_B: NDArray[np.int64], items: Tensor
) -> Tensor:
    """Return the logits (B, K, A) of some examples."""
    history_BL, length_B = examples.past.newest(chosen_B, max(1, model.layout.history))
    inputs = (
        examples.requests_ES[chosen_B].astype(np.int64),
        history_BL,
        length_B,
        examples.rows_EK[chosen_B].astype(np.int64),
    )
    logits_BKA: Tensor = model(*map(torch.from_numpy, inputs), items)
    return logits_BKA
