"""States made by another process: the same as without, also when events or death come between."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from types import SimpleNamespace

import numpy as np
import pytest

from ouzel.events.interactions import History
from ouzel.events.types import Interaction
from ouzel.inference.rebuild import Workbench
from ouzel.serving.child import Child
from ouzel.serving.home import open_home
from ouzel.serving.rebuilds import Encoder, Rebuilds, encode_ms
from ouzel.serving.timing import Timing
from ouzel.serving.wire import RecommendRequest
from tests.inference.test_exactness import BOUND, append, states_of, vector
from tests.serving.real_home import in_service, write_home
from tests.tiny import START_MS, oracle, random_history, tiny_graphs, tiny_model

STATE_BYTES = 1 << 20
NOW_MS = START_MS + 10**10
USERS = [f"u{number}" for number in range(6)]


@pytest.fixture(autouse=True)
def still_clock(monkeypatch):
    monkeypatch.setattr("ouzel.events.clock.now_ms", lambda: NOW_MS)


@pytest.fixture
def engine(tmp_path, monkeypatch):
    monkeypatch.setattr("ouzel.serving.rebuilds.BRIEF_ENCODE_MS", 0.0)  # none is brief
    write_home(tmp_path / "home")
    engine = open_home(tmp_path / "home", state_bytes=STATE_BYTES)
    assert engine._encoder is not None
    yield engine


def test_an_encode_that_is_brief_takes_no_process(tmp_path, monkeypatch):
    """Neither does it take one for what is asked of it: the answers are the same."""
    write_home(tmp_path / "home")
    monkeypatch.setattr("ouzel.serving.rebuilds.BRIEF_ENCODE_MS", 1e6)
    engine = open_home(tmp_path / "home", state_bytes=STATE_BYTES)
    assert engine._encoder is None and engine._rebuilds is None
    brief = in_service(engine, lambda: crowd(engine))
    monkeypatch.setattr("ouzel.serving.rebuilds.BRIEF_ENCODE_MS", 0.0)
    engine = open_home(tmp_path / "home", state_bytes=STATE_BYTES)
    assert engine._encoder is not None
    same(brief, in_service(engine, lambda: crowd(engine)))


@pytest.mark.parametrize(("slow_from", "tried"), [(0, [5, 5]), (50, [5] * 5 + [50] * 2)])
def test_what_is_not_brief_is_not_tried_for_long(monkeypatch, slow_from, tried):
    asked = []

    def slow(encoder, histories, now_B):
        asked.append(len(histories[0]))
        time.sleep(0.005 if len(histories[0]) >= slow_from else 0)

    shape = SimpleNamespace(receptive_field=50)
    monkeypatch.setattr("ouzel.serving.rebuilds.HistoryEncoder.__init__", lambda *_, **__: None)
    monkeypatch.setattr("ouzel.serving.rebuilds.HistoryEncoder.__call__", slow)
    monkeypatch.setattr("ouzel.serving.rebuilds.FEW_EVENTS", 5)
    assert encode_ms(SimpleNamespace(shape=shape, num_rows=9)) >= 5.0
    assert asked == tried


async def crowd(engine):
    asked = [RecommendRequest(user_id=user, n=5) for user in USERS]
    answers = await asyncio.gather(*(engine.answers.answer(one, Timing()) for one in asked))
    return [(a.found.rows_K.tolist(), a.found.scores_K, a.degraded) for a in answers]


def same(one, other):
    for (rows, scores, degraded), (rows_too, scores_too, degraded_too) in zip(
        one, other, strict=True
    ):
        assert rows == rows_too and degraded is None and degraded_too is None
        np.testing.assert_allclose(scores, scores_too, atol=BOUND)


def test_a_crowd_is_answered_as_one_by_one(engine):
    async def work():
        handed, call = [], engine._encoder.call
        engine._encoder.call = lambda history: handed.append(1) or call(history)
        for user in engine._states.pool.users():
            engine._states.forget(user)
        together = await crowd(engine)
        assert len(handed) == len(USERS)
        asked = [RecommendRequest(user_id=user, n=5) for user in USERS]
        alone = [engine.answers.rank([one], [Timing()])[0] for one in asked]
        return together, [(a.found.rows_K.tolist(), a.found.scores_K, a.degraded) for a in alone]

    same(*in_service(engine, work))


def test_without_the_encoding_process_the_server_answers_the_same(engine, caplog):
    async def work():
        before = await crowd(engine)
        os.kill(engine._encoder._pid, signal.SIGKILL)
        for user in engine._states.pool.users():
            engine._states.forget(user)
        during = await crowd(engine)
        while engine._encoder.alive:
            await asyncio.sleep(0.01)
        return before, during, await crowd(engine)

    before, during, after = in_service(engine, work)
    same(before, during)
    same(before, after)
    assert "process has gone" in caplog.text


def test_a_click_on_the_way_to_a_new_state_is_in_it(engine):
    async def work():
        user = engine.log.user_row(user_id="u1")
        engine._states.forget(user)
        asking = asyncio.create_task(
            engine.answers.answer(RecommendRequest(user_id="u1", n=5), Timing())
        )
        click = Interaction(
            event_id="c", timestamp_ms=NOW_MS, item_id="i9", event="click", user_id="u1"
        )
        await engine.writer.append([click])
        await asking
        (answer,) = engine.answers.rank([RecommendRequest(user_id="u1", n=5)], [Timing()])
        assert engine._states.audit(user) < BOUND
        assert 9 not in answer.found.rows_K.tolist()

    in_service(engine, work)


def test_the_first_event_of_a_session_brings_the_state_in(engine):
    """The next answer finds it: nothing is encoded any more when it is asked for."""

    async def work():
        user = engine.log.user_row(user_id="u1")
        engine._states.forget(user)
        misses = engine._states.stats.misses
        click = Interaction(
            event_id="c", timestamp_ms=NOW_MS, item_id="i9", event="click", user_id="u1"
        )
        await engine.writer.append([click])
        while engine._rebuilds._made:
            await asyncio.sleep(0.001)
        assert engine._states.contains(user)
        assert engine._states.stats.prefetches == 1
        assert engine._states.stats.misses == misses  # nobody asked
        hits = engine._states.stats.hits
        engine._encoder.call = None  # whoever calls it now fails
        answer = await engine.answers.answer(RecommendRequest(user_id="u1", n=5), Timing())
        assert answer.degraded is None and 9 not in answer.found.rows_K.tolist()
        assert engine._states.stats.hits == hits + 1
        assert engine._states.audit(user) < BOUND

    in_service(engine, work)


def test_prefetching_gives_way_to_those_who_ask():
    histories = {user: random_history(np.random.default_rng(user), 5) for user in range(9)}
    states = states_of(histories, slots=9)
    bench = Workbench(tiny_graphs())

    async def work():
        child.start()
        rebuilds = Rebuilds(states, Encoder(child, bench))
        for user in (0, 0, 1, 2, 3, 4, 5, -1):
            rebuilds.prefetch(user)
        assert list(rebuilds._made) == [0, 1, 2, 3]
        # Who asks while it is made finds no state either: a miss, but only one.
        await asyncio.gather(*(rebuilds.wait_for(user, seconds=60) for user in (0, 0, 8, 8)))
        rebuilds.prefetch(8)  # is held
        assert states.contains(8) and states.stats.prefetches == 4
        assert states.stats.misses == 2

    child = Child(bench.work, name="test")
    asyncio.run(work())
    child.close()


@pytest.mark.parametrize("late", [False, True], ids=["newer", "older"])
def test_events_between_the_ends_of_a_rebuild_count(late):
    histories = {0: random_history(np.random.default_rng(5), 12)}
    states = states_of(histories)
    before = states.begin_rebuild(0)
    asked = {"rows": before.rows, "times_ms": before.times_ms}
    bench = Workbench(tiny_graphs())
    bench.work(asked)
    time_ms = START_MS - 1 if late else int(before.times_ms[-1]) + 5
    append(histories, 0, 3, time_ms)
    states.observe(0, 3, time_ms)
    states.end_rebuild(0, before, bench.made)
    assert states.contains(0) is not late  # an older event makes another history: encode it anew
    now_ms = int(histories[0].times_ms[-1]) + 60_000
    expected = oracle(tiny_model(), histories[0], now_ms)
    assert np.abs(vector(states, 0, now_ms) - expected).max() < BOUND


def test_an_audit_in_the_other_process_finds_what_one_here_finds(engine, monkeypatch):
    async def work():
        await crowd(engine)
        user = engine.log.user_row(user_id="u1")
        slot = engine._states.pool.slot(user)
        audit = engine._states.begin_audit(user)
        assert await engine._rebuilds.error_of(audit) == audit.error() < BOUND
        engine._states.pool.cache[1][slot] += 0.5
        audit = engine._states.begin_audit(user)
        monkeypatch.setattr(engine._states._graphs, "encode", None)  # not here, that is
        assert await engine._rebuilds.error_of(audit) >= 0.5
        monkeypatch.undo()
        engine._states.pool.hash_S[slot] += 1
        audit = engine._states.begin_audit(user)
        assert await engine._rebuilds.error_of(audit) == float("inf")
        os.kill(engine._encoder._pid, signal.SIGKILL)
        assert await engine._rebuilds.error_of(audit) == float("inf")

    in_service(engine, work)


def test_a_user_who_does_nothing_known_is_not_rebuilt():
    states = states_of({0: History(np.empty(0, np.int32), np.empty(0, np.int64))})
    assert states.begin_rebuild(0) is None


def test_one_user_is_encoded_once_and_who_gives_up_stops_nobody():
    histories = {0: random_history(np.random.default_rng(6), 9)}
    states = states_of(histories)

    bench = Workbench(tiny_graphs())

    def slow(asked):
        time.sleep(0.2)
        return bench.work(asked)

    async def work():
        child.start()
        rebuilds = Rebuilds(states, Encoder(child, bench))
        hasty = asyncio.create_task(rebuilds.wait_for(0, seconds=0.01))
        patient = asyncio.create_task(rebuilds.wait_for(0, seconds=60))
        await hasty
        assert not states.contains(0)
        await patient
        assert states.contains(0) and states.stats.rebuilds == 1

    child = Child(slow, name="test")
    asyncio.run(work())
    child.close()


def test_many_long_histories_at_once_do_not_stop_the_loop():
    count, length = 64, 20_000
    histories = {user: random_history(np.random.default_rng(user), length) for user in range(count)}
    states = states_of(histories, slots=count)
    bench = Workbench(tiny_graphs())

    async def work():
        child.start()
        rebuilds = Rebuilds(states, Encoder(child, bench))
        await asyncio.gather(*(rebuilds.wait_for(user, seconds=60) for user in histories))

    child = Child(bench.work, name="test")
    asyncio.run(asyncio.wait_for(work(), 60))
    child.close()
    assert all(states.contains(user) for user in histories)
    assert max(states.audit(user) for user in histories) < BOUND
