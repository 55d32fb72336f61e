"""A server answers what it was asked lately before it says that it is ready."""

from __future__ import annotations

import asyncio
import gc
import threading
import time

from ouzel.events.types import Impression
from ouzel.serving.threads import THREADS_BESIDE
from ouzel.serving.warm_up import MOST_REQUESTS, warm_up_requests
from ouzel.serving.wire import RecommendRequest, SimilarRequest
from tests.serving.doubles import make_engine
from tests.serving.real_home import in_service


def shown(number, **who):
    return Impression(
        event_id=f"shown-{number}",
        timestamp_ms=2_000_000 + number,
        request_id=f"r{number}",
        item_ids=(f"i{number % 40 + 1}", "i2", "i3"),
        model_version="NextItem+0",
        **who,
    )


def test_those_who_asked_last_come_first_each_once(engine):
    engine.log.append([shown(1, user_id="bo"), shown(2, session_id="s"), shown(3, user_id="bo")])
    asked = warm_up_requests(engine.log, ["ada", "bo"])
    assert asked == [
        RecommendRequest(),
        RecommendRequest(user_id="bo", n=3),
        RecommendRequest(session_id="s", n=3),
        RecommendRequest(user_id="ada"),
        SimilarRequest(item_id="i4"),
        SimilarRequest(item_id="i3"),
        SimilarRequest(item_id="i2"),
    ]
    engine.log.close()


def test_a_log_in_which_nothing_was_shown_gives_its_users(engine):
    asked = warm_up_requests(engine.log, ["ada", "bo"])
    assert [request.user_id for request in asked] == [None, "ada", "bo"]
    engine.log.close()


def test_they_are_never_too_many(engine):
    engine.log.append([shown(number, user_id=f"user {number}") for number in range(500)])
    asked = warm_up_requests(engine.log, [f"known {number}" for number in range(200)])
    assert len(asked) == MOST_REQUESTS
    assert asked[1].user_id == "user 499"
    engine.log.close()


def test_only_the_newest_events_are_looked_through(engine, monkeypatch):
    monkeypatch.setattr("ouzel.events.log_read.LATELY", 5)
    engine.log.append([shown(number, user_id=f"user {number}") for number in range(9)])
    found = [one.request_id for one in engine.log.last_impressions(100)]
    assert found == ["r8", "r7", "r6", "r5", "r4"]
    engine.log.close()


def test_it_is_ready_after_that_with_states_made_and_the_collector_at_rest(tmp_path, monkeypatch):
    engine = make_engine(tmp_path)
    engine.log.append([shown(1, user_id="bo")])
    order = []
    answer, freeze = engine.answers.answer, gc.freeze

    async def noted(request, timing):
        order.append(("asked", engine.ready))
        return await answer(request, timing)

    monkeypatch.setattr(engine.answers, "answer", noted)
    monkeypatch.setattr(gc, "freeze", lambda: order.append(("frozen", engine.ready)) or freeze())

    async def work():
        assert engine.ready
        assert gc.get_freeze_count() > 1000
        return set(engine._states.pool.users())

    assert len(in_service(engine, work)) == 2
    assert order == [("asked", False)] * (len(order) - 1) + [("frozen", False)]
    assert len(order) > 3


def test_few_threads_do_what_is_long_however_much_there_is(tmp_path):
    async def work():
        names = set()

        def long():
            names.add(threading.current_thread().name)
            time.sleep(0.01)

        await asyncio.gather(*(asyncio.to_thread(long) for _ in range(20)))
        return names

    assert len(in_service(make_engine(tmp_path), work)) == THREADS_BESIDE
