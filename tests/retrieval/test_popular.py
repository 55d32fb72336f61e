import numpy as np
import pytest

from ouzel.events.interactions import History, from_histories
from ouzel.retrieval.popular import (
    PopularityWindow,
    PopularSource,
    popular_scores,
    recent_popular_scores,
)
from ouzel.retrieval.types import Query


def rows(*values):
    return np.array(values, np.int32)


@pytest.fixture
def interactions():
    return from_histories(
        [
            History(rows(1, 2, 3), np.array([0, 100, 200])),
            History(rows(2, 3), np.array([90, 201])),
            History(rows(2), np.array([50])),
        ],
        num_rows=6,
    )


def test_counts(interactions):
    assert popular_scores(interactions).tolist() == [0, 1, 3, 2, 0, 0]
    assert recent_popular_scores(interactions, window_ms=111).tolist() == [0, 0, 1, 2, 0, 0]


def test_a_window_ends_before_now_and_begins_inside(interactions):
    window = PopularityWindow(interactions, window_ms=50)
    assert window.scores(100).tolist() == [0, 0, 2, 0, 0, 0]  # 50 and 90, not 100 itself
    assert window.scores(0).tolist() == [0] * 6


def test_no_interactions_at_all():
    nothing = from_histories([], num_rows=3)
    assert popular_scores(nothing).tolist() == [0, 0, 0]
    assert recent_popular_scores(nothing, window_ms=5).tolist() == [0, 0, 0]


def test_a_window_of_nothing_is_refused(interactions):
    with pytest.raises(ValueError, match="window_ms is 0"):
        PopularityWindow(interactions, window_ms=0)


def test_source_skips_padding_forbidden_and_minus_infinity():
    source = PopularSource(np.array([99, 5, 9, 7, 9, -np.inf], np.float32), name="trending")
    found = source.candidates(Query(k=9, now_ms=0), 9)
    assert found.rows_K.tolist() == [2, 4, 3, 1]
    assert found.names == ("trending",)
    query = Query(k=2, now_ms=0, forbidden=rows(2, 3, 77))
    assert source.candidates(query, 2).rows_K.tolist() == [4, 1]


def test_a_long_list_is_kept_in_part_and_gives_the_same(monkeypatch):
    rng = np.random.default_rng(0)
    scores = rng.integers(0, 50, 400).astype(np.float32)
    whole = PopularSource(scores)
    monkeypatch.setattr("ouzel.retrieval.popular.HEAD", 30)
    part = PopularSource(scores)
    assert whole.whole and not part.whole and len(part.head[0]) == 30
    np.testing.assert_array_equal(part.head[0], whole.head[0][:30])
    for forbidden, hides in ((0, 0.0), (10, 0.0), (200, 0.0), (50, 0.9), (0, 1.0)):
        query = Query(
            k=20,
            now_ms=0,
            forbidden=np.sort(whole.head[0][:forbidden]),
            hidden=rng.random(400) < hides if hides else None,
        )
        ours, theirs = part.candidates(query, 20), whole.candidates(query, 20)
        np.testing.assert_array_equal(ours.rows_K, theirs.rows_K)
        np.testing.assert_array_equal(ours.scores_K, theirs.scores_K)
