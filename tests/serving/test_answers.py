from __future__ import annotations

import asyncio

import pytest

from ouzel.serving import answers as answers_module
from ouzel.serving.timing import Timing
from ouzel.serving.wire import RecommendRequest
from tests.serving.doubles import make_engine


@pytest.fixture
def engine(tmp_path):
    engine = make_engine(tmp_path)
    yield engine
    engine.log.close()


@pytest.fixture
def passes(engine, monkeypatch):
    """Return the sizes of the passes that the pipeline ran."""
    sizes = []
    run = engine.answers.pipeline.run

    def counted(queries):
        sizes.append(len(queries))
        return run(queries)

    monkeypatch.setattr(engine.answers.pipeline, "run", counted)
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
        planted.setattr(engine.answers.pipeline, "run", broken)
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
    ]
