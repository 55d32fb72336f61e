from __future__ import annotations

import asyncio
import itertools
import time

import pytest

from ouzel.serving import answers as answers_module
from ouzel.serving import timing as timing_module
from ouzel.serving.answers import DEADLINE_MS
from ouzel.serving.timing import Timing
from ouzel.serving.wire import RecommendRequest
from tests.serving.doubles import make_engine


@pytest.fixture
def engine(tmp_path):
    engine = make_engine(tmp_path)
    asked = [RecommendRequest(user_id=user) for user in ("ada", "bo")]
    engine.answers.rank(asked, [Timing(), Timing()])
    yield engine
    engine.log.close()


@pytest.fixture
def passes(engine, monkeypatch):
    """Return the sizes of the passes that the pipeline ran."""
    sizes = []
    run = engine.answers.pipeline.begin

    def counted(queries):
        sizes.append(len(queries))
        return run(queries)

    monkeypatch.setattr(engine.answers.pipeline, "begin", counted)
    return sizes


def ask(engine, users):
    async def all_at_once():
        requests = [RecommendRequest(user_id=user, n=3) for user in users]
        return await asyncio.gather(
            *(engine.answers.answer(request, Timing()) for request in requests)
        )

    return asyncio.run(all_at_once())


def test_requests_of_one_tick_share_a_pass(engine, passes):
    answers = ask(engine, ["ada", "bo", "nobody", "ada"])
    assert passes == [4]
    rows = [answer.found.rows_K.tolist() for answer in answers]
    assert rows == [[13, 14, 15], [32, 33, 34], [7, 1, 2], [13, 14, 15]]


def test_a_pass_is_capped(engine, passes, monkeypatch):
    monkeypatch.setattr(answers_module, "MAX_PASS", 3)
    assert len(ask(engine, ["ada"] * 8)) == 8
    assert passes == [3, 3, 2]


def test_scores_do_not_depend_on_the_company(engine):
    alone = [ask(engine, [user])[0] for user in ("ada", "bo")]
    together = ask(engine, ["ada", "bo"])
    for one, other in zip(alone, together, strict=True):
        assert one.found.rows_K.tolist() == other.found.rows_K.tolist()
        assert one.found.scores_K == pytest.approx(other.found.scores_K)


def test_a_pass_that_fails_fails_loudly_and_the_next_works(engine, monkeypatch):
    def broken(queries):
        raise RuntimeError("planted")

    with monkeypatch.context() as planted:
        planted.setattr(engine.answers.pipeline, "begin", broken)
        with pytest.raises(RuntimeError, match="planted"):
            ask(engine, ["ada", "bo"])
    assert ask(engine, ["ada"])[0].degraded is None


def test_one_who_left_does_not_disturb_the_others(engine):
    async def scenario():
        tasks = [
            asyncio.create_task(engine.answers.answer(RecommendRequest(user_id=user), Timing()))
            for user in ("ada", "bo")
        ]
        await asyncio.sleep(0)
        tasks[0].cancel()
        return await tasks[1]

    assert asyncio.run(scenario()).found.rows_K[0] == 32


def test_the_deadline_runs_from_when_the_oldest_request_was_read(engine, monkeypatch):
    moments = itertools.count(1_000_000, 100)
    monkeypatch.setattr(answers_module, "_monotonic_ms", moments.__next__)
    deadlines = []
    run = engine.answers.pipeline.begin

    def watched(queries):
        deadlines.append({query.deadline_ms - DEADLINE_MS for query in queries})
        return run(queries)

    monkeypatch.setattr(engine.answers.pipeline, "begin", watched)

    ask(engine, ["ada", "bo"])
    assert deadlines == [{1_000_000}]


def test_who_waited_past_the_deadline_gets_a_cheap_answer(engine, monkeypatch):
    requests, timings = [RecommendRequest(user_id="ada", n=3)], [Timing()]
    long_ago = time.monotonic() * 1000 - DEADLINE_MS - 1
    (answer,) = engine.answers.rank(requests, timings, read_ms=long_ago)
    assert answer.degraded == "state"
    assert answer.found.rows_K.tolist() == [7, 1, 2]


def test_the_queue_is_bounded_and_says_when_to_come_back(engine, passes, monkeypatch):
    monkeypatch.setattr(answers_module, "MAX_WAITING", 3)

    async def scenario():
        asked = (engine.answers.answer(RecommendRequest(), Timing()) for _ in range(5))
        return await asyncio.gather(*asked, return_exceptions=True)

    *answered, one, other = asyncio.run(scenario())
    assert passes == [3]
    assert {answer.degraded for answer in answered} == {None}
    for refused in (one, other):
        assert (refused.status, refused.headers) == (503, [(b"retry-after", b"1")])
    assert ask(engine, ["ada"])[0].degraded is None


def test_waiting_for_a_pass_is_a_stage_of_its_own(engine, monkeypatch):
    monkeypatch.setattr(timing_module, "perf_counter", itertools.count().__next__)
    timing = Timing()
    timing.mark("T", "read")
    timing.mark("T", "decode")
    monkeypatch.setattr(timing_module, "perf_counter", itertools.count(100).__next__)
    asyncio.run(engine.answers.answer(RecommendRequest(), timing))
    spent_s = {name: spent / 1000 for _, name, spent in timing.stages[:3]}
    assert spent_s == {"read": 1, "decode": 1, "wait": 98}


def test_every_stage_is_timed(engine):
    timing = Timing()
    engine.answers.rank([RecommendRequest(user_id="ada")], [timing])
    assert [(part, name) for part, name, _ in timing.stages] == [
        ("T", "wait"),
        ("P", "lookup"),
        ("P", "state"),
        ("A", "search"),
        ("A", "vmis"),
        ("A", "popular"),
        ("A", "filter"),
        ("A", "select"),
        ("T", "turn"),
    ]
