"""The ranker in the request path: order, weights, breadth, and what happens when it fails."""

from __future__ import annotations

import numpy as np
import pytest

from ouzel.events.interactions import History
from ouzel.ranking.pipeline import OVERRUNS_BEFORE_REST, Pipeline
from ouzel.ranking.scoring import BREADTH, SCORE_BUDGET_MS, RankCandidates, action_weights
from ouzel.ranking.stages import DropForbidden, FillFrom, SearchIndex, TopK
from ouzel.retrieval.exact import ExactIndex
from ouzel.retrieval.popular import PopularSource
from ouzel.retrieval.types import Query

N, D = 700, 4
VECTORS = np.random.default_rng(0).normal(size=(N, D)).astype(np.float32)
POPULAR = PopularSource(np.arange(N, dtype=np.float32))
HISTORY = History(np.array([3], np.int32), np.array([1], np.int64))


class Ranker:
    """Prefers low rows by `interact` and high rows by `like`; may be made to fail."""

    actions = ("interact", "like")
    num_rows = N
    reads_vector = True

    def __init__(self):
        self.asked, self.spoilt, self.gone, self.error = [], set(), set(), None

    def logits(self, asking, candidates_BK):
        self.asked.append(candidates_BK.copy())
        if self.error:
            raise self.error
        logits = np.stack([-candidates_BK, 2 * candidates_BK], axis=-1).astype(np.float32)
        for at, who in enumerate(asking):
            if who.user in self.spoilt:
                logits[at, 0] = np.nan
        return logits, [who.user not in self.gone for who in asking]


def query(user=1, *, k=3, **more):
    vector = VECTORS[(user or 0) % N]
    return Query(k=k, now_ms=9, user=user, history=HISTORY, vector=vector, **more)


def pipeline(ranker, *, weights=None, clock=None, **stages):
    chosen = [SearchIndex(ExactIndex(VECTORS)), FillFrom(POPULAR), DropForbidden()]
    chosen.append(RankCandidates(ranker, weights=weights))
    settings = {} if clock is None else {"monotonic_ms": clock}
    return Pipeline([*chosen, TopK()], **settings)


def by_retrieval(user, *, k=3):
    stages = [SearchIndex(ExactIndex(VECTORS)), FillFrom(POPULAR), DropForbidden(), TopK()]
    return Pipeline(stages).run([query(user, k=k)]).found[0]


def test_the_best_500_by_retrieval_are_put_in_the_order_of_the_ranker() -> None:
    ranker = Ranker()
    ranked = pipeline(ranker).run([query(1), query(2)])
    assert len(ranker.asked) == 1 and ranker.asked[0].shape == (2, BREADTH)
    for user, found in zip((1, 2), ranked.found, strict=True):
        gathered = by_retrieval(user, k=BREADTH).rows_K
        assert found.rows_K.tolist() == sorted(gathered.tolist())[:3]
        assert found.scores_K.tolist() == [-row for row in found.rows_K.tolist()]
    assert ranked.degraded == (None, None)


def test_weights_mix_the_actions() -> None:
    liked = pipeline(Ranker(), weights={"like": 1.0}).run([query()]).found[0]
    even = pipeline(Ranker(), weights={"interact": 2.0, "like": 1.0}).run([query()]).found[0]
    assert liked.rows_K.tolist() == sorted(liked.rows_K.tolist(), reverse=True)
    assert even.scores_K.tolist() == [0.0, 0.0, 0.0]
    assert even.rows_K.tolist() == by_retrieval(1).rows_K.tolist()  # ties keep their order


@pytest.mark.parametrize(
    ("weights", "says"),
    [
        ({"lik": 1.0}, "did you mean 'like'"),
        ({"buy": 1.0}, "interact, like"),
        ({"like": float("nan")}, "give a number"),
        ({"like": 0.0}, "weighs nothing"),
        ({}, "weighs nothing"),
    ],
)
def test_weights_that_mean_nothing_are_refused(weights, says) -> None:
    with pytest.raises(ValueError, match=says):
        action_weights(("interact", "like"), weights)


def test_breadth_of_the_query_is_kept() -> None:
    ranker = Ranker()
    found = pipeline(ranker).run([query(1, breadth=7)]).found[0]
    assert ranker.asked[0].shape == (1, 7) and len(found) == 3
    assert query(breadth=7).with_vector(None).breadth == 7
    assert (query(k=3).gathered, query(k=9, breadth=7).gathered) == (3, 9)


def test_lists_are_no_longer_than_asked_for_without_a_ranker() -> None:
    stages = [SearchIndex(ExactIndex(VECTORS)), TopK()]
    assert len(Pipeline(stages).run([query(1)]).found[0]) == 3


def test_what_may_not_be_shown_is_not_ranked() -> None:
    ranker = Ranker()
    forbidden = by_retrieval(1).rows_K[:2].copy()
    forbidden.sort()
    found = pipeline(ranker).run([query(1, forbidden=forbidden)]).found[0]
    assert not set(forbidden.tolist()) & set(ranker.asked[0].ravel().tolist())
    assert len(found) == 3


@pytest.mark.parametrize(
    "unranked",
    [
        Query(k=3, now_ms=9),
        Query(k=3, now_ms=9, vector=VECTORS[1], source="similar"),
    ],
)
def test_who_has_no_state_is_not_ranked_and_not_degraded(unranked) -> None:
    ranker = Ranker()
    ranked = pipeline(ranker).run([unranked])
    assert ranker.asked == [] and ranked.degraded == (None,) and len(ranked.found[0]) == 3


class TestFaults:
    def test_a_ranker_that_raises_leaves_the_order_of_retrieval(self) -> None:
        ranker = Ranker()
        ranker.error = RuntimeError("broken graph")
        ranked = pipeline(ranker).run([query(1), query(2)])
        assert ranked.degraded == ("ranker", "ranker")
        for user, found in zip((1, 2), ranked.found, strict=True):
            assert found.rows_K.tolist() == by_retrieval(user).rows_K.tolist()

    def test_nan_costs_the_one_query_its_ranking(self) -> None:
        ranker = Ranker()
        ranker.spoilt = {2}
        ranked = pipeline(ranker).run([query(1), query(2), query(3)])
        assert ranked.degraded == (None, "ranker", None)
        assert ranked.found[1].rows_K.tolist() == by_retrieval(2).rows_K.tolist()
        assert ranked.found[0].scores_K.tolist() == [-row for row in ranked.found[0].rows_K]

    def test_a_user_whose_state_is_gone_is_degraded(self) -> None:
        ranker = Ranker()
        ranker.gone = {2}
        ranked = pipeline(ranker).run([query(1), query(2)])
        assert ranked.degraded == (None, "ranker")
        assert ranked.found[1].rows_K.tolist() == by_retrieval(2).rows_K.tolist()

    def test_a_slow_ranker_is_bypassed_for_a_while(self) -> None:
        class Clock:
            now = 0.0

            def __call__(self):
                return self.now

        clock, ranker = Clock(), Ranker()
        quick = ranker.logits

        def slow(asking, candidates_BK):
            clock.now += 2 * SCORE_BUDGET_MS
            return quick(asking, candidates_BK)

        ranker.logits = slow
        path = pipeline(ranker, clock=clock)
        for _ in range(OVERRUNS_BEFORE_REST):
            assert path.run([query(1)]).degraded == (None,)
        assert path.run([query(1)]).degraded == ("ranker",)
        assert path.overruns["ranker"] == OVERRUNS_BEFORE_REST

    def test_past_the_deadline_nobody_is_ranked(self) -> None:
        ranker = Ranker()
        ranked = pipeline(ranker, clock=lambda: 100.0).run([query(1, deadline_ms=50.0)])
        assert ranker.asked == [] and len(ranked.found[0]) == 3
