"""The paths beside the standard one: unions of sources, and the caller's own candidates."""

from __future__ import annotations

import numpy as np
import pytest

from ouzel.events.catalog import Catalog
from ouzel.events.interactions import History
from ouzel.ranking.blending import BLENDED, Blender, BlendSources
from ouzel.ranking.fusion import proposers
from ouzel.ranking.paths import paths
from ouzel.ranking.pipeline import Pipeline
from ouzel.ranking.stages import DropForbidden, EncodeUser, FillFrom, SearchIndex, TopK
from ouzel.ranking.union import UNSCORED
from ouzel.retrieval.arrangement import Arrangement, Boost
from ouzel.retrieval.exact import ExactIndex
from ouzel.retrieval.popular import PopularSource
from ouzel.retrieval.types import Candidates, Query

N, D = 30, 4
VECTORS = np.random.default_rng(0).normal(size=(N, D)).astype(np.float32)
POPULAR = np.arange(N, dtype=np.float32)
CATALOG = Catalog([f"i{row}" for row in range(1, N)])


class States:
    def contains(self, user):
        return True

    def query(self, users, now_ms):
        return np.stack([VECTORS[user] for user in users]), [True] * len(users)

    def query_session(self, history, now_ms):
        return VECTORS[int(history.rows[-1])]


class Listed:
    """A source of one list for everybody; `asked` are the k it was asked for."""

    def __init__(self, name, rows):
        self.name, self.rows, self.asked = name, np.array(rows, np.int32), []

    def candidates(self, query, k):
        self.asked.append(k)
        return Candidates.of(self.name, self.rows[:k], np.arange(len(self.rows[:k]), 0, -1.0))


def home():
    vmis, trending = Listed("vmis", [5, 6, 7]), Listed("trending", [9, 5])
    stages = [EncodeUser(States()), SearchIndex(ExactIndex(VECTORS))]
    stages += [FillFrom(vmis, needs_history=True), FillFrom(PopularSource(POPULAR))]
    standard = Pipeline([*stages, DropForbidden(), TopK()])
    return paths(standard, CATALOG, extra=[trending]), vmis, trending


def query(k=5, *, known=True, breadth=0, **more):
    history = History(np.array([3], np.int32), np.array([1])) if known else None
    user = {"user": 1, "history": history} if known else {}
    fields = {name: more.pop(name) for name in ("forbidden", "hidden") if name in more}
    arrangement = Arrangement(**more)
    return Query(k=k, now_ms=2, breadth=breadth, arrangement=arrangement, **user, **fields)


def run(path, asked):
    ranked = path.run([asked])
    assert ranked.degraded == (None,)
    return ranked.found[0]


def best(rows=range(1, N)):
    return sorted(rows, key=lambda row: -float(VECTORS[row] @ VECTORS[1]))


def sources(found):
    return [found.names[source] for source in found.sources_K.tolist()]


def test_the_standard_path_is_the_very_pipeline_that_was_given():
    found, vmis, trending = home()
    plain = Query(k=5, now_ms=2, user=1, history=History(np.array([3], np.int32), np.array([1])))
    ranked = found.standard.run([plain])
    assert found.standard.names == ("state", "search", "vmis", "popular", "filter", "select")
    assert ranked.found[0].rows_K.tolist() == best()[:5]
    assert (vmis.asked, trending.asked) == ([], [])


def test_without_weights_a_union_asks_only_until_it_has_enough():
    found, vmis, trending = home()
    assert run(found.union, query(breadth=12)).rows_K.tolist() == best()[:5]
    assert (vmis.asked, trending.asked) == ([], [])
    assert set(run(found.union, query(k=29, breadth=29)).rows_K.tolist()) == set(range(1, N))


def blending_home():
    """Return the paths of a home whose blend puts the neighbours first."""
    weights_2SF = np.zeros((2, len(BLENDED), 3))
    weights_2SF[0, BLENDED.index("vmis"), 0] = 10
    weights_2SF[0, BLENDED.index("model"), 1] = 1
    others = [Listed("vmis", [5, 6, 7]), Listed("popular", [8]), Listed("recent", [9])]
    stages = [EncodeUser(States()), SearchIndex(ExactIndex(VECTORS[:20]))]
    stages += [BlendSources(Blender(weights_2SF), others), FillFrom(PopularSource(POPULAR))]
    return paths(Pipeline([*stages, DropForbidden(), TopK()]), CATALOG)


NOTHING = [{"boosts": (Boost(1.0, np.array([2]), None),)}, {"caps": {}}, {"pins": {}}]


@pytest.mark.parametrize("asked", NOTHING, ids=str)
def test_a_blend_stays_what_it_is_where_a_list_is_arranged(asked):
    found = blending_home()
    history = History(np.array([3], np.int32), np.array([1]))
    plain = found.standard.run([Query(k=8, now_ms=2, user=1, history=history)]).found[0]
    assert set(plain.rows_K.tolist()[:3]) == {5, 6, 7}
    arranged = run(found.union, query(k=8, breadth=100, **asked))
    assert arranged.rows_K.tolist() == plain.rows_K.tolist()
    assert arranged.scores_K.tolist() == pytest.approx(plain.scores_K.tolist())


def test_who_comes_after_a_blend_is_below_it_and_pins_keep_their_place():
    found = blending_home()
    arranged = run(found.union, query(k=29, breadth=29, pins={25: 2}))
    assert arranged.rows_K[1] == 25
    late = [row for row in arranged.rows_K.tolist() if row >= 20 and row != 25]
    assert arranged.rows_K.tolist()[-len(late) :] == late == sorted(late, reverse=True)
    assert all(len(names) == len(set(names)) for names in proposers(arranged))


def test_sources_with_weights_are_fused_in_place_of_a_blend():
    found = blending_home()
    only = run(found.union, query(k=4, breadth=100, weights={"sequence": 1}))
    assert only.rows_K.tolist() == best(range(1, 20))[:4]


def test_only_the_sources_with_a_weight_are_in_a_union():
    found, vmis, trending = home()
    united = run(found.union, query(weights={"vmis": 1, "trending": 0.5, "popular": 0}))
    assert (vmis.asked, trending.asked) == ([5], [5])
    assert united.rows_K.tolist() == [5, 6, 7, 9]
    assert proposers(united)[0] == ["vmis", "trending"]
    assert sources(united) == ["vmis", "vmis", "vmis", "trending"]
    assert (np.diff(united.scores_K) <= 0).all()


def test_a_heavier_source_decides():
    found, _, _ = home()
    weights = {"vmis": 1, "trending": 100}
    assert run(found.union, query(weights=weights)).rows_K.tolist()[:2] == [9, 5]
    weights = {"sequence": 1, "vmis": 0.01}
    assert run(found.union, query(weights=weights)).rows_K.tolist() == best()[:5]


def test_breadth_is_how_many_there_are_in_all():
    found, vmis, _ = home()
    seen = []
    boost = next(stage for stage in found.union.stages if stage.name == "boost")
    run_boost = boost.run
    boost.run = lambda work: seen.append(len(work.found[0])) or run_boost(work)
    run(found.union, query(k=3, breadth=8, weights={"sequence": 1, "vmis": 1, "popular": 1}))
    assert (seen, vmis.asked) == ([8], [8])


@pytest.mark.parametrize("known", [True, False])
def test_what_may_not_be_shown_is_in_no_union(known):
    found, _, _ = home()
    hidden = np.zeros(N, np.bool_)
    hidden[[5, 28]] = True
    weights = dict.fromkeys(("sequence", "vmis", "popular", "trending"), 1)
    forbidden = np.array([6, 29], np.int32)
    asked = query(k=N, known=known, weights=weights, forbidden=forbidden, hidden=hidden)
    rows = run(found.union, asked).rows_K.tolist()
    assert not {0, 5, 6, 28, 29} & set(rows) and 9 in rows


def test_own_candidates_are_all_answered_in_the_order_of_the_model():
    found, vmis, _ = home()
    own_K = np.array([4, 20, 11, 40, 8, 35], np.int32)
    ranked = run(found.rank, query(k=6, own_K=own_K))
    assert ranked.rows_K.tolist() == [*best([4, 20, 11, 8]), 40, 35]
    assert sources(ranked) == ["sequence"] * 4 + [UNSCORED] * 2
    assert ranked.scores_K[:4] == pytest.approx(VECTORS[ranked.rows_K[:4]] @ VECTORS[1])
    assert (np.diff(ranked.scores_K) <= 0).all()
    assert vmis.asked == []


def test_own_candidates_of_somebody_unknown_are_ordered_by_popularity():
    found, _, _ = home()
    own_K = np.array([4, 40, 20, 11], np.int32)
    ranked = run(found.rank, query(k=6, known=False, own_K=own_K))
    assert ranked.rows_K.tolist() == [20, 11, 4, 40]
    assert sources(ranked) == ["popular"] * 3 + [UNSCORED]


def test_own_candidates_that_the_model_never_saw_keep_their_order():
    found, _, _ = home()
    ranked = run(found.rank, query(own_K=np.array([44, 40, 41], np.int32)))
    assert ranked.rows_K.tolist() == [44, 40, 41]
    assert set(sources(ranked)) == {UNSCORED}


def test_a_boost_is_a_factor_on_the_weight():
    found, _, _ = home()
    own_K = np.array([4, 20, 11], np.int32)
    plain = run(found.rank, query(own_K=own_K))
    hidden_N = np.ones(N, np.bool_)
    hidden_N[20] = False
    boosts = (Boost(3.0, None, hidden_N), Boost(0.5, np.array([4, 20], np.int32)))
    boosted = run(found.rank, query(own_K=own_K, boosts=boosts))
    weights = dict(zip(plain.rows_K.tolist(), np.exp(plain.scores_K), strict=True))
    assert dict(zip(boosted.rows_K.tolist(), np.exp(boosted.scores_K), strict=True)) == (
        pytest.approx({4: 0.5 * weights[4], 20: 1.5 * weights[20], 11: weights[11]}, rel=1e-4)
    )
    assert (np.diff(boosted.scores_K) <= 0).all()


def test_a_boost_by_filter_says_nothing_of_items_beyond_its_mask():
    found, _, _ = home()
    boosts = (Boost(1000.0, None, np.zeros(N, np.bool_)),)
    ranked = run(found.rank, query(own_K=np.array([4, 40], np.int32), boosts=boosts))
    plain = run(found.rank, query(own_K=np.array([4, 40], np.int32)))
    assert ranked.scores_K[1] == plain.scores_K[1]
