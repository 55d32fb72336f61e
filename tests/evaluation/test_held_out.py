"""One list for each user against a set of items, by the definitions written out."""

from __future__ import annotations

import math

import numpy as np
import pytest

from ouzel.evaluation.held_out import REACH, HeldOut, evaluate_lists
from ouzel.events.interactions import History, from_histories

NUM_ROWS = 400


def train_of(*lines):
    histories = [History(np.array(line, np.int32), np.arange(len(line))) for line in lines]
    return from_histories(histories, num_rows=NUM_ROWS)


def held(*lines, users=None):
    lengths = [len(line) for line in lines]
    rows = np.array([row for line in lines for row in line], np.int32)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    return HeldOut(np.arange(len(lines)) if users is None else np.array(users), offsets, rows)


def descending(histories, now_ms):
    """Row 1 is best for everybody, then row 2 and so on."""
    return np.tile(-np.arange(NUM_ROWS, dtype=np.float32), (len(histories), 1))


def row_of(train, held_out, **options):
    return evaluate_lists(descending, train, held_out, model="m", **options).row({})


def test_recall_and_ndcg_are_the_definitions():
    # Row 1 is seen, so the list is 2, 3, 4, ...: rows 3 and 6 are second and fifth in it.
    row = row_of(train_of([1]), held([3, 6, 300]), k=5)
    gained = 1 / math.log2(3) + 1 / math.log2(6)
    assert row["recall@5"] == pytest.approx(2 / 3)
    assert row["ndcg@5"] == pytest.approx(gained / (1 + 1 / math.log2(3) + 1 / math.log2(4)))
    assert row["ndcg@5_kgat"] == pytest.approx(gained / (1 + 1 / math.log2(3)))
    assert row["hit_rate@5"] == 1


def test_the_ideal_list_is_no_longer_than_the_list():
    row = row_of(train_of([1]), held([2, 3, 4, 5]), k=2)
    assert row["ndcg@2"] == row["ndcg@2_kgat"] == pytest.approx(1) and row["recall@2"] == 0.5


def test_kgat_takes_for_ideal_what_it_finds_in_the_first_hundred():
    near, far = 1 + REACH, 2 + REACH  # the last row of the reach, the first beyond it
    assert row_of(train_of([1]), held([2, near]), k=5)["ndcg@5_kgat"] < 1
    assert row_of(train_of([1]), held([2, far]), k=5)["ndcg@5_kgat"] == 1
    assert row_of(train_of([1]), held([far]), k=5)["ndcg@5_kgat"] == 0


def test_means_are_over_users_and_parts_over_items():
    report = evaluate_lists(
        descending, train_of([9], [9], [9]), held([1], [2, 300, 301]), model="m", k=5, batch_size=1
    )
    parts = {"warm": np.array([1, 1, 0, 0], bool), "cold": np.array([0, 0, 1, 1], bool)}
    row = report.row({**parts, "cold_user": np.zeros(4, bool)})
    assert row["recall@5"] == pytest.approx((1 + 1 / 3) / 2)
    assert (row["recall@5_warm"], row["recall@5_cold"]) == (1, 0)
    assert row["num_cold_user"] == 0 and "recall@5_cold_user" not in row
    assert (row["num_users"], row["num_targets"]) == (2, 4)


def test_what_was_seen_or_is_unknown_is_never_found():
    row = row_of(train_of([1, 2]), held([1, 0, 3]), k=5)
    assert row["recall@5"] == pytest.approx(1 / 3)


def test_scorers_are_told_the_history_of_the_very_user():
    asked = []

    def scorer(histories, now_ms):
        asked.extend(zip(histories, now_ms.tolist(), strict=True))
        return descending(histories, now_ms)

    evaluate_lists(scorer, train_of([1], [2, 3], [4]), held([5], [6], users=[1, 2]), model="m")
    assert [history.rows.tolist() for history, _ in asked] == [[2, 3], [4]]
    assert {now for _, now in asked} == {2}


def test_nothing_held_out_is_refused():
    with pytest.raises(ValueError, match="nothing was held out"):
        row_of(train_of([1]), held())
