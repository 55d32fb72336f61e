"""The benchmark's catalogue keeps the shape of the trained one, and its users behave alike."""

from __future__ import annotations

import numpy as np
import pytest

from ouzel.evaluation.workload import START_MS, cluster_centres, make_workload
from ouzel.events.log import EventLog


def work(**changed):
    sizes = {"num_items": 4000, "num_live": 60, "num_cold": 20, "length": 50, "seed": 3}
    return make_workload(cluster_centres(100, 16, seed=1), **{**sizes, **changed})


def test_the_same_seed_gives_the_same_workload():
    first, second, other = work(), work(), work(seed=4)
    assert np.array_equal(first.vectors_ND, second.vectors_ND)
    assert np.array_equal(first.histories_UL, second.histories_UL)
    assert not np.array_equal(first.histories_UL, other.histories_UL)


def test_noise_keeps_the_spread_of_each_dimension():
    parents = np.random.default_rng(0).normal(1.0, 2.0, (2001, 8)).astype(np.float32)
    vectors = make_workload(
        parents, num_items=50_000, num_live=1, num_cold=0, length=10, seed=0
    ).vectors_ND[1:]
    assert np.allclose(vectors.std(axis=0), parents[1:].std(axis=0), rtol=0.15)
    assert np.allclose(vectors.mean(axis=0), parents[1:].mean(axis=0), atol=0.5)


def test_items_of_one_parent_are_neighbours():
    parents = cluster_centres(50, 16, seed=1)
    items = make_workload(
        parents, num_items=2000, num_live=1, num_cold=0, length=10, seed=0
    ).vectors_ND[1:]
    unit = items / np.linalg.norm(items, axis=1, keepdims=True)
    nearest = np.sort(unit[:200] @ unit.T, axis=1)[:, -2]
    assert nearest.mean() > 0.8
    assert np.median(unit[:200] @ unit.T) < 0.5


def test_histories_hold_items_only_and_favour_a_few_parents():
    made = work()
    assert made.histories_UL.shape == (80, 50)
    assert made.histories_UL.min() >= 1
    assert made.histories_UL.max() <= made.num_items
    assert made.vectors_ND[0].tolist() == [0.0] * 16
    apart = work(num_items=40_000)
    unit = apart.vectors_ND / (np.linalg.norm(apart.vectors_ND, axis=1, keepdims=True) + 1e-9)
    own = [np.median(unit[rows] @ unit[rows].T) for rows in apart.histories_UL[:20]]
    mixed = np.median(unit[apart.histories_UL[:, 0]] @ unit[apart.histories_UL[:, 0]].T)
    assert np.mean(own) > mixed


def test_the_log_gives_the_histories_back_and_numbers_items_as_rows(tmp_path):
    made = work()
    with EventLog.open(tmp_path / "events.db") as log:
        log.import_frame(
            made.columns(slice(0, 0)), source_digest="b", items={"item_id": made.item_ids()}
        )
        for users in (slice(0, 30), slice(30, 80)):
            log.import_frame(made.columns(users), source_digest="b")
        assert log.catalog.row("i1") == 1
        assert log.catalog.row("i4000") == 4000
        for user in (0, 31, 79):
            history = log.history(log.user_row(user_id=f"u{user}"))
            assert history.rows.tolist() == made.histories_UL[user].tolist()
            assert history.times_ms.tolist() == made.times_ms(slice(user, user + 1))[0].tolist()
            assert history.times_ms[0] >= START_MS
        again = log.import_frame(made.columns(slice(0, 30)), source_digest="b")
        assert again.added == 0


def test_what_makes_no_workload_is_refused():
    with pytest.raises(ValueError, match="no rows but the padding"):
        make_workload(np.zeros((1, 4), np.float32), num_items=300, num_live=1, num_cold=1)
    with pytest.raises(ValueError, match="num_items 40 is less"):
        work(num_items=40)
