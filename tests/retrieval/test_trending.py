from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ouzel.events.interactions import History
from ouzel.retrieval import trending as trending_module
from ouzel.retrieval.trending import TrendingSource
from ouzel.retrieval.types import Query

N, HALF_LIFE_MS = 6, 1000


def source(events=()):
    trending = TrendingSource(N, half_life_ms=HALF_LIFE_MS)
    for row, time_ms in events:
        trending.observe(row, time_ms)
    return trending


def listed(trending, now_ms, **more):
    found = trending.candidates(Query(k=N, now_ms=now_ms, **more), N)
    return dict(zip(found.rows_K.tolist(), found.scores_K.tolist(), strict=True))


events = st.lists(st.tuples(st.integers(1, N - 1), st.integers(0, 20_000)), max_size=30)


@given(events=events)
def test_a_score_is_what_the_decay_leaves_beside_what_it_leaves_to_the_first(events):
    left = np.zeros(N)
    for row, time_ms in events:
        left[row] += 2.0 ** ((time_ms - 20_000) / HALF_LIFE_MS)
    expected = {row: np.log(left[row] / left.max()) for row in range(N) if left[row]}
    assert listed(source(events), 20_000) == pytest.approx(expected, rel=1e-4, abs=1e-4)


@given(events=events)
def test_many_events_at_once_are_as_one_by_one(events):
    columns = [np.array(column) for column in zip(*events, strict=True)] or [np.zeros(0)] * 2
    at_once = source()
    at_once.observe_all(History(columns[0].astype(np.int32), columns[1].astype(np.int64)))
    one_by_one = listed(source(events), 30_000)
    assert listed(at_once, 30_000) == pytest.approx(one_by_one, rel=1e-4, abs=1e-4)


def test_what_is_years_old_is_still_in_order_and_gives_way_to_today():
    years = 30 * 365 * 24 * 3600 * 1000
    trending = source([(1, 0), (2, 0), (2, 0)])
    assert list(listed(trending, years)) == [2, 1]
    trending.observe(3, years)
    assert next(iter(listed(trending, years + 5000))) == 3


def test_the_list_is_ranked_anew_a_moment_after_an_event_and_not_before():
    trending = source([(1, 0)])
    assert list(listed(trending, 0)) == [1]
    trending.observe(2, 10)
    assert list(listed(trending, trending_module.RANK_ANEW_MS - 1)) == [1]
    assert list(listed(trending, trending_module.RANK_ANEW_MS)) == [2, 1]


def test_unknown_rows_are_passed_over_and_forbidden_ones_not_shown():
    trending = source([(0, 1), (N, 1), (-1, 1), (1, 1), (2, 1), (3, 1)])
    trending.observe_all(History(np.array([0, N], np.int32), np.array([1, 1])))
    hidden = np.zeros(N, np.bool_)
    hidden[2] = True
    assert list(listed(trending, 1, forbidden=np.array([1], np.int32), hidden=hidden)) == [3]


def test_a_half_life_is_positive():
    with pytest.raises(ValueError, match="half_life_ms is 0"):
        TrendingSource(N, half_life_ms=0)
