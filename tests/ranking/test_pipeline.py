from __future__ import annotations

import numpy as np
import pytest
from msgspec.structs import replace

from ouzel.ranking.pipeline import OVERRUNS_BEFORE_REST, REST_MS, Pipeline, Stage
from ouzel.retrieval.types import Candidates, Query


class Clock:
    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


class Find(Stage):
    """Finds row `user`; fails for the users in `broken`, takes `takes_ms` of the clock."""

    kind = "source"
    budget_ms = 10.0
    optional = True

    def __init__(self, name="find", *, clock=None, takes_ms=0.0, broken=()):
        self.name, self.clock, self.takes_ms, self.broken = name, clock, takes_ms, broken
        self.runs = 0

    def run(self, work):
        self.runs += 1
        if self.clock:
            self.clock.now += self.takes_ms
        for query in work.queries:
            if query.user in self.broken:
                raise RuntimeError("planted")
        return work.with_found(
            [Candidates.of(self.name, np.array([q.user]), np.ones(1)) for q in work.queries]
        )


class Last(Find):
    optional = False


def queries(*users, **more):
    return [Query(user=user, k=1, now_ms=0, **more) for user in users]


def rows(ranked):
    return [found.rows_K.tolist() for found in ranked.found]


def test_one_pass_serves_all_its_queries():
    stage = Find()
    ranked = Pipeline([stage]).run(queries(3, 1, 2))
    assert rows(ranked) == [[3], [1], [2]]
    assert ranked.degraded == (None, None, None)
    assert stage.runs == 1
    assert len(ranked.stage_ms) == 1


def test_a_bad_query_degrades_alone():
    pipeline = Pipeline([Find(broken={2})])
    ranked = pipeline.run(queries(1, 2, 3))
    assert rows(ranked) == [[1], [], [3]]
    assert ranked.degraded == (None, "find", None)
    assert pipeline.failures == {"find": 1}


def test_the_first_failing_stage_is_named():
    ranked = Pipeline([Find("a", broken={1}), Find("b", broken={1}), Find("c")]).run(queries(1))
    assert ranked.degraded == ("a",)
    assert rows(ranked) == [[1]]


def test_failures_are_logged_ever_more_rarely(caplog):
    pipeline = Pipeline([Find(broken={1})])
    for _ in range(100):
        pipeline.run(queries(1))
    assert pipeline.failures == {"find": 100}
    assert len(caplog.records) == 7  # at 1, 2, 4, ... 64


def test_after_the_deadline_optional_stages_are_left_out():
    clock = Clock()
    slow, skipped, needed = Find("slow", clock=clock, takes_ms=50), Find("skipped"), Last("needed")
    pipeline = Pipeline([slow, skipped, needed], monotonic_ms=clock)
    ranked = pipeline.run(queries(1, deadline_ms=20))
    assert (slow.runs, skipped.runs, needed.runs) == (1, 0, 1)
    assert ranked.degraded == ("skipped",)
    assert ranked.stage_ms == (50.0, 0.0, 0.0)
    assert rows(ranked) == [[1]]


def test_a_stage_that_keeps_overrunning_rests_and_comes_back():
    clock = Clock()
    slow = Find("slow", clock=clock, takes_ms=11)
    pipeline = Pipeline([slow], monotonic_ms=clock)
    for _ in range(OVERRUNS_BEFORE_REST):
        assert pipeline.run(queries(1)).degraded == (None,)
    assert pipeline.overruns == {"slow": OVERRUNS_BEFORE_REST}
    assert pipeline.run(queries(1)).degraded == ("slow",)
    assert slow.runs == OVERRUNS_BEFORE_REST
    clock.now += REST_MS
    slow.takes_ms = 1
    assert pipeline.run(queries(1)).degraded == (None,)


def test_a_budget_is_for_each_query_of_a_pass():
    clock = Clock()
    stage = Find("s", clock=clock, takes_ms=150)
    pipeline = Pipeline([stage], monotonic_ms=clock)
    for _ in range(3 * OVERRUNS_BEFORE_REST):
        assert set(pipeline.run(queries(*range(16))).degraded) == {None}
    assert pipeline.overruns == {"s": 0}


def test_a_patient_pipeline_lets_no_stage_rest():
    clock = Clock()
    stage = Find("s", clock=clock, takes_ms=10_000)
    pipeline = Pipeline([stage], resting=False, monotonic_ms=clock)
    for _ in range(3 * OVERRUNS_BEFORE_REST):
        assert pipeline.run(queries(1)).degraded == (None,)


def test_what_a_stage_had_no_time_for_is_degraded_once():
    class Half(Find):
        def run(self, work):
            return replace(super().run(work), late=(1,))

    class Same(Find):
        def run(self, work):
            assert not work.late
            return work

    ranked = Pipeline([Half("half"), Same("same")]).run(queries(1, 2))
    assert ranked.degraded == (None, "half")


def test_an_overrun_now_and_then_is_no_reason_to_rest():
    clock = Clock()
    stage = Find("s", clock=clock)
    pipeline = Pipeline([stage], monotonic_ms=clock)
    for number in range(20):
        stage.takes_ms = 1 if number % OVERRUNS_BEFORE_REST == 0 else 11
        assert pipeline.run(queries(1)).degraded == (None,)


@pytest.mark.parametrize("stages", [[], [Find("a"), Find("a")]])
def test_stages_need_names_of_their_own(stages):
    with pytest.raises(ValueError, match="its own name"):
        Pipeline(stages)


def test_no_queries_are_no_problem():
    assert Pipeline([Find()]).run([]).found == ()


class Beside(Find):
    """Finds beside the caller; `done` tells that it is time to finish."""

    def begin(self, work, done):
        if "begin" in self.broken:
            raise RuntimeError("planted")
        self.done = done
        return lambda: self.run(work)


def test_a_stage_beside_the_caller_is_finished_when_it_says_so():
    clock, resumed = Clock(), []
    stage, last = Beside(clock=clock, takes_ms=1), Last("last", clock=clock)
    pipeline = Pipeline([Find("first"), stage, last], monotonic_ms=clock)
    passing = pipeline.begin(queries(3, 1))
    assert pipeline.advance(passing, resumed.append) is None
    assert (stage.runs, last.runs) == (0, 0)
    clock.now += 4
    stage.done()
    assert resumed == [passing]
    ranked = pipeline.advance(passing, resumed.append)
    assert rows(ranked) == [[3], [1]] and ranked.degraded == (None, None)
    assert ranked.stage_ms == (0, 5, 0)


@pytest.mark.parametrize("broken", [(2,), (2, "begin")], ids=["finish", "begin and run"])
def test_a_stage_that_fails_beside_the_caller_is_tried_again_query_by_query(broken):
    stage = Beside(broken=broken)
    pipeline = Pipeline([stage, Last("last")])
    passing = pipeline.begin(queries(1, 2, 3))
    ranked = pipeline.advance(passing, lambda passing: None)
    if ranked is None:
        ranked = pipeline.advance(passing, lambda passing: None)
    assert ranked.degraded == (None, "find", None)
    assert pipeline.failures["find"] == len(broken)


def test_alone_every_stage_is_done_here():
    stage = Beside()
    assert rows(Pipeline([stage]).run(queries(7))) == [[7]]
    assert not hasattr(stage, "done")
