"""Blending: what each source says of an item, its order, and who is left as he was."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ouzel.events.interactions import History
from ouzel.ranking.blend_kernel import BREADTH
from ouzel.ranking.blending import BLENDED, Blender, BlendSources, ranks_of, union_of
from ouzel.ranking.fusion import proposers, ranks
from ouzel.ranking.pipeline import Pipeline, Work
from ouzel.ranking.stages import TopK
from ouzel.retrieval.types import Candidates, Query

lists = st.lists(st.integers(1, 12), unique=True, max_size=8)
VISIT = History(np.array([3, 4], np.int32), np.array([10, 20]))


def ordered(rows):
    return np.array(rows, np.int32), np.arange(len(rows), 0, -1.0)


class Fixed:
    def __init__(self, name, rows):
        self.name, self.rows, self.asked = name, rows, []

    def candidates(self, query, k):
        self.asked.append(k)
        return Candidates.of(self.name, *ordered(self.rows))


def blender(**weights):
    """Return a blender of given weights by source: (proposes, -log rank, share of score)."""
    weights_2SF = np.zeros((2, len(BLENDED), 3))
    for name, own in weights.items():
        weights_2SF[0, BLENDED.index(name)] = own
    return Blender(weights_2SF)


def stage_of(made, **rows):
    return BlendSources(made, [Fixed(name, rows.get(name, [])) for name in BLENDED[1:]])


def found(rows):
    return Candidates.of("sequence", *ordered(rows))


def run(stage, rows, **asked):
    query = Query(**{"k": 3, "now_ms": 0, "history": VISIT, **asked})
    return stage.run(Work((query,), (found(rows),))).found[0]


@given(parts=st.lists(lists, min_size=1, max_size=4))
def test_a_union_has_what_each_source_says_of_each_item(parts):
    rows_K, numbers_KSF = union_of([ordered(rows) for rows in parts])
    assert rows_K.tolist() == sorted({row for rows in parts for row in rows})
    for row, numbers_SF in zip(rows_K.tolist(), numbers_KSF, strict=True):
        for rows, numbers in zip(parts, numbers_SF.tolist(), strict=True):
            if row not in rows:
                assert numbers == [0, 0, 0]
                continue
            place, last = rows.index(row), len(rows) - 1
            share = (last - place) / last if last else 0.0
            assert numbers == pytest.approx([1, -np.log(place + 1), share], abs=1e-6)
    expected = [[rows.index(r) + 1 if r in rows else 0 for rows in parts] for r in rows_K.tolist()]
    assert ranks_of(numbers_KSF).tolist() == expected


def test_scores_are_the_formula_for_short_and_long_histories():
    rng = np.random.default_rng(0)
    weights_2SF, numbers = rng.normal(size=(2, 4, 3)), rng.random((5, 4, 3)).astype(np.float32)
    for events in (1, 9):
        expected = [(x * (weights_2SF[0] + weights_2SF[1] / events**0.5)).sum() for x in numbers]
        np.testing.assert_allclose(
            Blender(weights_2SF).scores(numbers, events), expected, rtol=1e-5
        )


def test_the_order_is_that_of_the_weights_and_all_proposers_are_told():
    stage = stage_of(blender(model=(0, 1, 0), vmis=(0.5, 1, 0)), vmis=[9, 5], popular=[7])
    blended = run(stage, [5, 6])
    # Row 5: first of the model, second of vmis; 6, 9 and 7 as the weights have them.
    scores = {5: 0 + 0.5 - np.log(2), 6: -np.log(2), 9: 0.5, 7: 0.0}
    assert blended.rows_K.tolist() == sorted(scores, key=lambda row: (-scores[row], row))
    assert blended.scores_K.tolist() == pytest.approx(sorted(scores.values(), reverse=True))
    said = dict(zip(blended.rows_K.tolist(), proposers(blended), strict=True))
    assert said == {5: ["sequence", "vmis"], 6: ["sequence"], 9: ["vmis"], 7: ["popular"]}
    assert ranks(blended)[blended.rows_K.tolist().index(5)].tolist() == [1, 2, 0, 0]


def test_who_has_no_history_or_asks_for_the_like_of_an_item_is_left_alone():
    stage = stage_of(blender(vmis=(9, 0, 0)), vmis=[9], popular=[7], recent=[8])
    nobody = History(VISIT.rows[:0], VISIT.times_ms[:0])
    assert run(stage, [5, 6], history=nobody).rows_K.tolist() == [5, 6]
    assert run(stage, [5, 6], source="similar").rows_K.tolist() == [5, 6]
    assert run(stage, []).rows_K.tolist() == []


def test_what_a_search_gives_for_want_of_better_is_no_proposal():
    stage = stage_of(blender(model=(1, 0, 0)), vmis=[9])
    scores = np.array([2.0, -np.inf], np.float32)
    given_ = Candidates.of("sequence", np.array([5, 3]), scores)
    work = Work((Query(k=3, now_ms=0, history=VISIT),), (given_,))
    assert stage.run(work).found[0].rows_K.tolist() == [5, 9]


def test_the_model_is_asked_for_as_much_as_the_others():
    stage = stage_of(blender(model=(0, 1, 0)), popular=list(range(50, 60)))
    pipeline = Pipeline([stage, TopK()])
    queries = pipeline.begin([Query(k=3, now_ms=0, history=VISIT)]).work.queries
    assert queries[0].gathered == BREADTH
    wide = run(stage, list(range(100, 100 + 2 * BREADTH)))
    assert (wide.rows_K >= 100).sum() == BREADTH
    longer = run(stage, list(range(100, 100 + 2 * BREADTH)), k=BREADTH + 30)
    assert (longer.rows_K >= 100).sum() == BREADTH + 30


def test_a_source_that_fails_leaves_the_list_of_the_model_and_is_named():
    class Broken(Fixed):
        def candidates(self, query, k):
            raise RuntimeError("planted")

    class Model(Fixed):
        kind, optional, breadth, budget_ms = "source", False, 0, 1e9

        def run(self, work):
            return work.with_found([found([5, 6]) for _ in work.queries])

        def fallback(self, work):
            return work

        def begin(self, work, done):
            return None

    broken = BlendSources(
        blender(model=(0, 1, 0)), [Broken("vmis", []), Fixed("popular", []), Fixed("recent", [])]
    )
    ranked = Pipeline([Model("search", []), broken, TopK()]).run(
        [Query(k=2, now_ms=0, history=VISIT)]
    )
    assert ranked.found[0].rows_K.tolist() == [5, 6] and ranked.degraded == ("blend",)


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="weights of a blender have shape"):
        Blender(np.zeros((2, 3, 3)))
    with pytest.raises(ValueError, match="train again"):
        Blender(np.full((2, 4, 3), np.nan))
    with pytest.raises(ValueError, match="this model blends a, b"):
        Blender.from_manifest({"sources": ["a", "b"], "weights": []})
    with pytest.raises(ValueError, match="give"):
        BlendSources(blender(), [Fixed("popular", [])])
