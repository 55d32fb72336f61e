"""A serving case sends the workload that is promised and reports what was held."""

from __future__ import annotations

import json

import msgspec
import pytest

from ouzel.evaluation.load_result import Latency, LoadResult, ServerUse
from ouzel.evaluation.server_process import ServerProcess
from ouzel.evaluation.serving_case import (
    QUICK,
    WARM_CONNECTIONS,
    load_spec,
    rate_rows,
    sustained_row,
    unloaded_ms,
    visible_row,
    warm,
)
from ouzel.evaluation.workload import cluster_centres, make_workload

CAPACITY = 700.0


@pytest.fixture
def spec():
    work = make_workload(
        cluster_centres(20, 8, seed=0), num_items=500, num_live=12, num_cold=6, length=10, seed=0
    )
    return load_spec(ServerProcess(port=1, pid=2), work, rate=100, seed=5)


def run_of(spec, *, capacity=CAPACITY):
    """Return what a server that can do `capacity` requests per second would give."""
    slow = spec.rate > capacity
    latency = Latency(10, 1.0, 2.0, 99.0 if slow else 4.0, 5.0, 6.0)
    return LoadResult(
        rate=spec.rate,
        duration_s=spec.duration_s,
        requests=10,
        requests_per_s=spec.rate,
        within_mark=0.5 if slow else 1.0,
        latency={"recommend": latency, "event": latency},
        statuses={"200": 10},
        degraded=0,
        timed_out=0,
        lost=0,
        malformed=0,
        waited=0,
        send_lag_p50_ms=0.01,
        send_lag_p99_ms=0.1,
        send_lag_max_ms=0.2,
        client_cpu_share=0.1,
        void=False,
        server=ServerUse(1.0, 0.7, 210.0, 220.0),
    )


def test_the_spec_is_the_workload_of_the_design(spec):
    assert spec.users == [f"u{user}" for user in range(12)]
    assert spec.cold_users == [f"u{user}" for user in range(12, 18)]
    assert len(spec.items) == 500
    assert (spec.event_share, spec.miss_share, spec.zipf, spec.k) == (0.1, 0.05, 1.0, 10)
    assert (spec.port, spec.pid, spec.seed) == (1, 2, 5)


def test_the_row_carries_the_rate_that_was_held(spec):
    runs = []

    def run(asked):
        runs.append(asked)
        return run_of(asked)

    row = sustained_row(spec, QUICK, p99_ms=10.0, run=run)
    assert CAPACITY / (1 + QUICK.precision) <= row["requests_per_s"] <= CAPACITY
    assert row["p99_mark_ms"] == 10.0
    assert row["seconds"] == QUICK.hold_s
    assert row["p99_ms"] == row["event_p99_ms"] == 4.0
    assert row["server_cpu_ms_per_request"] == 0.7
    assert row["trials"] == len(runs)
    assert {asked.mark_ms for asked in runs} == {10.0}


def test_a_server_that_holds_nothing_has_a_row_too(spec):
    row = sustained_row(spec, QUICK, p99_ms=10.0, run=lambda asked: run_of(asked, capacity=0.0))
    assert row["requests_per_s"] == 0.0
    assert "p99_ms" not in row


def test_a_rate_that_only_degraded_answers_hold_is_not_held(spec):
    def run(asked):
        return msgspec.structs.replace(run_of(asked), degraded=0 if asked.rate <= 200 else 3)

    row = sustained_row(spec, QUICK, p99_ms=10.0, run=run)
    assert 0 < row["requests_per_s"] <= 200 and row["degraded"] == 0

    row = sustained_row(
        spec,
        QUICK,
        p99_ms=10.0,
        run=lambda asked: msgspec.structs.replace(run_of(asked), degraded=3),
    )
    assert (row["requests_per_s"], row["degraded"]) == (0.0, 3)


def test_warming_asks_once_for_each_user(planted, reply):
    users = [f"u{number}" for number in range(WARM_CONNECTIONS * 2 + 3)]
    with planted(lambda transport, number: transport.write(reply())) as (port, bodies):
        warm(port, users)
        assert sorted(json.loads(body)["user_id"] for _, body in bodies) == sorted(users)
        p50_ms, p99_ms = unloaded_ms(port, users[:5])
        assert 0 < p50_ms <= p99_ms
        assert len(bodies) == len(users) + 5


def test_a_server_that_refuses_is_not_measured(planted, reply):
    refuse = reply(status=500, body=b'{"title":"broken"}')
    with (
        planted(lambda transport, number: transport.write(refuse)) as (port, _),
        pytest.raises(ValueError, match="the server answered 500"),
    ):
        warm(port, ["u1"])


def test_a_click_is_probed_only_while_the_load_is_on_time(spec, monkeypatch):
    asked = []

    def probe(port, users, *, pause_seconds):
        asked.append(users)
        return {"p99_ms": 3.0}

    def load(one):
        asked.append(one.users)
        return run_of(one)

    monkeypatch.setattr("ouzel.evaluation.serving_case.measure_visibility", probe)
    monkeypatch.setattr("ouzel.evaluation.serving_case.run_load", load)
    row = visible_row(spec, QUICK)
    assert row == {"p99_ms": 3.0, "background_requests_per_s": 100}
    first, second = asked
    assert not set(first) & set(second)  # nobody else clicks for a user who is probed

    for trouble in ({"void": True}, {"stolen_share": 0.1}):
        result = msgspec.structs.replace(run_of(spec), **trouble)
        monkeypatch.setattr("ouzel.evaluation.serving_case.run_load", lambda one, to=result: to)
        with pytest.raises(ValueError, match="end what else runs here"):
            visible_row(spec, QUICK)


def test_at_a_given_rate_the_run_that_was_robbed_least_is_the_row(spec):
    asked = []
    stolen = iter([0.3, 0.0, 0.2, 0.5, 0.1])

    def run(one):
        asked.append(one)
        return msgspec.structs.replace(run_of(one), stolen_share=next(stolen))

    told = []
    first, second = rate_rows(spec, [100.0, 200.0], QUICK, told=told.append, run=run)
    assert [one.rate for one in asked] == [100, 100, 200, 200, 200] and len(told) == 5
    assert [one.duration_s for one in asked] == [QUICK.rate_s] * 5
    assert (first["rate"], first["stolen_share"]) == (100, 0.0)
    assert (second["rate"], second["stolen_share"]) == (200, 0.1)
    assert len({tuple(one.cold_users[:1]) for one in asked}) > 1  # a miss is a miss in every run
