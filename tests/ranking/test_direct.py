"""The direct search gives what the stages give, to the bit, and says where it has no whole list."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ouzel.events.interactions import History, from_histories
from ouzel.inference.pool import slot_bytes
from ouzel.inference.states import UserStates
from ouzel.ranking.blending import BLENDED, Blender, BlendSources
from ouzel.ranking.direct import DirectSearch
from ouzel.ranking.pipeline import Pipeline
from ouzel.ranking.scoring import RankCandidates
from ouzel.ranking.stages import DropForbidden, EncodeUser, FillFrom, SearchIndex, TopK
from ouzel.retrieval.exact import ExactIndex
from ouzel.retrieval.live import LiveIndex
from ouzel.retrieval.popular import PopularSource
from ouzel.retrieval.types import Query, distinct_rows
from ouzel.retrieval.vmis import VMISkNN
from tests.tiny import NUM_ROWS, START_MS, random_history, tiny_graphs

POPULAR = PopularSource(np.arange(NUM_ROWS, dtype=np.float32))
NOW_MS = START_MS + 10**11
USERS = 12


@pytest.fixture(scope="module", autouse=True)
def exported():
    """Export the graphs, which takes many seconds, before any test is timed."""
    return tiny_graphs()


@dataclass
class Served:
    """States of users who have been here, and the pipeline over them."""

    histories: dict[int, History]
    states: UserStates
    search: SearchIndex
    blend: BlendSources | None = None

    @classmethod
    def of(cls, seed: int, *, blended: bool = False) -> Served:
        rng = np.random.default_rng(seed)
        histories = {user: random_history(rng, int(rng.integers(1, 20))) for user in range(USERS)}
        graphs = tiny_graphs()
        states = UserStates(
            graphs,
            max_bytes=(USERS + 1) * slot_bytes(graphs.shape),
            load_history=histories.__getitem__,
            version="test",
        )
        states.query(range(USERS), NOW_MS)
        vectors_ND = graphs.item(np.arange(NUM_ROWS))
        index = LiveIndex(ExactIndex(vectors_ND)) if rng.random() < 0.5 else ExactIndex(vectors_ND)
        blend = a_blend(histories, rng) if blended else None
        return cls(histories, states, SearchIndex(index), blend)

    def click(self, user: int, row: int) -> None:
        old = self.histories[user]
        newest = History(np.array([row], np.int32), old.times_ms[-1:] + 1000)
        self.histories[user] = old.followed_by(newest)
        self.states.observe(user, row, int(newest.times_ms[0]))

    @property
    def pipeline(self) -> Pipeline:
        blend = [] if self.blend is None else [self.blend]
        stages = [EncodeUser(self.states), self.search, *blend, FillFrom(POPULAR)]
        return Pipeline([*stages, DropForbidden(), TopK()])

    @property
    def direct(self) -> DirectSearch:
        found = DirectSearch.of(self.pipeline)
        assert found is not None
        return found

    def seen(self, user: int):
        return distinct_rows(self.histories[user].rows)

    def asked(self, users: Sequence[int], ns: Sequence[int], hidden=None) -> list[Query]:
        return [
            Query(
                k=n,
                now_ms=NOW_MS,
                user=user,
                history=self.histories[user],
                forbidden=self.seen(user),
                hidden=hidden,
            )
            for user, n in zip(users, ns, strict=True)
        ]

    def lists(self, users: Sequence[int], k: int, hidden=None):
        return self.direct.lists(self.asked(users, [k] * len(users), hidden))

    def ranked(self, users: Sequence[int], ns: Sequence[int], hidden=None):
        return self.pipeline.run(self.asked(users, ns, hidden))


def a_blend(histories: dict[int, History], rng: np.random.Generator) -> BlendSources:
    visits = [*histories.values(), *(random_history(rng, 8) for _ in range(30))]
    neighbours = VMISkNN.fit(from_histories(visits, num_rows=NUM_ROWS))
    counts = rng.random((2, NUM_ROWS)).astype(np.float32)
    popular = [
        PopularSource(line, name=name) for line, name in zip(counts, BLENDED[2:], strict=True)
    ]
    return BlendSources(Blender(rng.normal(size=(2, len(BLENDED), 3))), [neighbours, *popular])


@settings(max_examples=100)
@given(
    seed=st.integers(0, 2**32),
    asked=st.dictionaries(st.integers(0, USERS - 1), st.integers(1, 15), min_size=1),
    clicks=st.lists(
        st.tuples(st.integers(0, USERS - 1), st.integers(1, NUM_ROWS - 1)), max_size=12
    ),
    hidden_share=st.sampled_from([None, 0.0, 0.2, 0.6]),
    blended=st.booleans(),
)
def test_lists_are_those_of_the_stages(seed, asked, clicks, hidden_share, blended):
    users, ns = list(asked), list(asked.values())
    direct, stages = (Served.of(seed, blended=blended) for _ in range(2))
    for user, row in clicks:  # noted, and appended by whoever asks first
        direct.click(user, row)
        stages.click(user, row)
    hidden = None
    if hidden_share is not None:
        hidden = np.random.default_rng(seed).random(NUM_ROWS) < hidden_share
    found = direct.direct.lists(direct.asked(users, ns, hidden))
    ranked = stages.ranked(users, ns, hidden)
    assert ranked.degraded == (None,) * len(users)
    for place, (user, n) in enumerate(asked.items()):
        gone = set(direct.seen(user).tolist()) | {0}
        gone |= set() if hidden is None else set(np.flatnonzero(hidden).tolist())
        # A blended list is as long as was asked; a search is as long as the longest of a pass.
        assert found.full_B[place] == (NUM_ROWS - len(gone) >= (n if blended else max(ns)))
        if found.full_B[place]:
            theirs = ranked.found[place]
            assert found.rows_BK[place, :n].tolist() == theirs.rows_K.tolist()
            assert found.scores_BK[place, :n].tobytes() == theirs.scores_K.tobytes()
            assert not gone & set(found.rows_BK[place, :n].tolist())
            if blended:
                bits = [
                    [1 << s for s, name in enumerate(BLENDED) if rank[s]]
                    for rank in theirs.ranks_KS
                ]
                assert found.proposers_BK[place, :n].tolist() == [sum(each) for each in bits]
            else:
                assert theirs.names == ("sequence",) and found.proposers_BK is None
    assert direct.states.behind == stages.states.behind


def test_who_asks_twice_at_once_gets_two_lists():
    direct, stages = Served.of(2), Served.of(2)
    direct.click(4, 9)
    stages.click(4, 9)
    users, ns = [4, 1, 4], [5, 3, 5]
    found, ranked = direct.direct.lists(direct.asked(users, ns)), stages.ranked(users, ns)
    for place, n in enumerate(ns):
        theirs = ranked.found[place]
        assert found.rows_BK[place, :n].tolist() == theirs.rows_K.tolist()
        # A vector depends by rounding on its place in the call.
        np.testing.assert_allclose(found.scores_BK[place, :n], theirs.scores_K, rtol=1e-5)
    assert direct.states.stats.appends == 1


def test_an_event_that_was_noted_is_in_the_very_next_list():
    served = Served.of(1)
    before = served.lists([2], 5)
    served.click(2, int(before.rows_BK[0, 0]))
    assert served.states.behind == 1
    after = served.lists([2], 5)
    assert served.states.behind == 0 and served.states.stats.appends == 1
    assert before.rows_BK[0, 0] not in after.rows_BK[0]
    anew = Served.of(1)
    anew.histories[2] = served.histories[2]
    anew.states.forget(2)
    anew.states.query([2], NOW_MS)  # encoded from the whole history
    assert after.rows_BK.tolist() == anew.lists([2], 5).rows_BK.tolist()
    np.testing.assert_allclose(after.scores_BK, anew.lists([2], 5).scores_BK, atol=1e-3)


def test_a_list_with_less_than_was_asked_is_not_full():
    served = Served.of(3)
    hidden = np.ones(NUM_ROWS, np.bool_)
    unseen = np.setdiff1d(np.arange(1, NUM_ROWS), served.seen(0))[:4]
    hidden[unseen] = False
    short, whole = served.lists([0], 5, hidden), served.lists([0], 4, hidden)
    assert (short.full_B, whole.full_B) == ([False], [True])
    assert sorted(whole.rows_BK[0].tolist()) == unseen.tolist()
    assert served.lists([0], NUM_ROWS).full_B == [False]


@pytest.mark.parametrize("number", [np.nan, np.inf, -np.inf])
def test_a_score_that_is_no_number_is_in_no_full_list(number, monkeypatch):
    served = Served.of(4)
    search = served.search.index.search

    def spoilt(*asked, **more):
        rows_BK, scores_BK = search(*asked, **more)
        scores_BK[1, 2] = number
        return rows_BK, scores_BK

    monkeypatch.setattr(
        served.search, "index", type("Spoilt", (), {"search": staticmethod(spoilt)})
    )
    assert served.lists([0, 1, 2], 5).full_B == [True, False, True]


@pytest.mark.parametrize("number", [np.nan, np.inf])
def test_a_vector_that_is_not_finite_finds_nothing(number):
    served = Served.of(5)
    served.states.pool.last_SD[served.states.slot(1)] = number
    with pytest.raises(ValueError, match="finite"):
        served.lists([0, 1], 5)
    assert served.lists([0, 2], 5).full_B == [True, True]


def test_who_is_not_held_is_not_served_but_found_all_the_same():
    served, stages = Served.of(6), Served.of(6)
    for one in (served, stages):
        one.states.forget(3)
    assert served.direct.serves(2) and not served.direct.serves(3)
    found, ranked = served.lists([2, 3], 5), stages.ranked([2, 3], [5, 5])
    for rows_K, scores_K, theirs in zip(*found[:2], ranked.found, strict=True):
        assert rows_K.tolist() == theirs.rows_K.tolist()
        assert scores_K.tobytes() == theirs.scores_K.tobytes()
    assert served.direct.serves(3)


def test_of_whom_the_model_knows_nothing_no_list_is_made():
    served = Served.of(6)
    served.histories[USERS] = History(np.array([NUM_ROWS + 3], np.int32), np.array([START_MS]))
    with pytest.raises(ValueError, match="nothing that the model knows"):
        served.lists([2, USERS], 5)


def test_a_search_for_another_thread_is_not_done_here(monkeypatch):
    served = Served.of(7)
    monkeypatch.setattr(served.search, "brief", lambda queries, most: False)
    assert not served.direct.serves(2)


def test_who_was_asked_for_is_not_the_next_to_give_way():
    served = Served.of(8)
    served.lists([0, 1], 5)
    assert served.states.pool.users()[-2:] == [0, 1]
    assert served.states.stats.hits == 2


def with_blend_first(states, search):
    others = [PopularSource(np.ones(NUM_ROWS, np.float32), name=name) for name in BLENDED[1:]]
    blend = BlendSources(Blender(np.zeros((2, len(BLENDED), 3))), others)
    return [blend, EncodeUser(states), search, DropForbidden(), TopK()]


def with_ranker(states, search):
    ranker = type("Ranker", (), {"actions": ("interact",), "num_rows": NUM_ROWS})()
    stages = [EncodeUser(states), search, FillFrom(POPULAR), DropForbidden()]
    return [*stages, RankCandidates(ranker), TopK()]


def with_other_states(_, search):
    class States:
        """Keeps the promises of the state stage, and holds nothing."""

    return [EncodeUser(States()), search, DropForbidden(), TopK()]


def without_search(states, _):
    return [EncodeUser(states), FillFrom(POPULAR), DropForbidden(), TopK()]


def in_another_order(states, search):
    return [FillFrom(POPULAR), EncodeUser(states), search, DropForbidden(), TopK()]


OTHERS = [with_blend_first, with_ranker, with_other_states, without_search, in_another_order]


@pytest.mark.parametrize("stages", OTHERS)
def test_a_path_that_does_more_to_a_full_list_is_left_to_the_stages(stages):
    served = Served.of(9)
    assert DirectSearch.of(Pipeline(stages(served.states, served.search))) is None
    assert DirectSearch.of(served.pipeline) is not None
