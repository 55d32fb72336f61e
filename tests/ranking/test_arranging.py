"""Lists filled place by place: caps and pins hold in whatever company, and chance is as stated."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ouzel.events.catalog import Catalog
from ouzel.events.interactions import History
from ouzel.ranking import arranging
from ouzel.ranking.arranging import Arrange
from ouzel.ranking.categories import Categories
from ouzel.ranking.pipeline import Pipeline, Work
from ouzel.retrieval.arrangement import Arrangement, Diversity, Explore
from ouzel.retrieval.types import Candidates, Query

N = 21
GENRES = ["", "Crime", "Drama", "Crime|Drama", "War"]
CATALOG = Catalog([f"i{row}" for row in range(1, N)])
for row in range(1, N):
    CATALOG.set_column("genres", row, GENRES[row % 5])
VECTORS = np.random.default_rng(1).normal(size=(N, 4)).astype(np.float32)
HISTORY = History(np.array([1, 2, 4], np.int32), np.arange(3))
STAGE = Arrange(lambda row: VECTORS[row] if row < 19 else None, Categories(CATALOG))


def arranged(k, rows, scores, **asked):
    found = Candidates.of("s", np.array(rows, np.int32), np.array(scores, np.float32))
    query = Query(k=k, now_ms=0, history=HISTORY, arrangement=Arrangement(**asked))
    return STAGE.run(Work((query,), (found,))).found[0]


diversities = st.one_of(
    st.none(),
    st.builds(
        lambda method, weight: Diversity(
            method, weight, "genres" if method == "calibrated" else ""
        ),
        st.sampled_from(["mmr", "dpp", "calibrated"]),
        st.floats(0, 1),
    ),
)
explores = st.one_of(st.none(), st.builds(Explore, st.floats(0.1, 10), st.integers(0, 99)))


@settings(deadline=None)
@given(
    rows=st.lists(st.integers(1, N - 1), unique=True, min_size=1),
    k=st.integers(1, 25),
    most=st.integers(1, 4),
    pins=st.dictionaries(st.integers(1, N - 1), st.integers(1, 25), max_size=4),
    diversity=diversities,
    explore=explores,
)
def test_a_list_keeps_every_promise(rows, k, most, pins, diversity, explore):
    rows = sorted(rows)
    asked = {"caps": {"genres": most}, "pins": pins, "diversity": diversity, "explore": explore}
    found = arranged(k, rows, [-row for row in rows], **asked)
    shown = found.rows_K.tolist()
    assert len(set(shown)) == len(shown) <= k and set(shown) <= set(rows)
    counts = Counter(v for row in shown for v in Categories(CATALOG).values("genres", [row])[0])
    assert max(counts.values(), default=0) <= most
    if len(shown) < min(k, len(rows)):  # only a cap may leave a place empty
        for row in set(rows) - set(shown):
            (values,) = Categories(CATALOG).values("genres", [row])
            assert any(counts[value] == most for value in values)
    assert (found.propensities_K is None) == (explore is None)
    if explore is not None:
        assert len(found.propensities_K) == len(shown)
        assert (found.propensities_K > 0).all() and (found.propensities_K <= 1).all()


@given(pins=st.dictionaries(st.integers(1, 9), st.integers(1, 9), max_size=5))
def test_pins_have_their_places(pins):
    shown = arranged(9, range(1, 10), -np.arange(9), pins=pins).rows_K.tolist()
    first = {}
    for row, position in sorted(pins.items(), key=lambda pin: pin[1]):
        first.setdefault(position, row)
    for position, row in first.items():
        before = sum(other < position for other in first)
        if position - 1 - before <= 9 - len(first):  # else it closes up
            assert shown[position - 1] == row
    plain = [row for row in shown if row not in first.values()]
    assert plain == sorted(plain)


def test_a_pin_beyond_the_end_closes_up():
    assert arranged(9, [1, 2, 3], [3, 2, 1], pins={1: 8, 2: 6}).rows_K.tolist() == [3, 2, 1]


def test_pins_that_are_no_candidates_are_nowhere():
    assert arranged(2, [1, 2], [2, 1], pins={7: 1}).rows_K.tolist() == [1, 2]


def test_pins_count_for_caps_before_all_others():
    rows = [1, 6, 11]  # Crime, all of them
    found = arranged(3, rows, [3, 2, 1], pins={11: 2}, caps={"genres": 1})
    assert found.rows_K.tolist() == [11]


def test_after_the_last_varied_place_scores_decide(monkeypatch):
    monkeypatch.setattr(arranging, "MOST_PLACES", 3)
    rows, scores = list(range(1, 18)), -np.arange(17.0)
    asked = {"diversity": Diversity("dpp", 1.0), "explore": Explore(5.0, 1)}
    found = arranged(17, rows, scores, **asked)
    rest = found.rows_K.tolist()[3:]
    assert rest == sorted(rest)
    assert (found.propensities_K[:3] < 1).all() and (found.propensities_K[3:] == 1).all()


def test_a_score_that_is_no_number_costs_variety_but_no_rule():
    found = Candidates.of("s", np.array([1, 6, 2], np.int32), np.array([np.nan, 2, 1], np.float32))
    query = Query(
        k=3,
        now_ms=0,
        arrangement=Arrangement(diversity=Diversity("mmr", 0.5), caps={"genres": 1}, pins={2: 1}),
    )

    class Found(arranging.Stage):
        name, kind = "found", "select"

        def run(self, work):
            return work.with_found([found])

    stage = Found()
    ranked = Pipeline([stage, STAGE]).run([query])
    assert "found" in ranked.degraded or ranked.degraded == ("arrange",)


def test_the_fallback_keeps_to_the_rules(monkeypatch):
    found = Candidates.of("s", np.array([1, 6, 2], np.int32), np.array([3, 2, 1], np.float32))
    asked = Arrangement(diversity=Diversity("mmr", 0.5), caps={"genres": 1}, pins={2: 1})
    work = Work((Query(k=3, now_ms=0, arrangement=asked),), (found,))
    assert STAGE.fallback(work).found[0].rows_K.tolist() == [2, 1]

    def broken(field, rows):
        raise RuntimeError("planted")

    monkeypatch.setattr(STAGE._categories, "values", broken)
    assert STAGE.fallback(work).found[0].rows_K.tolist() == [1, 6, 2]


def are_as_stated(observed, expected):
    """Return whether counts pass a chi-square test, four standard deviations wide."""
    observed, expected = np.asarray(observed, float), np.asarray(expected, float)
    freedom = len(observed) - 1
    found = ((observed - expected) ** 2 / expected).sum()
    return found < freedom + 4 * np.sqrt(2 * freedom) + 4


def lists_of(draws, **asked):
    for seed in range(draws):
        found = arranged(explore=Explore(asked.pop("temperature", 1.0), seed), **asked)
        yield tuple(found.rows_K.tolist()), found.propensities_K


@pytest.mark.parametrize(
    "asked",
    [
        {},
        {"caps": {"genres": 1}},
        {"pins": {3: 2}},
        {"diversity": Diversity("mmr", 0.5)},
        {"diversity": Diversity("calibrated", 0.5, "genres"), "caps": {"genres": 2}},
    ],
    ids=["plain", "caps", "pins", "mmr", "calibrated"],
)
def test_lists_are_as_frequent_as_stated(asked):
    draws, counts, stated = 4000, Counter(), {}
    for shown, propensities in lists_of(
        draws, k=3, rows=[1, 2, 3, 6], scores=[0.0, 1.0, 0.3, -0.5], **asked
    ):
        counts[shown] += 1
        product = float(np.prod(propensities))
        assert stated.setdefault(shown, product) == pytest.approx(product)
    assert len(counts) > 3
    assert sum(stated.values()) == pytest.approx(1.0, abs=0.02)
    # What is rare counts as one, as the test of frequencies wants it.
    often = [shown for shown in counts if stated[shown] * draws >= 10]
    seen = [*(counts[shown] for shown in often), draws - sum(counts[shown] for shown in often)]
    chances = [*(stated[shown] for shown in often), 1 - sum(stated[shown] for shown in often)]
    kept = [place for place, chance in enumerate(chances) if chance * draws >= 5]
    observed = np.array([seen[place] for place in kept], float)
    expected = np.array([chances[place] for place in kept]) * draws
    expected *= observed.sum() / expected.sum()
    assert are_as_stated(observed, expected)
    assert not are_as_stated(observed, expected[::-1])


def test_the_first_place_is_softmax():
    scores = np.array([0.0, 1.0, 2.0])
    counts = Counter(shown[0] for shown, _ in lists_of(3000, k=1, rows=[1, 2, 3], scores=scores))
    expected = np.exp(scores) / np.exp(scores).sum() * 3000
    assert are_as_stated([counts[row] for row in (1, 2, 3)], expected)


def test_a_low_temperature_is_the_list_of_scores_and_a_seed_repeats():
    rows, scores = [1, 2, 3, 4], [4.0, 3.0, 2.0, 1.0]
    cold = arranged(4, rows, scores, explore=Explore(1e-3, 5))
    assert cold.rows_K.tolist() == rows and cold.propensities_K == pytest.approx(1.0)
    one, same = (arranged(4, rows, scores, explore=Explore(9.0, 7)) for _ in range(2))
    assert one.rows_K.tolist() == same.rows_K.tolist()
    others = {
        tuple(arranged(4, rows, scores, explore=Explore(9.0, seed)).rows_K.tolist())
        for seed in range(20)
    }
    assert len(others) > 5
