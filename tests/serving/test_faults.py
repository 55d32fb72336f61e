"""Faults planted into every stage of every path: they cost quality, and `degraded` names them.

What is promised of a stage that hangs: beside the loop it is given up at the deadline of its pass,
and rests after a few times; in the loop nothing can cut it off.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import httpx
import numpy as np
import pytest

from ouzel.ranking.pipeline import OVERRUNS_BEFORE_REST, REST_MS, Pipeline, Stage
from ouzel.ranking.stages import SearchIndex
from ouzel.retrieval.arrangement import Arrangement, Diversity
from ouzel.retrieval.types import Candidates, Query
from ouzel.serving import answers as answers_module
from ouzel.serving.timing import Timing
from ouzel.serving.wire import RecommendRequest

HIDDEN = "i14"
EVERYTHING = {
    "diversity": {"method": "mmr", "weight": 0.3},
    "caps": {"genres": 4},
    "pins": [{"item_id": "i20", "position": 2}],
    "boosts": [{"items": ["i16"], "factor": 2}],
    "explore": {"temperature": 1},
}
SOURCES = dict.fromkeys(("sequence", "vmis", "popular", "trending"), 1)
BODIES = {
    "standard": {"n": 5},
    "union": {"n": 5, "sources": SOURCES, **EVERYTHING},
    "rank": {"items": [f"i{row}" for row in range(13, 22)], "n": 5, **EVERYTHING},
}


def stages_of(engine) -> Iterator[tuple[str, Pipeline, Stage]]:
    for path in BODIES:
        pipeline = getattr(engine.answers.paths, path)
        for stage in pipeline.stages:
            yield path, pipeline, stage


def ask(client: httpx.Client, path: str) -> httpx.Response:
    route = "rank" if path == "rank" else "recommend"
    return client.post(f"/v1/{route}", json={"user_id": "ada", **BODIES[path]})


def keeps_its_promises(path: str, reply: httpx.Response) -> bool:
    assert reply.status_code == 200, (path, reply.text)
    shown = [item["item_id"] for item in reply.json()["items"]]
    assert len(shown) <= 5 and len(set(shown)) == len(shown)
    assert HIDDEN not in shown and not {"i10", "i11", "i12"} & set(shown)
    return all(isinstance(item["score"], float) for item in reply.json()["items"])


def broken(work):
    raise RuntimeError("planted")


def no_numbers(work):
    rows = np.array([13, 14, 20], np.int32)
    found = Candidates.of("planted", rows, np.array([1.0, np.nan, 2.0]))
    return work.with_found([found for _ in work.queries])


def vectors_of_nan(users, now_ms):
    return np.full((len(users), 41), np.nan, np.float32), [True] * len(users)


@pytest.fixture
def hiding(client):
    assert client.delete(f"/v1/items/{HIDDEN}").status_code == 200
    return client


def test_no_path_is_left_out(engine):
    paths = engine.answers.paths
    assert {id(pipeline) for pipeline in paths.all} == {id(getattr(paths, path)) for path in BODIES}


def test_nothing_is_wrong_before_a_fault_is_planted(hiding):
    for path in BODIES:
        reply = ask(hiding, path)
        assert keeps_its_promises(path, reply)
        assert reply.json()["degraded"] is None and len(reply.json()["items"]) >= 4


@pytest.mark.parametrize("fault", [broken, no_numbers], ids=["raises", "NaN"])
def test_a_fault_in_any_stage_costs_quality_and_is_named(hiding, engine, monkeypatch, fault):
    met = 0
    for path, pipeline, stage in stages_of(engine):
        failures = pipeline.failures[stage.name]
        with monkeypatch.context() as planted:
            if stage.kind == "hydrate" and fault is no_numbers:
                planted.setattr(engine._states, "query", vectors_of_nan)
            else:
                planted.setattr(stage, "run", fault)
            reply = ask(hiding, path)
        assert keeps_its_promises(path, reply), (path, stage.name)
        assert reply.json()["degraded"] == stage.name, path
        assert pipeline.failures[stage.name] == failures + 1
        if stage.kind != "filter":
            assert reply.json()["items"], (path, stage.name)
        met += 1
    assert met == sum(len(getattr(engine.answers.paths, path).stages) for path in BODIES)


def test_one_bad_request_of_a_pass_degrades_no_other(engine):
    for path, pipeline, stage in stages_of(engine):
        run = stage.run

        def for_one(work, run=run):
            if any(query.k == 3 for query in work.queries):
                raise RuntimeError("planted")
            return run(work)

        stage.run = for_one
        asked = [query_of(path, k=k) for k in (2, 3, 2)]
        ranked = pipeline.run(asked)
        del stage.run
        assert ranked.degraded == (None, stage.name, None), path
    engine.log.close()


def query_of(path: str, *, k: int = 2) -> Query:
    if path == "standard":
        return Query(k=k, now_ms=0)
    own_K = np.arange(13, 20, dtype=np.int32) if path == "rank" else None
    asked = Arrangement(own_K=own_K, diversity=Diversity("dpp", 0.2), caps={"genres": 9})
    return Query(k=k, now_ms=0, breadth=9, arrangement=asked)


def test_a_stage_over_its_budget_rests_if_the_list_can_do_without_it(engine, monkeypatch):
    clock = {"now": 0.0}
    rested = set()
    for path, pipeline, stage in stages_of(engine):
        monkeypatch.setattr(pipeline, "_monotonic_ms", lambda: clock["now"])
        run, runs = stage.run, []

        def slow(work, stage=stage, run=run, runs=runs):
            runs.append(1)
            clock["now"] += stage.budget_ms + 1
            return run(work)

        stage.run = slow
        for _ in range(OVERRUNS_BEFORE_REST):
            assert pipeline.run([query_of(path)]).degraded == (None,)
        assert pipeline.overruns[stage.name] == OVERRUNS_BEFORE_REST
        ranked = pipeline.run([query_of(path)])
        assert len(ranked.found[0]) == 2
        if stage.optional:
            assert ranked.degraded == (stage.name,)
            assert len(runs) == OVERRUNS_BEFORE_REST
            rested.add(stage.name)
        else:
            assert ranked.degraded == (None,)
        del stage.run
        clock["now"] += REST_MS + 1
        assert pipeline.run([query_of(path)]).degraded == (None,)
    assert {"state", "search", "vmis", "trending", "relevance", "boost", "arrange"} <= rested
    engine.log.close()


def crowd(engine, count=2):
    async def all_at_once():
        asked = [RecommendRequest(user_id=user, n=3) for user in ("ada", "bo") * (count // 2)]
        together = (engine.answers.answer(one, Timing()) for one in asked)
        return await asyncio.wait_for(asyncio.gather(*together), timeout=60)

    return asyncio.run(all_at_once())


def test_a_stage_that_hangs_beside_the_loop_is_given_up_and_rests(engine, monkeypatch):
    assert {answer.degraded for answer in crowd(engine)} == {None}
    monkeypatch.setattr(answers_module, "DEADLINE_MS", 200.0)
    monkeypatch.setattr(answers_module, "WATCH_SECONDS", 0.01)
    (search,) = (s for s in engine.answers.pipeline.stages if isinstance(s, SearchIndex))
    came_back = []

    def hangs(work, done):
        came_back.append(done)
        return lambda: work

    monkeypatch.setattr(search, "begin", hangs)
    for _ in range(OVERRUNS_BEFORE_REST):
        for answer in crowd(engine):
            assert answer.degraded == "search" and len(answer.found) == 3
    assert engine.answers.pipeline.failures["search"] == OVERRUNS_BEFORE_REST
    assert len(came_back) == OVERRUNS_BEFORE_REST
    # It rests: nobody waits for it now.
    assert {answer.degraded for answer in crowd(engine)} == {"search"}
    assert len(came_back) == OVERRUNS_BEFORE_REST
    for done in came_back:  # far too late, and to no effect
        done()
    assert engine.answers._under_way == 0
    monkeypatch.undo()
    engine.answers.pipeline._rest_until["search"] = 0.0
    assert {answer.degraded for answer in crowd(engine)} == {None}
    engine.log.close()
