from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ouzel.ranking.calibration import Calibration, divergence, history_shares, item_shares
from ouzel.ranking.diversity import (
    LEAST_VOLUME,
    Determinant,
    MarginalRelevance,
    Scores,
    score_range,
    unit,
)

KINDS = (MarginalRelevance, Determinant)
GENRES = ("Crime", "Drama", "War")


def walk(objective, count, k):
    """Return the greedy list of k of `count` candidates."""
    order = []
    while len(order) < min(k, count):
        gains = objective.gains().copy()
        gains[order] = -np.inf
        order.append(int(gains.argmax()))
        objective.take(order[-1])
    return order


def made(seed, count, dim=3):
    random = np.random.default_rng(seed)
    return random.normal(size=count), random.normal(size=(count, dim))


@pytest.mark.parametrize("kind", KINDS)
@given(seed=st.integers(0, 10**6), count=st.integers(1, 12))
def test_weight_0_is_the_order_of_scores(kind, seed, count):
    scores, vectors = made(seed, count)
    order = walk(kind(scores, vectors, weight=0.0), count, count)
    assert (
        order == np.argsort(-scores, kind="stable").tolist() == walk(Scores(scores), count, count)
    )


@given(seed=st.integers(0, 10**6), count=st.integers(1, 9), weight=st.floats(0, 1))
def test_mmr_is_its_formula_at_every_place(seed, count, weight):
    scores, vectors = made(seed, count)
    cosines = unit(vectors) @ unit(vectors).T
    objective = MarginalRelevance(scores, vectors, weight=weight)
    chosen = []
    for _ in range(count):
        nearest = cosines[:, chosen].max(axis=1) if chosen else np.full(count, -1.0)
        expected = (1 - weight) * scores - weight * score_range(scores) * nearest
        assert objective.gains() == pytest.approx(expected)
        left = [place for place in range(count) if place not in chosen]
        chosen.append(max(left, key=lambda place: expected[place]))
        objective.take(chosen[-1])


@settings(deadline=None)
@given(seed=st.integers(0, 10**6), count=st.integers(2, 6), weight=st.floats(0.05, 1))
def test_dpp_gains_are_those_of_determinants(seed, count, weight):
    scores, vectors = made(seed, count, dim=8)
    scale = weight * score_range(scores)
    cosines = unit(vectors) @ unit(vectors).T

    def value(places):
        kernel = cosines[np.ix_(places, places)]
        return (1 - weight) * scores[places].sum() + scale * np.log(np.linalg.det(kernel))

    objective = Determinant(scores, vectors, weight=weight)
    chosen = []
    for _ in range(count):
        left = [place for place in range(count) if place not in chosen]
        worth = {
            place: value([*chosen, place]) - (value(chosen) if chosen else 0) for place in left
        }
        gains = objective.gains()
        assert [gains[place] for place in left] == pytest.approx(list(worth.values()), abs=1e-6)
        chosen.append(max(left, key=worth.get))
        objective.take(chosen[-1])


def test_greedy_dpp_finds_the_best_set_where_brute_force_does():
    vectors = np.eye(3)[[0, 0, 1, 2, 2]] + 0.01
    scores = np.array([1.0, 0.9, 0.5, 0.8, 0.1])
    order = walk(Determinant(scores, vectors, weight=0.5), 5, 3)

    def volume(places):
        kernel = (unit(vectors) @ unit(vectors).T)[np.ix_(places, places)]
        return 0.5 * scores[list(places)].sum() + 0.45 * np.log(np.linalg.det(kernel) + 1e-12)

    assert set(order) == set(max(itertools.combinations(range(5), 3), key=volume)) == {0, 2, 3}


def test_copies_come_after_all_that_is_new():
    vectors = np.eye(3)[[0, 0, 0, 1, 2]]
    scores = np.array([5.0, 4.0, 3.0, 0.0, 0.5])
    for kind in KINDS:
        assert walk(kind(scores, vectors, weight=0.95), 5, 3) == [0, 4, 3]
    copies = Determinant(scores, vectors, weight=0.5)
    for place in (0, 1, 2):
        copies.take(place)
    assert np.isfinite(copies.gains()).all()
    assert copies.gains()[1] == pytest.approx(2.0 + 0.5 * 5 * np.log(LEAST_VOLUME))


@pytest.mark.parametrize("kind", KINDS)
def test_more_weight_is_more_variety(kind):
    random = np.random.default_rng(0)
    centres = random.normal(size=(5, 8)) * 3
    vectors = np.repeat(centres, 20, axis=0) + random.normal(size=(100, 8)) * 0.3
    scores = vectors @ centres[0]

    def variety(weight):
        order = walk(kind(scores, vectors, weight=weight), 100, 10)
        cosines = unit(vectors[order]) @ unit(vectors[order]).T
        return 1 - cosines[np.triu_indices(10, 1)].mean()

    assert variety(0.0) < variety(0.5) < variety(1.0)


@pytest.mark.parametrize("kind", KINDS)
def test_items_without_a_vector_are_like_none(kind):
    objective = kind(np.array([1.0, 1.0, 0.0]), np.array([[1.0, 0], [1, 0], [0, 0]]), weight=0.9)
    assert walk(objective, 3, 2) == [0, 2]


@given(
    history=st.lists(st.sampled_from(GENRES), min_size=1, max_size=20),
    seed=st.integers(0, 1000),
)
def test_a_calibrated_list_is_nearer_to_the_history(history, seed):
    random = np.random.default_rng(seed)
    values = [(str(value),) for value in random.choice(GENRES, 40)]
    scores = random.normal(size=40)
    names, target = history_shares([(value,) for value in history])

    def distance(weight):
        objective = Calibration(scores, values, [(value,) for value in history], weight=weight)
        order = walk(objective, 40, 10)
        return divergence(target, item_shares([values[i] for i in order], names).mean(axis=0)[None])

    assert distance(1.0) <= distance(0.0) + 1e-9


def test_a_calibrated_list_has_the_shares_of_the_history():
    history = [("Drama",)] * 7 + [("War",)] * 3
    values = [("Drama",)] * 50 + [("War",)] * 50
    objective = Calibration(np.linspace(1, 0, 100), values, history, weight=1.0)
    order = walk(objective, 100, 10)
    assert sum(place < 50 for place in order) == 7


def test_without_a_history_a_calibrated_list_is_that_of_scores():
    scores = np.array([1.0, 3.0, 2.0])
    assert walk(Calibration(scores, [("War",)] * 3, [], weight=1.0), 3, 3) == [1, 2, 0]
    assert walk(Calibration(scores, [()] * 3, [("War",)], weight=0.5), 3, 3) == [1, 2, 0]
