"""Metrics against trec_eval, the reference of the information-retrieval field."""

import numpy as np
import pytest
import pytrec_eval
from hypothesis import given, settings
from hypothesis import strategies as st

from ouzel.evaluation.metrics import (
    UNRANKED,
    coverage,
    ndcg,
    rank_and_top,
    recall,
    reciprocal_rank,
    unseen_scores,
)

NOTHING = np.empty(0, np.int32)


def ranks_of(scores, targets, seen):
    return rank_and_top(scores, targets, seen, k=1)[0]


def trec_values(scores, targets, seen, k):
    """Return recall@k, NDCG@k and MRR@k of each line, by trec_eval, seen items left out."""
    run, truth = {}, {}
    for line, (target, known) in enumerate(zip(targets, seen, strict=True)):
        shown = [row for row in range(1, scores.shape[1]) if row not in known]
        shown = sorted(shown, key=lambda row: -scores[line, row])[:k]
        run[str(line)] = {str(row): float(scores[line, row]) for row in shown}
        truth[str(line)] = {str(target): 1}
    wanted = {f"recall.{k}", f"ndcg_cut.{k}", "recip_rank"}
    found = pytrec_eval.RelevanceEvaluator(truth, wanted).evaluate(run)
    names = (f"recall_{k}", f"ndcg_cut_{k}", "recip_rank")
    return np.array([[found[str(line)][name] for name in names] for line in range(len(targets))])


@pytest.mark.parametrize("k", [1, 5, 10])
def test_equal_trec_eval(k):
    rng = np.random.default_rng(k)
    scores = rng.permuted(np.tile(np.arange(60, dtype=np.float32), (400, 1)), axis=1)
    seen = [rng.choice(np.arange(1, 60), 8, replace=False).astype(np.int32) for _ in range(400)]
    targets = rng.integers(1, 60, 400).astype(np.int32)
    ranks = ranks_of(scores, targets, seen)
    assert (ranks == UNRANKED).sum() > 10
    ours = np.stack([metric(ranks, k) for metric in (recall, ndcg, reciprocal_rank)], axis=1)
    np.testing.assert_allclose(ours, trec_values(scores, targets, seen, k), rtol=1e-6)


def test_ties_count_against_the_target():
    assert ranks_of(np.ones((1, 5), np.float32), np.array([3], np.int32), [NOTHING]) == [4]


def test_padding_never_outranks():
    scores = np.array([[99, 1, 2]], np.float32)
    assert ranks_of(scores, np.array([2], np.int32), [NOTHING]) == [1]


@pytest.mark.parametrize("target", [2, 4, 70])
def test_what_cannot_be_shown_is_unranked(target):
    scores = np.array([[0, 1, 2, 3, -np.inf]], np.float32)
    ranks = ranks_of(scores, np.array([target], np.int32), [np.array([2, 80], np.int32)])
    assert ranks == [UNRANKED]
    assert [metric(ranks, 10)[0] for metric in (recall, ndcg)] == [0, 0]
    assert reciprocal_rank(ranks, 10)[0] == 0


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), k=st.integers(1, 12))
def test_a_target_is_in_its_list_when_its_rank_says_so(seed, k):
    rng = np.random.default_rng(seed)
    scores = rng.normal(size=(1, 10)).astype(np.float32)
    seen = [rng.integers(1, 10, 3).astype(np.int32)]
    target = rng.integers(1, 10, 1).astype(np.int32)
    ranks, top = rank_and_top(scores, target, seen, k=k)
    assert (int(target[0]) in top.tolist()) == (ranks[0] <= k)
    assert not set(top.tolist()) & {0, *seen[0].tolist()}
    assert len(top) == min(k, 9 - len(set(seen[0].tolist())))


def test_masking_leaves_the_scores_given_alone():
    scores = np.broadcast_to(np.float32(1), (2, 4))
    assert unseen_scores(scores, [NOTHING, np.array([1, 1], np.int32)])[1, 1] == -np.inf
    assert scores.min() == 1


def test_coverage_counts_items_not_padding():
    assert coverage(np.array([True, True, False, False, False])) == 0.25
    assert coverage(np.array([True])) == 0


def test_bad_input_is_refused():
    one = np.ones((1, 4), np.float32)
    with pytest.raises(ValueError, match="NaN"):
        ranks_of(np.full((1, 4), np.nan, np.float32), np.array([1], np.int32), [NOTHING])
    with pytest.raises(ValueError, match="row 0"):
        ranks_of(one, np.array([0], np.int32), [NOTHING])
    with pytest.raises(ValueError, match="2 entries for 1"):
        ranks_of(one, np.array([1], np.int32), [NOTHING, NOTHING])
    with pytest.raises(ValueError, match="2 targets for 1"):
        ranks_of(one, np.array([1, 2], np.int32), [NOTHING])
