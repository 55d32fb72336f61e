"""Data as bad as people have it, fed to every model: a result with a word of what was done, or a
ValueError with the remedy, and never anything else."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from ouzel import Recommender
from ouzel.data.read import from_arrow
from ouzel.events.log import EventLog
from ouzel.events.types import ItemUpdate
from ouzel.models.registry import MODELS, kind_of, model_named
from ouzel.recommender import train
from ouzel.recommender.evaluate import compare
from ouzel.recommender.home import Home
from ouzel.recommender.options import Silent, TrainOptions
from ouzel.recommender.train import import_dataset
from ouzel.training.validation import torch_scorer
from tests.models.every import SETTINGS

NAMES = [model.name for model in MODELS]
WHOLE = [name for name in NAMES if kind_of(model_named(name)) != "sequence"]
"""Models that are trained, exported and asked within a second."""

TINY: dict[str, dict[str, Any]] = {
    "esasrec": {"num_heads": 2, "num_layers": 1},
    **SETTINGS,
    "bpr": {"dim": 8, "epochs": 4},
    "fpmc": {"dim": 8, "epochs": 4},
    "ials": {"dim": 8, "epochs": 2},
    "lightgcn": {"dim": 8, "epochs": 2},
    "svd": {"dim": 2, "epochs": 4, "samples": 2},
    "svdpp": {"dim": 2, "epochs": 4, "samples": 2},
}
SPARSE_ITEMS = 2_000

Frame = pl.DataFrame


def frame(users: Any, items: Any, times: Any, **columns: Any) -> Frame:
    names = {"user_id": [f"u{one}" for one in users], "item_id": [f"i{one}" for one in items]}
    return pl.DataFrame({**names, "timestamp": list(times), **columns})


def one_item() -> Frame:
    return frame(np.repeat(range(12), 4), [0] * 48, range(1_000, 1_048))


def one_user() -> Frame:
    return frame([0] * 12, range(12), range(1_000, 1_012))


def equal_times() -> Frame:
    rng = np.random.default_rng(0)
    return frame(np.repeat(range(20), 6), rng.integers(0, 15, 120), [1_000] * 120)


def single_events() -> Frame:
    return frame(range(30), np.arange(30) % 7, range(1_000, 1_030))


def repeats() -> Frame:
    items = np.concatenate([np.repeat([n, n + 1, n + 2], 20) for n in range(20)])
    return frame(np.repeat(range(20), 60), items, range(1_000, 2_200))


def exact_duplicates() -> Frame:
    rng = np.random.default_rng(0)
    events = frame(np.repeat(range(20), 5), rng.integers(0, 15, 100), range(1_000, 1_100))
    return pl.concat([events] * 10)


def some_values_nan() -> Frame:
    rng = np.random.default_rng(0)
    values = np.where(np.arange(120) % 4, 3.0, np.nan)
    return frame(np.repeat(range(20), 6), rng.integers(0, 15, 120), range(120), value=values)


def all_values_nan() -> Frame:
    return frame(np.repeat(range(20), 6), range(120), range(120), value=[math.nan] * 120)


def two_events_each() -> Frame:
    """No user has three events, so none is left to validate or to test on."""
    return frame(np.repeat(range(20), 2), np.arange(40) % 9, range(1_000, 1_040))


def ten_events() -> Frame:
    """The newest of a large catalogue: see `put_items`."""
    items = SPARSE_ITEMS - 1 - np.arange(10) % 4
    return frame([0, 0, 0, 0, 1, 1, 1, 2, 2, 2], items, range(1_000, 1_010))


@dataclass(frozen=True)
class Case:
    """Data; what is said if a model makes something of it, and what if it refuses; None: neither
    may be."""

    data: Callable[[], Frame]
    told: str | None
    refused: str | None = None
    split: str = "leave-one-out"


CASES = {
    "one item": Case(one_item, "nothing to choose from", "there is one: add items"),
    "one user": Case(one_user, "All events are of one user"),
    "equal times": Case(equal_times, "in the order in which they came"),
    "equal times, by time": Case(equal_times, None, "split leave-one-out", split="temporal"),
    "histories of 1": Case(single_events, "No user has two events", "add data with histories"),
    "repeats": Case(repeats, "95% of the events repeat"),
    "duplicates": Case(exact_duplicates, "dropped 900 duplicate"),
    "some NaN": Case(some_values_nan, "dropped 30 out of range"),
    "all NaN": Case(all_values_nan, None, "give a finite number"),
    "no validation": Case(two_events_each, "Nothing to test on"),
    "few events": Case(ten_events, "Only 4 of 2,000 items have an event"),
}


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let sequence models train for two epochs at most."""
    usual = train.settings_for
    monkeypatch.setattr(train, "EPOCHS_WITHOUT_VALIDATION", 1)
    monkeypatch.setattr(
        train, "settings_for", lambda *told: replace(usual(*told), epochs=2, validate_every=1)
    )


def put_items(home: Path) -> None:
    """Put a catalogue into the home that nobody has touched yet."""
    with EventLog.open(home / "events.db") as log:
        log.append(
            [
                ItemUpdate(event_id=f"e{n}", timestamp_ms=1, item_id=f"i{n}", columns={})
                for n in range(SPARSE_ITEMS)
            ]
        )


def options_of(name: str, case: Case) -> TrainOptions:
    small = {"dim": 16, "window": 8} if kind_of(model_named(name)) == "sequence" else {}
    return TrainOptions(model=name, split=case.split, settings={**small, **TINY.get(name, {})})


class Told(Silent):
    def __init__(self) -> None:
        self.texts: list[str] = []

    def warn(self, text: str) -> None:
        self.texts.append(text)


def events_of(name: str, case: Case) -> Frame:
    """Return the data of a case, with ratings if a model of ratings is to learn from it."""
    events = case.data()
    if kind_of(model_named(name)) != "rating" or "value" in events.columns:
        return events
    numbers = [pl.col(id_).str.slice(1).cast(pl.Int64) for id_ in ("user_id", "item_id")]
    return events.with_columns(value=(numbers[0] + numbers[1]) % 5 + 1)


def whole(name: str, case: Case, home: Path) -> list[str]:
    """Return what a person is told who trains and asks a model; its figures are numbers."""
    options = options_of(name, case)
    recommender = Recommender(home, model=name)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        recommender.fit(events_of(name, case), split=options.split, settings=options.settings)
    asked = recommender.recommend(["u0", "nobody"], k=5)
    assert np.isfinite(asked["score"].to_numpy()).all()
    assert asked.group_by("user_id").len()["len"].max() in (None, *range(1, 6))
    check(Home(home).current().manifest.metrics)
    return [str(warning.message) for warning in caught]


def fitted(name: str, case: Case, home: Path) -> list[str]:
    """Return what is told of the training of a sequence model without its export."""
    options, progress = options_of(name, case), Told()
    dataset = from_arrow(case.data())
    if dataset.report.dropped:
        progress.warn(str(dataset.report))
    with Home(home).log() as log:
        train.import_dataset(log, dataset, progress)
    monkey = pytest.MonkeyPatch()
    with monkey.context() as patched:
        patched.setattr(train, "_train_sequence", _without_export)
        patched.setattr("ouzel.bundle.store.BundleStore.promote", lambda self, digest: None)
        check(train.train_home(Home(home), options, progress).rows)
    return progress.texts


def _without_export(home, split, interactions, options, provenance, progress):
    model, result = train.fit_split(home, split, options, progress)
    scorer = torch_scorer(model, max_length=model.config.window)
    rows = compare({model.name: scorer}, split, name=options.split, progress=progress)
    return train.Trained(_NoBundle(), rows, result)


class _NoBundle:
    digest = ""


def check(rows: list[dict[str, Any]]) -> None:
    for row in rows:
        figures = [value for name, value in row.items() if "@" in name]
        assert figures and all(math.isfinite(value) for value in figures), row


def ended(run: Callable[..., list[str]], name: str, case: Case, home: Path) -> None:
    home.mkdir()
    if case.data is ten_events:
        put_items(home)
    if case.told is None:
        with pytest.raises(ValueError, match=case.refused):
            run(name, case, home)
        return
    try:
        told = run(name, case, home)
    except ValueError as refused:
        alike = case.data is some_values_nan and "tells no item from another" in str(refused)
        assert alike or (case.refused is not None and case.refused in str(refused))
    else:
        assert any(case.told in text for text in told), told


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("name", WHOLE)
def test_models_without_states(name: str, case: str, tmp_path: Path) -> None:
    ended(whole, name, CASES[case], tmp_path / "home")


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("name", [name for name in NAMES if name not in WHOLE])
def test_sequence_models(name: str, case: str, tmp_path: Path) -> None:
    ended(fitted, name, CASES[case], tmp_path / "home")


@pytest.mark.parametrize("case", ["one user"])
def test_the_backbone_with_its_graphs(case: str, tmp_path: Path) -> None:
    ended(whole, "esasrec", CASES[case], tmp_path / "home")


def test_events_without_times_are_told_of() -> None:
    told = Told()
    untimed = from_arrow(pl.DataFrame({"user_id": ["u", "u"], "item_id": ["a", "b"]}))
    train.cleaned(untimed, TrainOptions(), told)
    (line,) = told.texts
    assert line.startswith("The events have no times") and "timestamp=COLUMN" in line
    timed = from_arrow(pl.DataFrame({"user_id": ["u"], "item_id": ["a"], "timestamp": [5]}))
    train.cleaned(timed, TrainOptions(), told)
    assert len(told.texts) == 1


def test_a_second_import_of_nothing_but_strange_items_is_told(tmp_path: Path) -> None:
    right = pl.DataFrame({"user_id": ["a", "a", "b"], "item_id": ["x", "y", "x"]})
    swapped = right.rename({"user_id": "item_id", "item_id": "user_id"})
    more = pl.DataFrame({"user_id": ["c", "c"], "item_id": ["x", "new"]})
    told: list[str] = []

    class Telling(Silent):
        def warn(self, text: str) -> None:
            told.append(text)

    with Home(tmp_path).log() as log:
        for frame, warned in ((right, 0), (right, 0), (more, 0), (swapped, 1)):
            import_dataset(log, from_arrow(frame), Telling())
            assert len(told) == warned
    assert "take a new home" in told[0]
