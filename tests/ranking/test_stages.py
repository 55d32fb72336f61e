from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ouzel.events.interactions import History
from ouzel.ranking.pipeline import Pipeline, Work
from ouzel.ranking.stages import DropForbidden, EncodeUser, FillFrom, SearchIndex, TopK
from ouzel.retrieval.exact import ExactIndex
from ouzel.retrieval.popular import PopularSource
from ouzel.retrieval.types import Candidates, Query

N, D = 30, 4
VECTORS = np.random.default_rng(0).normal(size=(N, D)).astype(np.float32)
POPULAR = PopularSource(np.arange(N, dtype=np.float32))


class States:
    """The vector of user u is `VECTORS[u]`; users from 100 on have none."""

    def __init__(self):
        self.asked = []
        self.spoilt = False

    def query(self, users, now_ms):
        self.asked.append(list(users))
        known = [user < 100 for user in users]
        found = np.stack([VECTORS[user % N] for user in users])
        return (found * np.nan if self.spoilt else found), known

    def query_session(self, history, now_ms):
        return VECTORS[int(history.rows[-1]) % N]


def history(*rows):
    return History(np.array(rows, np.int32), np.arange(len(rows), dtype=np.int64))


def rows_of(*rows):
    return np.array(rows, np.int32)


def whole(states=None):
    stages = [EncodeUser(states or States()), SearchIndex(ExactIndex(VECTORS))]
    return Pipeline([*stages, FillFrom(POPULAR), DropForbidden(), TopK()])


def sources(found):
    return [found.names[source] for source in found.sources_K.tolist()]


def test_one_query_of_the_pool_for_the_whole_pass():
    states = States()
    asked = [
        Query(k=2, now_ms=5, user=1, history=history(3)),
        Query(k=2, now_ms=5),
        Query(k=2, now_ms=5, history=history(4)),
        Query(k=2, now_ms=5, user=2, history=history(3)),
        Query(k=2, now_ms=5, user=100, history=history(3)),
    ]
    ranked = whole(states).run(asked)
    assert states.asked == [[1, 2, 100]]
    assert [sources(found)[0] for found in ranked.found] == [
        "sequence",
        "popular",
        "session",
        "sequence",
        "popular",
    ]
    best = np.argsort(-(VECTORS[1:] @ VECTORS[1]))[:2] + 1
    assert ranked.found[0].rows_K.tolist() == best.tolist()


def test_a_vector_of_nan_is_a_failure_and_falls_back():
    states = States()
    states.spoilt = True
    ranked = whole(states).run([Query(k=3, now_ms=0, user=1, history=history(3))])
    assert ranked.degraded == ("state",)
    assert sources(ranked.found[0]) == ["popular"] * 3


def test_short_lists_are_filled_without_repeats():
    first = Candidates.of("sequence", rows_of(29, 3), np.array([9.0, 8.0]))
    query = Query(k=5, now_ms=0, seen=rows_of(27))
    found = FillFrom(POPULAR).run(Work((query,), (first,))).found[0]
    assert found.rows_K.tolist()[:5] == [29, 3, 28, 26, 25]
    assert sources(found)[:3] == ["sequence", "sequence", "popular"]


def test_a_source_that_needs_a_history_is_asked_only_with_one():
    class Picky:
        name = "picky"

        def candidates(self, query, k):
            assert len(query.history)
            return Candidates.of("picky", rows_of(1), np.ones(1))

    asked = (Query(k=1, now_ms=0), Query(k=1, now_ms=0, history=history(2)))
    work = Work(asked, (Candidates.empty(), Candidates.empty()))
    done = FillFrom(Picky(), needs_history=True).run(work)
    assert [len(found) for found in done.found] == [0, 1]


def test_what_may_not_be_shown_is_dropped():
    found = Candidates.of(
        "s", rows_of(0, 1, 2, 3, 4, 5), np.array([9, np.nan, 7, -np.inf, 5, 4], np.float32)
    )
    query = Query(k=9, now_ms=0, seen=rows_of(4, 8), exclude=rows_of(2))
    done = DropForbidden().run(Work((query,), (found,)))
    assert done.found[0].rows_K.tolist() == [5]


def test_a_filter_that_fails_shows_nothing():
    found = Candidates.of("s", rows_of(1), np.ones(1))
    work = Work((Query(k=1, now_ms=0, seen=rows_of(1)),), (found,))
    assert len(DropForbidden().fallback(work).found[0]) == 0


row_lists = st.lists(st.integers(1, N + 5), max_size=40).map(lambda rows: np.array(rows, np.int32))
any_query = st.builds(
    lambda user, rows, k, exclude: Query(
        k=k,
        now_ms=0,
        user=user,
        history=History(rows, np.arange(len(rows), dtype=np.int64)),
        seen=rows,
        exclude=exclude,
    ),
    st.one_of(st.none(), st.integers(0, N - 1), st.just(120)),
    row_lists,
    st.integers(1, 50),
    row_lists,
)


@settings(max_examples=150, deadline=None)
@given(asked=st.lists(any_query, min_size=1, max_size=5))
def test_any_pass_keeps_the_promises_of_a_list(asked):
    ranked = whole().run(asked)
    for query, found in zip(asked, ranked.found, strict=True):
        rows = found.rows_K.tolist()
        forbidden = set(query.forbidden().tolist())
        allowed = set(range(1, N)) - forbidden
        assert len(rows) == min(query.k, len(allowed))
        assert len(set(rows)) == len(rows)
        assert set(rows) <= allowed
        alone = whole().run([query]).found[0]
        assert alone.rows_K.tolist() == rows
        assert alone.scores_K == pytest.approx(found.scores_K, abs=1e-5)


def test_hydration_changes_the_vector_only():
    query = Query(k=1, now_ms=0, user=1, history=history(3))
    done = EncodeUser(States()).run(Work((query,), (Candidates.empty(),)))
    assert replace(done.queries[0], vector=None) == query
