"""Search beside the event loop: the same answers, in any company, up to the end of the server."""

from __future__ import annotations

import asyncio

import pytest

from ouzel.ranking import assembly
from ouzel.retrieval.scan import ScanIndex
from ouzel.serving.child import core_numbers
from ouzel.serving.home import open_home
from ouzel.serving.timing import Timing
from ouzel.serving.wire import RecommendRequest
from tests.serving.real_home import write_home

pytestmark = pytest.mark.skipif(
    not ScanIndex.works() or len(core_numbers()) < 2, reason="no scan kernel, or one core only"
)
USERS = [f"u{number}" for number in range(6)]


@pytest.fixture
def engine(tmp_path, monkeypatch):
    # Every vector of a tiny catalogue is a candidate: recall is enough whatever the codes.
    monkeypatch.setattr(assembly, "EXACT_ROWS", 0)
    monkeypatch.setattr("ouzel.events.clock.now_ms", lambda: 10**12)
    write_home(tmp_path / "home")
    return open_home(tmp_path / "home", state_bytes=1 << 20)


def in_service(engine, work):
    async def service():
        await engine.start()
        try:
            return await work()
        finally:
            await engine.close()

    return asyncio.run(service())


def lists(answers):
    return [(a.found.rows_K.tolist(), a.found.scores_K.tolist(), a.degraded) for a in answers]


def test_a_crowd_is_answered_beside_the_loop_as_one_by_one_in_it(engine):
    async def work():
        submitted = []
        submit = engine._scanning.submit
        engine._scanning.submit = lambda *one: submitted.append(1) or submit(*one)
        asked = [RecommendRequest(user_id=user, n=5) for user in USERS * 8]
        crowd = await asyncio.gather(*(engine.answers.answer(one, Timing()) for one in asked))
        assert len(submitted) >= len(asked) // 16
        alone = [engine.answers.rank([one], [Timing()])[0] for one in asked]
        return lists(crowd), lists(alone)

    crowd, alone = in_service(engine, work)
    assert crowd == alone
    assert {degraded for _, _, degraded in crowd} == {None}


def test_a_search_that_cannot_be_begun_is_done_in_the_loop(engine, monkeypatch):
    async def work():
        def refuse(*_):
            raise RuntimeError("planted")

        monkeypatch.setattr(engine._scanning, "submit", refuse)
        asked = [RecommendRequest(user_id=user, n=5) for user in USERS]
        return await asyncio.gather(*(engine.answers.answer(one, Timing()) for one in asked))

    answers = in_service(engine, work)
    assert {answer.degraded for answer in answers} == {None}
    assert engine.answers.pipeline.failures["search"] > 0


def test_a_server_that_stops_with_a_search_under_way_ends(engine):
    async def work():
        asked = [RecommendRequest(user_id=user, n=5) for user in USERS * 4]
        tasks = [asyncio.create_task(engine.answers.answer(one, Timing())) for one in asked]
        for _ in range(3):
            await asyncio.sleep(0)
        for task in tasks:
            task.cancel()

    in_service(engine, work)
    assert engine._scanning is not None
