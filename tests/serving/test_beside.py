"""Search beside the event loop: the same answers, in any company, up to the end of the server."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest

from ouzel.ranking import assembly, direct, stages
from ouzel.ranking.pipeline import Work
from ouzel.retrieval.scan import ScanIndex
from ouzel.retrieval.types import Candidates, Query
from ouzel.serving.answers import MAX_UNDER_WAY
from ouzel.serving.child import core_numbers
from ouzel.serving.home import open_home
from ouzel.serving.timing import Timing
from ouzel.serving.wire import RecommendRequest
from tests.serving.real_home import in_service, write_home

pytestmark = pytest.mark.skipif(
    not ScanIndex.works() or len(core_numbers()) < 2, reason="no scan kernel, or one core only"
)
USERS = [f"u{number}" for number in range(6)]


@pytest.fixture
def engine(tmp_path, monkeypatch):
    # Every vector of a tiny catalogue is a candidate: recall is enough whatever the codes.
    monkeypatch.setattr(assembly, "EXACT_ROWS", 0)
    # And no search is so brief that the loop does it.
    monkeypatch.setattr(stages, "BRIEF_BYTES", 0)
    monkeypatch.setattr(direct, "DIRECT_BYTES", 0)
    monkeypatch.setattr("ouzel.events.clock.now_ms", lambda: 10**12)
    write_home(tmp_path / "home")
    return open_home(tmp_path / "home", state_bytes=1 << 20)


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


def test_a_brief_search_stays_in_the_loop(engine, monkeypatch):
    """One that reads so little is done before another thread would be awake."""
    stage = next(s for s in engine.answers.pipeline.stages if isinstance(s, stages.SearchIndex))
    vectors = np.ones((3, stage.index.engine.vectors_ND.shape[1]), np.float32)
    queries = [Query(k=5, now_ms=0).with_vector(vector) for vector in vectors]
    work = Work(tuple(queries), tuple(Candidates.empty() for _ in queries))
    more = Work((*work.queries, queries[0]), (*work.found, Candidates.empty()))

    async def begun():
        beside = [stage.begin(work, lambda: None) is not None]
        monkeypatch.setattr(stages, "BRIEF_BYTES", 3 * stage.index.query_bytes)
        return [*beside, *(stage.begin(one, lambda: None) is not None for one in (work, more))]

    assert in_service(engine, begun) == [True, False, True]


def test_vectors_that_change_under_load_are_in_the_very_next_answers(engine):
    async def work():
        (search,) = engine._searches
        asked = [RecommendRequest(user_id=user, n=5) for user in USERS * 8]
        stopping = []

        async def crowd():
            return await asyncio.gather(*(engine.answers.answer(one, Timing()) for one in asked))

        async def keep_asking():
            while not stopping:
                await crowd()

        load = asyncio.create_task(keep_asking())
        before = lists(await crowd())
        row = before[0][0][0]
        vector = search.index.vector(row).copy()
        for _ in range(3):
            search.index.remove(np.array([row], np.int32))
            during = lists(await crowd())
            search.index.rebuild()
            rebuilt = lists(await crowd())
            assert not any(row in rows for rows, _, _ in during + rebuilt)
            search.index.add(np.array([row], np.int32), vector[None])
            after = lists(await crowd())
            assert [rows for rows, _, _ in after] == [rows for rows, _, _ in before]
        stopping.append(True)
        await load
        assert {degraded for _, _, degraded in during + after} == {None}

    in_service(engine, work)


def test_a_search_that_is_not_taken_is_done_in_the_loop_and_the_next_one_beside_it(
    engine, monkeypatch
):
    async def work():
        kernel, planted = engine._scanning._kernel, []

        class Refusing:
            def ouzel_worker_submit(self, *_):
                planted.append(1)
                return 0

            def __getattr__(self, name):
                return getattr(kernel, name)

        asked = [RecommendRequest(user_id=user, n=5) for user in USERS]
        engine._scanning._kernel = Refusing()
        during = await asyncio.gather(*(engine.answers.answer(one, Timing()) for one in asked))
        engine._scanning._kernel = kernel
        after = await asyncio.gather(*(engine.answers.answer(one, Timing()) for one in asked))
        assert planted and engine.answers._under_way == 0
        return lists(during), lists(after)

    during, after = in_service(engine, work)
    assert during == after
    assert {degraded for _, _, degraded in after} == {None}
    assert engine.answers.pipeline.failures["search"] > 0


def test_who_comes_while_two_passes_are_under_way_gathers_for_the_next(engine, monkeypatch):
    async def work():
        held, most = [], []
        submit = engine._scanning.submit

        def hold(begun, done):
            held.append((begun, done))
            most.append(engine.answers._under_way)

        monkeypatch.setattr(engine._scanning, "submit", hold)
        asked = [RecommendRequest(user_id=user, n=5) for user in USERS * 10]
        tasks = [asyncio.create_task(engine.answers.answer(one, Timing())) for one in asked]
        for _ in range(20):
            await asyncio.sleep(0)
        assert len(held) == MAX_UNDER_WAY
        monkeypatch.setattr(engine._scanning, "submit", submit)
        for begun, done in held:
            submit(begun, done)
        answers = await asyncio.gather(*tasks)
        assert max(most) <= MAX_UNDER_WAY and engine.answers._under_way == 0
        return lists(answers), lists(engine.answers.rank([one], [Timing()])[0] for one in asked)

    crowd, alone = in_service(engine, work)
    assert crowd == alone


def test_a_pass_that_fails_after_its_search_frees_its_place(engine, monkeypatch):
    async def work():
        advance, calls = engine.answers.pipeline.advance, []

        def failing(passing, beside=None):
            calls.append(passing.finish is not None)
            if calls[-1]:
                raise RuntimeError("planted")
            return advance(passing, beside)

        monkeypatch.setattr(engine.answers.pipeline, "advance", failing)
        asked = [RecommendRequest(user_id=user, n=5) for user in USERS]
        failed = await asyncio.gather(
            *(engine.answers.answer(one, Timing()) for one in asked), return_exceptions=True
        )
        monkeypatch.setattr(engine.answers.pipeline, "advance", advance)
        assert any(calls) and any(isinstance(one, RuntimeError) for one in failed)
        assert engine.answers._under_way == 0
        return await asyncio.gather(*(engine.answers.answer(one, Timing()) for one in asked))

    assert {answer.degraded for answer in in_service(engine, work)} == {None}


def test_a_server_that_stops_with_searches_under_way_ends(engine):
    async def work():
        asked = [RecommendRequest(user_id=user, n=5) for user in USERS * 7]
        tasks = [asyncio.create_task(engine.answers.answer(one, Timing())) for one in asked]
        for _ in range(2):
            await asyncio.sleep(0)
        assert engine.answers._under_way and engine.answers._waiting
        for task in tasks:
            task.cancel()

    scanning = []

    async def noted():
        scanning.append(engine._scanning)
        await work()

    in_service(engine, noted)
    scanning[0].close()  # a second time: nothing
    with pytest.raises(RuntimeError, match="not taken"):
        scanning[0].submit(None, None)
