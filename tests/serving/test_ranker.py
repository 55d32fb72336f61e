"""A ranker behind the server: its lists, a click in the next of them, a fault that costs order."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest

from ouzel.events.types import Interaction, ItemUpdate
from ouzel.ranking.scoring import RankCandidates
from ouzel.serving.arranging import PinIn
from ouzel.serving.home import open_home
from ouzel.serving.timing import Timing
from ouzel.serving.wire import RankRequest, RecommendRequest
from tests.serving.real_home import in_service, write_home
from tests.tiny import NUM_ROWS

NOW_MS = 10**13
USERS = [f"u{number}" for number in range(6)]


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setattr("ouzel.events.clock.now_ms", lambda: NOW_MS)
    write_home(tmp_path / "home", ranker=True)
    return tmp_path / "home"


def stage_of(engine) -> RankCandidates:
    (stage,) = (s for s in engine.answers.pipeline.stages if isinstance(s, RankCandidates))
    return stage


def asked(engine, *users, **more):
    requests = [RecommendRequest(user_id=user, n=5, **more) for user in users]
    return engine.answers.rank(requests, [Timing() for _ in requests])


def test_lists_are_those_of_the_ranker_alone_and_in_a_crowd(home) -> None:
    engine = open_home(home, state_bytes=1 << 20)

    async def work():
        requests = [RecommendRequest(user_id=user, n=5) for user in USERS]
        crowd = await asyncio.gather(*(engine.answers.answer(r, Timing()) for r in requests))
        stage_of(engine)  # it is there
        return crowd, [asked(engine, user)[0] for user in USERS]

    for together, alone in zip(*in_service(engine, work), strict=True):
        assert together.degraded is None and len(together.found) == 5
        assert together.found.rows_K.tolist() == alone.found.rows_K.tolist()
        np.testing.assert_allclose(together.found.scores_K, alone.found.scores_K, atol=1e-4)


def test_weights_change_the_order(home) -> None:
    lists = []
    for weights in (None, {"like": 1.0}):
        engine = open_home(home, state_bytes=1 << 20, weights=weights)

        async def work(engine=engine):
            return asked(engine, "u1")[0].found.rows_K.tolist()

        lists.append(in_service(engine, work))
    assert lists[0] != lists[1]


def test_a_click_changes_the_next_scores(home) -> None:
    engine = open_home(home, state_bytes=1 << 20)

    async def work():
        before = asked(engine, "u2", exclude_seen=False)[0].found
        click = Interaction(
            event_id="click", timestamp_ms=NOW_MS, item_id="i3", event="view", user_id="u2"
        )
        await engine.writer.append([click])
        return before, asked(engine, "u2", exclude_seen=False)[0].found

    before, after = in_service(engine, work)
    assert before.scores_K.tolist() != after.scores_K.tolist()


def test_a_broken_ranker_costs_the_order_and_no_answer(home) -> None:
    engine = open_home(home, state_bytes=1 << 20)

    async def work():
        def broken(asking, candidates_BK):
            raise RuntimeError("planted")

        stage_of(engine).ranker.logits = broken
        return asked(engine, *USERS)

    for answer in in_service(engine, work):
        assert answer.degraded == "ranker" and len(answer.found) == 5
        assert (np.diff(answer.found.scores_K) <= 0).all()  # the order of retrieval


def test_items_that_came_after_the_model_come_last_and_the_others_are_ranked(home) -> None:
    engine = open_home(home, state_bytes=1 << 20)

    async def work():
        await engine.writer.append(
            [ItemUpdate(event_id="n", timestamp_ms=NOW_MS, item_id="new", columns={})]
        )
        own = ["new", "i4", "i9", "i2"]
        ranked = await engine.answers.answer(RankRequest(user_id="u1", items=own), Timing())
        known = await engine.answers.answer(RankRequest(user_id="u1", items=own[1:]), Timing())
        pinned = RecommendRequest(user_id="u1", n=5, pins=[PinIn(item_id="new", position=2)])
        return ranked, known, await engine.answers.answer(pinned, Timing())

    ranked, known, pinned = in_service(engine, work)
    assert ranked.degraded is None and pinned.degraded is None
    assert ranked.found.rows_K.tolist() == [*known.found.rows_K.tolist(), NUM_ROWS]
    assert ranked.found.names[ranked.found.sources_K[-1]] == "unscored"
    assert pinned.found.rows_K[1] == NUM_ROWS


def test_weights_of_sources_are_not_the_rankers_business(home) -> None:
    lists = []
    for with_ranker in (True, False):
        engine = open_home(home, state_bytes=1 << 20)
        if not with_ranker:
            stage_of(engine).run = lambda work: work
            stage_of(engine).begin = lambda work, done: None

        async def work(engine=engine):
            weighed = RecommendRequest(user_id="u1", n=5, sources={"popular": 1.0})
            united = RecommendRequest(user_id="u1", n=5, breadth=30)
            return [await engine.answers.answer(one, Timing()) for one in (weighed, united)]

        lists.append(in_service(engine, work))
    (weighed, united), (weighed_alone, united_alone) = lists
    assert weighed.found.rows_K.tolist() == weighed_alone.found.rows_K.tolist()
    assert united.found.rows_K.tolist() != united_alone.found.rows_K.tolist()
    assert weighed.found.ranks_KS is not None  # who proposed what is still known
