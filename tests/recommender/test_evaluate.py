"""The rows of a comparison: the model first, its lead paired with the best baseline."""

from __future__ import annotations

import numpy as np
import pytest

from ouzel.data.split import leave_one_out
from ouzel.evaluation.baselines import baseline_scorers
from ouzel.events.interactions import History, from_histories
from ouzel.recommender.evaluate import compare
from ouzel.recommender.options import Silent

NUM_ROWS = 31
LENGTH = 6


@pytest.fixture
def split():
    rng = np.random.default_rng(0)
    times = np.arange(LENGTH)
    visits = [
        History(rng.permutation(np.arange(1, NUM_ROWS))[:LENGTH].astype(np.int32), times)
        for _ in range(60)
    ]
    return leave_one_out(from_histories(visits, num_rows=NUM_ROWS))


def oracle(split, *, right=1.0):
    """Return a scorer that puts the target first for a share `right` of the users."""
    answers = {
        tuple(split.full.rows_E[start : start + LENGTH - 1]): split.full.rows_E[start + LENGTH - 1]
        for start in split.full.offsets_U1[:-1]
    }
    wise = {known for place, known in enumerate(answers) if place < right * len(answers)}

    def score(histories, now_ms):
        scores_BN = np.tile(np.arange(NUM_ROWS, dtype=np.float32), (len(histories), 1))
        for line, history in enumerate(histories):
            known = tuple(history.rows)
            scores_BN[line, answers[known]] = 99.0 if known in wise else -99.0
        return scores_BN

    return score


def compared(split, scorer):
    return compare({"ours": scorer}, split, name="leave-one-out", progress=Silent())


def test_the_lead_is_over_the_best_baseline(split):
    ours, *baselines = compared(split, oracle(split))
    best = max(baselines, key=lambda row: row["ndcg@10"])
    assert (ours["model"], ours["best_baseline"]) == ("ours", best["model"])
    assert ours["ndcg@10_lead"] == pytest.approx(ours["ndcg@10"] - best["ndcg@10"])
    assert 0 < ours["ndcg@10_lead_low"] < ours["ndcg@10_lead"] < ours["ndcg@10_lead_high"]
    assert not any("ndcg@10_lead" in row for row in baselines)


def test_a_model_that_knows_nothing_trails(split):
    ours = compared(split, oracle(split, right=0.0))[0]
    assert ours["ndcg@10_lead_high"] < 0


def test_a_model_as_good_as_a_baseline_does_not_lead_for_sure(split):
    best = compared(split, oracle(split))[0]["best_baseline"]
    ours = compared(split, baseline_scorers(split.train)[best])[0]
    assert ours["ndcg@10_lead_low"] == ours["ndcg@10_lead_high"] == 0


def test_without_a_test_part_there_are_no_rows_and_it_is_said():
    told = []

    class Telling(Silent):
        def say(self, text):
            told.append(text)

    once = History(np.array([1], np.int32), np.array([10]))
    split = leave_one_out(from_histories([once], num_rows=2))
    assert compare({"m": oracle}, split, name="leave-one-out", progress=Telling()) == []
    assert told == ["Nothing to test on: no user has events in the test part"]
