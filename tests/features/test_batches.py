from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from ouzel.events.interactions import History, Interactions, from_histories
from ouzel.features.batches import pad_histories, training_batches, training_windows


def interactions_of(lengths: list[int]) -> Interactions:
    histories = []
    for user, length in enumerate(lengths):
        rows = np.arange(1, length + 1, dtype=np.int32)
        histories.append(History(rows, np.arange(length, dtype=np.int64) + 1000 * user))
    return from_histories(histories, num_rows=max(lengths, default=0) + 1)


@settings(max_examples=60, deadline=None)
@given(
    lengths=st.lists(st.integers(0, 60), min_size=1, max_size=8),
    max_length=st.integers(1, 25),
    seed=st.integers(0, 5),
)
def test_every_event_but_the_first_is_a_target_or_next_to_a_cut(
    lengths: list[int], max_length: int, seed: int
) -> None:
    interactions = interactions_of(lengths)
    windows = training_windows(interactions, max_length=max_length, rng=np.random.default_rng(seed))
    assert ((windows[:, 1] - windows[:, 0]) <= max_length).all()
    covered = np.zeros(len(interactions), bool)
    for start, stop in windows:
        user = np.searchsorted(interactions.offsets_U1, start, side="right") - 1
        assert stop < interactions.offsets_U1[user + 1]
        covered[start + 1 : stop + 1] = True
    firsts = interactions.offsets_U1[:-1][interactions.lengths_U() > 0]
    covered[firsts] = True
    assert covered.all()


def test_batches_hold_each_window_once_with_its_next_event() -> None:
    interactions = interactions_of([5, 2, 9, 1, 0, 30])
    rng = np.random.default_rng(0)
    windows = training_windows(interactions, max_length=8, rng=rng)
    seen = []
    for batch in training_batches(interactions, windows, tokens=16, rng=rng):
        assert batch.rows_BL.size <= 16 or len(batch.rows_BL) == 1
        real = batch.targets_BL > 0
        np.testing.assert_array_equal(batch.targets_BL[real], batch.rows_BL[real] + 1)
        np.testing.assert_array_equal(batch.request_times_BL[real], batch.times_BL[real] + 1)
        assert (batch.rows_BL[~real] == 0).all()
        seen += [(row[0], int((row > 0).sum())) for row in batch.rows_BL]
    expected = [(interactions.rows_E[start], stop - start) for start, stop in windows]
    assert sorted(seen) == sorted(expected)


def test_batches_waste_little_on_padding() -> None:
    rng = np.random.default_rng(1)
    interactions = interactions_of(rng.integers(2, 60, 400).tolist())
    windows = training_windows(interactions, max_length=50, rng=rng)
    batches = list(training_batches(interactions, windows, tokens=1024, rng=rng))
    real = sum(int((batch.targets_BL > 0).sum()) for batch in batches)
    assert real / sum(batch.rows_BL.size for batch in batches) > 0.8


def test_the_same_seed_gives_the_same_batches() -> None:
    interactions = interactions_of([40, 3, 17])

    def rows(seed: int) -> list[list[list[int]]]:
        rng = np.random.default_rng(seed)
        windows = training_windows(interactions, max_length=6, rng=rng)
        found = training_batches(interactions, windows, tokens=24, rng=rng)
        return [batch.rows_BL.tolist() for batch in found]

    assert rows(3) == rows(3)
    assert rows(3) != rows(4)


def test_padding_an_empty_history() -> None:
    empty = History(np.empty(0, np.int32), np.empty(0, np.int64))
    assert pad_histories([empty]).length_B.tolist() == [0]


def padding_share(lengths: list[int], *, max_length: int, tokens: int) -> float:
    interactions, rng = interactions_of(lengths), np.random.default_rng(0)
    windows = training_windows(interactions, max_length=max_length, rng=rng)
    sizes = [
        (batch.rows_BL.size, int((batch.targets_BL > 0).sum()))
        for batch in training_batches(interactions, windows, tokens=tokens, rng=rng)
    ]
    return 1 - sum(real for _, real in sizes) / sum(size for size, _ in sizes)


def test_short_and_long_histories_waste_less_than_a_fifth() -> None:
    """Lengths as in a shop (most below ten) and as in a film club (most in the hundreds)."""
    rng = np.random.default_rng(3)
    short = (3 + rng.geometric(0.25, 3000)).tolist()
    long = (20 + rng.geometric(0.007, 600)).tolist()
    assert padding_share(short, max_length=50, tokens=1024) < 0.1
    assert padding_share(long, max_length=200, tokens=6400) < 0.1


def test_groups_differ_between_epochs_though_all_lengths_are_equal() -> None:
    interactions, rng = interactions_of([5] * 200), np.random.default_rng(0)
    windows = training_windows(interactions, max_length=9, rng=rng)

    def groups() -> set[frozenset[int]]:
        batches = training_batches(interactions, windows, tokens=40, rng=rng)
        return {frozenset(batch.times_BL[:, 0].tolist()) for batch in batches}

    assert len(groups() & groups()) == 0
