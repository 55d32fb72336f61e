"""Cold and warm targets: by the training part and by what came before, never by the test."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np

from ouzel.data.split import leave_one_out
from ouzel.evaluation.cold import COLD_ITEM_EVENTS, COLD_USER_EVENTS, PARTS, figures_of, parts_of
from ouzel.evaluation.metrics import ndcg
from ouzel.evaluation.protocol import Report, evaluate
from ouzel.events.interactions import History, from_histories
from ouzel.recommender.evaluate import compare
from ouzel.recommender.options import Silent

NUM_ROWS = 30


def visits(*lines):
    return from_histories(
        [History(np.array(line, np.int32), np.arange(len(line))) for line in lines],
        num_rows=NUM_ROWS,
    )


def last_of_each(full):
    return SimpleNamespace(users_T=np.arange(full.num_users), ends_T=full.offsets_U1[1:] - 1)


def test_an_item_is_cold_by_its_events_in_training_alone():
    full = visits(*[[*range(2, 2 + COLD_USER_EVENTS), 1]] * (COLD_ITEM_EVENTS + 3))
    for seen in (0, COLD_ITEM_EVENTS - 1, COLD_ITEM_EVENTS):
        train = visits(*[[1]] * seen)
        cold_T = parts_of(full, train, last_of_each(full))["cold_item"]
        assert cold_T.all() == cold_T.any() == (seen < COLD_ITEM_EVENTS)


def test_a_user_is_cold_by_what_came_before_the_target():
    full = visits([1] * 20, [1] * COLD_USER_EVENTS, [1] * (COLD_USER_EVENTS + 1))
    late = SimpleNamespace(users_T=np.array([0]), ends_T=full.offsets_U1[:1] + COLD_USER_EVENTS - 1)
    assert parts_of(full, full, late)["cold_user"].tolist() == [True]
    assert parts_of(full, full, last_of_each(full))["cold_user"].tolist() == [False, True, False]


def test_warm_and_cold_are_all_and_what_is_cold_for_both_reasons_counts_once():
    full = visits([1] * 8, [1, 2], [1] * 8 + [3], [1, 1])
    parts = parts_of(full, full, last_of_each(full))
    assert parts["cold_item"].tolist() == [False, True, True, False]
    assert parts["cold_user"].tolist() == [False, True, False, True]
    assert parts["cold"].tolist() == [False, True, True, True]
    assert (parts["warm"] ^ parts["cold"]).all() and set(parts) == set(PARTS)


def test_the_figures_of_the_parts_add_up_to_that_of_all():
    rng = np.random.default_rng(0)
    full = visits(*[rng.integers(1, NUM_ROWS, rng.integers(3, 12)) for _ in range(50)])
    split = leave_one_out(full)
    scores = rng.random(NUM_ROWS, np.float32)
    report = evaluate(
        lambda histories, now_ms: np.tile(scores, (len(histories), 1)),
        full,
        split.test,
        model="m",
    )
    row = figures_of(report, parts_of(full, split.train, split.test))
    assert 0 < row["num_cold"] < 50 and row["num_warm"] + row["num_cold"] == len(report.ranks_T)
    total = sum(row[f"num_{part}"] * row[f"ndcg@10_{part}"] for part in ("warm", "cold"))
    assert np.isclose(total, ndcg(report.ranks_T, 10).sum())


def test_of_a_part_without_targets_nothing_is_claimed():
    report = Report("m", "test", 10, np.arange(2), np.array([1, 2]), 0.5)
    row = figures_of(report, {"warm": np.ones(2, bool), "cold": np.zeros(2, bool)})
    assert row["num_cold"] == 0 and "ndcg@10_cold" not in row and row["mrr@10_warm"] == 0.75


def test_every_row_of_a_comparison_tells_both():
    full = visits(*[[1, 2, 3, 4, 5, 6, 7, 8]] * 6, [9, 10, 11])
    fixed = {"fixed": lambda histories, now_ms: np.zeros((len(histories), NUM_ROWS), np.float32)}
    rows = compare(fixed, leave_one_out(full), name="leave-one-out", progress=Silent())
    assert {(row["num_warm"], row["num_cold"]) for row in rows} == {(0, 7)}
    assert all("ndcg@10_cold" in row for row in rows) and len(rows) == 4
