"""A ranker beside the event loop: the same lists, over states that change; given up if it hangs."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest

from ouzel.inference.target_attention import TargetAttentionKernel
from ouzel.ranking import assembly
from ouzel.ranking.scoring import RankCandidates
from ouzel.retrieval.scan import ScanIndex
from ouzel.serving import answers as answers_module
from ouzel.serving.child import core_numbers
from ouzel.serving.home import open_home
from ouzel.serving.timing import Timing
from ouzel.serving.wire import RecommendRequest
from tests.serving.real_home import in_service, write_home

pytestmark = pytest.mark.skipif(
    not (ScanIndex.works() and TargetAttentionKernel.works()) or len(core_numbers()) < 2,
    reason="no kernel, or one core only",
)
USERS = [f"u{number}" for number in range(6)]


@pytest.fixture
def engine(tmp_path, monkeypatch):
    # Every vector of a tiny catalogue is a candidate: recall is enough whatever the codes.
    monkeypatch.setattr(assembly, "EXACT_ROWS", 0)
    monkeypatch.setattr("ouzel.events.clock.now_ms", lambda: 10**13)
    write_home(tmp_path / "home", ranker=True)
    return open_home(tmp_path / "home", state_bytes=1 << 20)


def stage_of(engine) -> RankCandidates:
    (stage,) = (s for s in engine.answers.pipeline.stages if isinstance(s, RankCandidates))
    return stage


def lists(answers):
    return [(a.found.rows_K.tolist(), a.found.scores_K.tolist(), a.degraded) for a in answers]


def crowd(engine, times=4):
    asked = [RecommendRequest(user_id=user, n=5) for user in USERS * times]
    return asyncio.gather(*(engine.answers.answer(one, Timing()) for one in asked))


def alone(engine, times=4):
    asked = [RecommendRequest(user_id=user, n=5) for user in USERS * times]
    return [engine.answers.rank([one], [Timing()])[0] for one in asked]


def held(engine):
    """Keep what is ranked from the worker; return it, and what submits it after all."""
    kept, submit = [], engine._scanning.submit

    def hold(begun, done):
        if hasattr(begun, "logits_BKA"):
            kept.append((begun, done))
        else:
            submit(begun, done)

    engine._scanning.submit = hold
    return kept, submit


async def until(true):
    for _ in range(2000):
        if true():
            return
        await asyncio.sleep(0.001)
    raise AssertionError("it did not happen")


def test_a_crowd_is_ranked_beside_the_loop_as_one_by_one_in_it(engine):
    async def work():
        ranked, submit = [], engine._scanning.submit
        engine._scanning.submit = lambda begun, done: (
            ranked.append(hasattr(begun, "logits_BKA")) or submit(begun, done)
        )
        found = lists(await crowd(engine))
        assert any(ranked)
        return found, lists(alone(engine))

    together, one_by_one = in_service(engine, work)
    assert [rows for rows, _, _ in together] == [rows for rows, _, _ in one_by_one]
    for (_, ours, degraded), (_, theirs, _) in zip(together, one_by_one, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-5)
        assert degraded is None


def test_states_that_change_or_go_while_they_are_ranked_change_no_answer(engine):
    async def work():
        expected = lists(alone(engine, times=1))
        kept, submit = held(engine)
        waiting = asyncio.ensure_future(crowd(engine, times=1))
        await until(lambda: kept)
        # The worst that an append or another user's state could do to the rings.
        for array in engine._states.pool.cache:
            array[:] = 77
        engine._states.pool.length_S[:] = 1
        engine._scanning.submit = submit
        for begun, done in kept:
            submit(begun, done)
        found = lists(await waiting)
        for user in range(len(USERS)):
            engine._states.forget(user)
        return expected, found

    expected, found = in_service(engine, work)
    assert {degraded for _, _, degraded in found} == {None}
    assert [rows for rows, _, _ in found] == [rows for rows, _, _ in expected]
    for (_, ours, _), (_, theirs, _) in zip(found, expected, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-5)


def test_a_ranking_that_hangs_is_given_up_at_the_deadline_and_named(engine, monkeypatch):
    async def work():
        monkeypatch.setattr(answers_module, "DEADLINE_MS", 200.0)
        monkeypatch.setattr(answers_module, "WATCH_SECONDS", 0.01)
        kept, submit = held(engine)
        during = await asyncio.wait_for(crowd(engine, times=1), timeout=60)
        assert kept and engine.answers._under_way == 0
        engine._scanning.submit = submit
        for _, done in kept:  # far too late, and to no effect
            done()
        assert engine.answers._under_way == 0
        monkeypatch.undo()
        for pipeline in engine.answers.paths.all:
            pipeline._rest_until["ranker"] = pipeline._rest_until["search"] = 0.0
        return during, await crowd(engine, times=1)

    during, after = in_service(engine, work)
    assert {answer.degraded for answer in during} == {"ranker"}
    for answer in during:
        assert len(answer.found) == 5 and (np.diff(answer.found.scores_K) <= 0).all()
    assert {answer.degraded for answer in after} == {None}


@pytest.mark.parametrize("fault", ["NaN", "no memory", "not taken"])
def test_a_fault_beside_the_loop_is_no_error(engine, fault):
    async def work():
        submit, planted = engine._scanning.submit, []

        def faulty(begun, done):
            if not hasattr(begun, "logits_BKA"):
                return submit(begun, done)
            planted.append(1)
            if fault == "not taken":
                raise RuntimeError("planted")
            begun.failed = fault == "no memory"
            begun.logits_BKA[:] = np.nan
            asyncio.get_running_loop().call_soon(done)

        engine._scanning.submit = faulty
        found = lists(await crowd(engine, times=1))
        assert planted
        return found, lists(alone(engine, times=1))

    found, expected = in_service(engine, work)
    # Each is ranked again, alone and in the loop.
    assert {degraded for _, _, degraded in found} == {None}
    assert [rows for rows, _, _ in found] == [rows for rows, _, _ in expected]
    assert engine.answers.pipeline.failures["ranker"] > 0
