"""Splits: who is predicted from what; and the order of ties, by the hash of ML-1M's test items."""

from __future__ import annotations

import gzip
import hashlib
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ouzel.data import read
from ouzel.data.encode import Encoded, encode
from ouzel.data.split import Split, Targets, leave_one_out, temporal
from ouzel.events.interactions import History, Interactions, from_histories
from tests.data.sources import public

# Of "user item\n" lines of all 6,040 users, sorted as texts.
TEST_ITEMS = "b8f37be41b60892751cea5c127bdf125e17eef1b9f1f7772e5e67bcecacf4827"
VALIDATION_ITEMS = "0e67fe2c197cce78d9c5c597576e45a748807479a239eb1bf2f856ecdc4395a3"

HISTORIES = st.lists(
    st.lists(st.tuples(st.integers(1, 9), st.integers(0, 20)), max_size=8), min_size=1, max_size=8
)


def interactions(users: Sequence[Sequence[tuple[int, int]]]) -> Interactions:
    ordered = [sorted(events, key=lambda event: event[1]) for events in users]
    return from_histories(
        [
            History(
                np.array([row for row, _ in events], np.int32),
                np.array([time for _, time in events], np.int64),
            )
            for events in ordered
        ],
        num_rows=10,
    )


@given(HISTORIES)
def test_leave_one_out(users: list[list[tuple[int, int]]]) -> None:
    full = interactions(users)
    split = leave_one_out(full)
    assert split.full is full
    long = [user for user in range(full.num_users) if len(full.history(user)) >= 3]
    assert split.test.users_T.tolist() == split.validation.users_T.tolist() == long
    for target, user in enumerate(long):
        rows = full.history(user).rows
        assert full.rows_E[split.test.ends_T[target]] == rows[-1]
        assert full.rows_E[split.validation.ends_T[target]] == rows[-2]
        assert split.test.history(full, target).rows.tolist() == rows[:-1].tolist()
        assert split.validation.history(full, target).rows.tolist() == rows[:-2].tolist()
    for user in range(full.num_users):
        rows = full.history(user).rows
        expected = rows[:-2] if user in long else rows
        assert split.train.history(user).rows.tolist() == expected.tolist()
    assert (split.train.times_ms_E < split.cut_off_ms).all()
    assert split.train.num_rows == full.num_rows


@given(HISTORIES.filter(any), st.floats(0.1, 0.9), st.floats(0.1, 0.9))
def test_temporal(users: list[list[tuple[int, int]]], one: float, other: float) -> None:
    first, second = sorted((one, other))
    full = interactions(users)
    split = temporal(full, validation_from=first, test_from=second)
    later = full.times_ms_E[full.times_ms_E >= split.cut_off_ms]
    assert len(split.test) + split.test.num_excluded == len(later)
    # Nobody trains on, or is selected by, what happens at or after the first target.
    windows = (split.train.times_ms_E, times_of(full, split.validation), times_of(full, split.test))
    filled = [window for window in windows if len(window)]
    for before, after in pairwise(filled):
        assert before.max() < after.min()
    counts = [len(window) for window in windows]
    excluded = split.validation.num_excluded + split.test.num_excluded
    assert sum(counts) + excluded == len(full)
    for targets in (split.validation, split.test):
        for target in range(len(targets)):
            history = targets.history(full, target)
            assert len(history)
            assert history.times_ms[-1] <= full.times_ms_E[targets.ends_T[target]]
            user = targets.users_T[target]
            whole = full.history(int(user)).rows
            assert whole[: len(history)].tolist() == history.rows.tolist()
            assert whole[len(history)] == full.rows_E[targets.ends_T[target]]


def times_of(full: Interactions, targets: Targets) -> np.ndarray:
    return full.times_ms_E[targets.ends_T]


def test_users_who_begin_in_a_window_are_counted() -> None:
    full = interactions([[(1, 0), (2, 1), (3, 2), (4, 3)], [(1, 9)], [(2, 9), (3, 9)]])
    split = temporal(full, validation_from=0.5, test_from=0.6)
    assert split.cut_off_ms == 9
    assert split.test.users_T.tolist() == [2]
    assert split.test.num_excluded == 2
    assert split.test.history(full, 0).rows.tolist() == [2]


@pytest.mark.parametrize("shares", [(0.9, 0.8), (0.0, 0.5), (0.5, 1.0), (float("nan"), 0.9)])
def test_shares_must_be_in_order(shares: tuple[float, float]) -> None:
    full = interactions([[(1, 0)]])
    with pytest.raises(ValueError, match="give shares of the events"):
        temporal(full, validation_from=shares[0], test_from=shares[1])


def test_nothing_cannot_be_split_by_time() -> None:
    with pytest.raises(ValueError, match="no events to split"):
        temporal(interactions([[]]))


def item_hash(encoded: Encoded, targets: Targets) -> str:
    users, items = encoded.user_ids.to_list(), encoded.item_ids.to_list()
    rows = encoded.interactions.rows_E[targets.ends_T]
    lines = [
        f"{users[user]} {items[row - 1]}\n" for user, row in zip(targets.users_T, rows, strict=True)
    ]
    return hashlib.sha256("".join(sorted(lines)).encode()).hexdigest()


@pytest.fixture(scope="module")
def frame() -> pl.DataFrame:
    return read(public("ml-1m"), strict=True).frame


def test_the_test_items_of_ml_1m(frame: pl.DataFrame) -> None:
    encoded = encode(frame)
    split = leave_one_out(encoded.interactions)
    assert len(split.test) == 6040
    assert item_hash(encoded, split.test) == TEST_ITEMS
    assert item_hash(encoded, split.validation) == VALIDATION_ITEMS


def test_ties_in_another_order_change_the_test_items(frame: pl.DataFrame) -> None:
    # Planted: what a sort that does not keep the order of the file may do.
    encoded = encode(frame.reverse())
    assert item_hash(encoded, leave_one_out(encoded.interactions).test) != TEST_ITEMS


def test_the_order_of_ml_1m_is_that_of_an_independent_file(frame: pl.DataFrame) -> None:
    folder = public("ml-1m")
    users = pairs_of(folder / "sas_to_original_users.txt")
    items = pairs_of(folder / "sas_to_original_items.txt")
    expected: dict[str, list[str]] = {}
    with gzip.open(folder / "sasrec_ml-1m.txt.gz", "rt") as stream:
        for line in stream:
            user, item = line.split()
            expected.setdefault(users[user], []).append(items[item])
    encoded = encode(frame)
    kept = set(items.values())
    names = encoded.item_ids.to_list()
    assert len(encoded.user_ids) == len(expected) == 6040
    for position, user in enumerate(encoded.user_ids):
        rows = encoded.interactions.history(position).rows
        mine = [name for row in rows if (name := names[row - 1]) in kept]
        assert mine == expected[user]


def pairs_of(path: Path) -> dict[str, str]:
    return dict(line.split() for line in path.read_text().splitlines())


def test_the_newest_tenth_of_ml_1m(frame: pl.DataFrame) -> None:
    split: Split = temporal(encode(frame).interactions)
    full = split.full
    late = np.flatnonzero(full.times_ms_E >= split.cut_off_ms)
    users = np.unique(np.searchsorted(full.offsets_U1, late, side="right") - 1)
    known = [user for user in users if full.history(user).times_ms[0] < split.cut_off_ms]
    assert (len(users), len(known)) == (1209, 1181)
    assert split.test.num_excluded == 1209 - 1181
