"""What a training may be told, checked before anything is read or written."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import Any, Protocol

SPLIT_NAMES = ("leave-one-out", "temporal", "none")
STATE_PRECISIONS = ("auto", "fp32", "fp16", "int8")


@dataclass(frozen=True, kw_only=True)
class TrainOptions:
    """How to train.

    Raises:
        ValueError: an unknown name (the message suggests the nearest), or no time to train in.
    """

    model: str = "esasrec"
    """Which model, by its name in `ouzel.models.registry`; `ouzel models` lists them."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    """Fields of the model's config that are not as in its preset, such as `{"dim": 128}`; of a
    sequence model also how it is fitted, such as `{"loss": "gbce"}` (`ouzel.training.fit.TOLD`)."""
    preset: str = "S"
    """Its size: S (dim 64, 2 layers), M (128, 4) or L (256, 4) over 200 events, or XL (512, 8) over
    512."""
    split: str = "temporal"
    """What is held out: the newest tenth by time, each user's last two events, or nothing: no epoch
    is chosen and nothing is measured then."""
    refit: bool = False
    """Train once more on everything, for as many epochs as were best, and serve that."""
    ranker: bool = False
    """Train a ranker on the model's states, which puts its best 500 items in a better order."""
    blend: bool | None = None
    """Learn on the validation part how to weigh the model's list with those of session neighbours
    and of what is popular, and serve that where it is better there; None: where it can be."""
    ctr: str | None = None
    """Train this model of fields (`ouzel.models.ctr`) too, which orders the best 500 items of any
    model by the fields of items and by what who asks did; None: none."""
    min_value: float | None = None
    """Import ratings of at least this, as likes, and events without one; None takes all as is."""
    k_core: int | None = None
    """Import only users and items that have this many events among each other; None takes all."""
    minutes: float | None = None
    """At most this much time for each training: of the model, that of everything with `refit`, of
    a ranker or of a model of fields; None lets early stopping decide."""
    seed: int = 0
    """Of everything random."""
    state_precision: str = "auto"
    """How user states keep keys and values: fp32, fp16 (half the memory) or int8 (2/7 of it); auto
    takes the smallest that keeps 98 % of the ten best items and 99 % of NDCG@10."""

    def __post_init__(self) -> None:
        _check_name("split", self.split, SPLIT_NAMES)
        if self.blend and self.ranker:
            raise ValueError("a ranker orders what a blend would: leave blend or ranker out")
        if self.blend and self.ctr is not None:
            raise ValueError("a model of fields orders what a blend would: leave blend or ctr out")
        if self.refit and self.split == "none":
            raise ValueError("split none holds nothing out: leave refit out")
        if self.blend and self.split == "none":
            raise ValueError("a blend is learned from what is held out: take another split")
        _check_name("state_precision", self.state_precision, STATE_PRECISIONS)
        if self.k_core is not None and self.k_core < 1:
            raise ValueError(f"k_core is {self.k_core}: give 1 or more, or leave it out")
        if self.seed < 0:
            raise ValueError(f"seed is {self.seed}: give 0 or more")
        if self.min_value is not None and not math.isfinite(self.min_value):
            raise ValueError(f"min_value is {self.min_value}: give a number, or leave it out")
        if self.minutes is not None and not self.minutes > 0:
            raise ValueError(f"minutes is {self.minutes}: give more than 0, or leave it out")
        # Last, since models come with PyTorch: what else is wrong is told at once.
        _ = self.checked_settings
        self._check_kind()
        self._check_ctr()

    @property
    def blends(self) -> bool:
        """Return whether a blend is learned: as `blend` says, or else where nothing else orders
        lists and something is held out to learn it from.

        >>> TrainOptions().blends, TrainOptions(ranker=True).blends
        (True, False)
        """
        if self.blend is not None:
            return self.blend
        return not self.ranker and self.ctr is None and self.split != "none"

    @property
    def checked_settings(self) -> dict[str, Any]:
        """Return `settings` with values of the types that the model's config has.

        Raises:
            ValueError: the model, the preset or a setting is unknown, or a value does not fit.
        """
        from ouzel.models.registry import checked_settings, model_named

        of_fit, known = self.fit_settings, model_named(self.model)
        of_model = {name: value for name, value in self.settings.items() if name not in of_fit}
        return checked_settings(known, self.preset, of_model, beside=self._fit_names)

    @property
    def fit_settings(self) -> dict[str, Any]:
        """Return those of `settings` that say how a sequence model is fitted, such as its loss.

        Raises:
            ValueError: a value does not fit; of an unknown name the message suggests the nearest.
        """
        if not self._fit_names:
            return {}
        from ouzel.training.fit import told_settings

        return told_settings(self.settings)

    @property
    def _fit_names(self) -> tuple[str, ...]:
        from ouzel.models.registry import kind_of, model_named

        if kind_of(model_named(self.model)) != "sequence":
            return ()
        from ouzel.training.fit import TOLD

        return TOLD

    def _check_kind(self) -> None:
        from ouzel.models.protocols import SequenceEncoder
        from ouzel.models.registry import kind_of, model_named

        kind, known = kind_of(model_named(self.model)), model_named(self.model)
        if issubclass(known, SequenceEncoder):
            if self.ranker and not known.ranked:
                raise ValueError(f"no ranker can read the states of {self.model}: leave it out")
            return
        if self.ranker:
            raise ValueError(f"a ranker reads states, and {self.model} keeps none: leave it out")
        if self.state_precision != "auto":
            raise ValueError(
                f"state_precision is {self.state_precision!r}, and {self.model} keeps no states: "
                "leave it out"
            )
        if kind == "closed_form" and self.minutes is not None and self.ctr is None:
            raise ValueError(f"{self.model} is fitted at once: leave minutes out")

    def _check_ctr(self) -> None:
        if self.ctr is None:
            return
        from ouzel.models.registry import ctr_model_named

        ctr_model_named(self.ctr)
        if self.ranker:
            raise ValueError("a list has one order: give ranker or ctr, not both")
        if self.refit:
            raise ValueError(
                f"ctr is {self.ctr!r} and refit is on, and a model of fields is trained beside the "
                "test part only: leave one of them out"
            )


class Progress(Protocol):
    """What a training tells while it runs."""

    def say(self, text: str) -> None:
        """Take a line about what was found or done."""

    def warn(self, text: str) -> None:
        """Take a line about what is odd, and what was done about it."""

    def step(self, title: str) -> Callable[[int, int], None]:
        """Begin a part of the work; the result is told (done, total) as it goes on."""

    def epoch(self, row: dict[str, float]) -> None:
        """Take the figures of an epoch: epoch, loss, seconds, tokens_per_s, maybe ndcg@10."""


class Silent:
    """The progress of a training that nobody watches."""

    def say(self, text: str) -> None:
        """Take a line and drop it."""

    def warn(self, text: str) -> None:
        """Take a line about what is odd as any other."""
        self.say(text)

    def step(self, title: str) -> Callable[[int, int], None]:
        """Return a function that drops what it is told."""
        return lambda done, total: None

    def epoch(self, row: dict[str, float]) -> None:
        """Take the figures of an epoch and drop them."""


def _check_name(what: str, name: str, known: tuple[str, ...]) -> None:
    if name in known:
        return
    near = get_close_matches(name, known, n=1, cutoff=0.5)
    hint = f"did you mean {near[0]!r}?" if near else f"choose one of {', '.join(known)}"
    raise ValueError(f"there is no {what} {name!r}: {hint}")
