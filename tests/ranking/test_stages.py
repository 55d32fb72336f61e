from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import astuple, replace

from ouzel.events.interactions import History
from ouzel.ranking.pipeline import Pipeline, Work
from ouzel.ranking.stages import DropForbidden, EncodeUser, FillFrom, SearchIndex, TopK
from ouzel.retrieval.exact import ExactIndex
from ouzel.retrieval.popular import PopularSource
from ouzel.retrieval.types import Candidates, Query, distinct_rows

N, D = 30, 4
VECTORS = np.random.default_rng(0).normal(size=(N, D)).astype(np.float32)
POPULAR = PopularSource(np.arange(N, dtype=np.float32))


class States:
    """The vector of user u is `VECTORS[u]`; users from 100 on have none."""

    def __init__(self, held=range(1000), *, clock=None, encode_ms=0.0):
        self.asked = []
        self.spoilt = False
        self.held, self.clock, self.encode_ms = set(held), clock, encode_ms

    def contains(self, user):
        return user in self.held

    def query(self, users, now_ms):
        self.asked.append(list(users))
        for user in set(users) - self.held:
            self.held.add(user)
            self.encode()
        known = [user < 100 for user in users]
        found = np.stack([VECTORS[user % N] for user in users])
        return (found * np.nan if self.spoilt else found), known

    def encode(self):
        if self.clock:
            self.clock.now += self.encode_ms

    def query_session(self, history, now_ms):
        self.encode()
        return VECTORS[int(history.rows[-1]) % N]


def history(*rows):
    return History(np.array(rows, np.int32), np.arange(len(rows), dtype=np.int64))


def late_query(clock, *, user):
    deadline_ms = clock.now + 250
    return Query(k=1, now_ms=0, user=user, history=history(3), deadline_ms=deadline_ms)


def rows_of(*rows):
    return np.array(rows, np.int32)


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


def whole(states=None, *, clock=None):
    states, clock = states or States(), clock or Clock()
    stages = [EncodeUser(states, monotonic_ms=clock), SearchIndex(ExactIndex(VECTORS))]
    return Pipeline([*stages, FillFrom(POPULAR), DropForbidden(), TopK()], monotonic_ms=clock)


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


@pytest.mark.parametrize(("encode_ms", "a_pass"), [(5, 16), (60, 3)])
def test_a_cold_restart_degrades_nobody(encode_ms, a_pass):
    clock = Clock()
    states = States(held=(), clock=clock, encode_ms=encode_ms)
    pipeline = whole(states, clock=clock)
    for start in range(0, 96, a_pass):
        users = range(start, start + a_pass)
        ranked = pipeline.run([late_query(clock, user=user) for user in users])
        assert ranked.degraded == (None,) * a_pass


def test_what_does_not_fit_before_the_deadline_degrades_alone():
    clock = Clock()
    states = States(held=(1, 2), clock=clock, encode_ms=60)
    pipeline = whole(states, clock=clock)
    asked = [late_query(clock, user=user) for user in (10, 1, 11, None, 12, 2, 13)]
    ranked = pipeline.run(asked)
    assert states.asked == [[1, 2], [10], [11]]
    assert ranked.degraded == (None, None, None, None, "state", None, "state")
    assert clock.now < 250
    assert sources(ranked.found[3]) == ["session"]
    assert sources(ranked.found[4]) == ["popular"]
    assert pipeline.run([late_query(clock, user=12)]).degraded == (None,)


def test_a_single_encode_is_tried_however_long_the_last_one_took():
    clock = Clock()
    states = States(held=(), clock=clock, encode_ms=240)
    assert whole(states, clock=clock).run([late_query(clock, user=1)]).degraded == (None,)


def test_without_a_deadline_everybody_is_encoded_in_one_call():
    states = States(held=(), clock=Clock(), encode_ms=60)
    users = list(range(90)) * 20
    ranked = whole(states, clock=states.clock).run(
        [Query(k=1, now_ms=0, user=user, history=history(3)) for user in users]
    )
    assert states.asked == [users]
    assert set(ranked.degraded) == {None}


def test_a_big_index_has_a_big_budget():
    class Big(ExactIndex):
        def __len__(self):
            return 10_000_000

    assert SearchIndex(Big(VECTORS)).budget_ms > 1000


def test_a_vector_of_nan_is_a_failure_and_falls_back():
    states = States()
    states.spoilt = True
    ranked = whole(states).run([Query(k=3, now_ms=0, user=1, history=history(3))])
    assert ranked.degraded == ("state",)
    assert sources(ranked.found[0]) == ["popular"] * 3


def test_short_lists_are_filled_without_repeats():
    first = Candidates.of("sequence", rows_of(29, 3), np.array([9.0, 8.0]))
    query = Query(k=5, now_ms=0, forbidden=rows_of(27))
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
    query = Query(k=9, now_ms=0, forbidden=rows_of(2, 4, 8))
    done = DropForbidden().run(Work((query,), (found,)))
    assert done.found[0].rows_K.tolist() == [5]


def test_a_filter_that_fails_shows_nothing():
    found = Candidates.of("s", rows_of(1), np.ones(1))
    work = Work((Query(k=1, now_ms=0, forbidden=rows_of(1)),), (found,))
    assert len(DropForbidden().fallback(work).found[0]) == 0


row_lists = st.lists(st.integers(1, N + 5), max_size=40).map(lambda rows: np.array(rows, np.int32))
any_query = st.builds(
    lambda user, rows, k, exclude: Query(
        k=k,
        now_ms=0,
        user=user,
        history=History(rows, np.arange(len(rows), dtype=np.int64)),
        forbidden=distinct_rows(rows, exclude),
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
        forbidden = set(query.forbidden.tolist())
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
    assert astuple(replace(done.queries[0], vector=None)) == astuple(query)
