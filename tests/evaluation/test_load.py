"""The load generator as a process, against servers with planted faults."""

import asyncio
import io
import math
import os
import subprocess
import sys
from types import SimpleNamespace

import msgspec
import pytest

from ouzel.evaluation import load
from ouzel.evaluation.load import held, run_load, sustained
from ouzel.evaluation.load_spec import LoadSpec


def spec_of(port, **changes):
    given = {
        "rate": 300.0,
        "duration_s": 1.0,
        "warmup_s": 0.2,
        "connections": 8,
        "users": ["u1", "u2"],
        "items": ["i1"],
        "cold_users": ["c1"],
    }
    return LoadSpec(host="127.0.0.1", port=port, **{**given, **changes})


@pytest.fixture
def good(reply):
    return lambda transport, number: transport.write(reply())


def test_a_good_server_is_counted_in_full(planted, good):
    with planted(good) as (port, bodies):
        result = run_load(spec_of(port, pid=os.getpid()))
    assert result.statuses == {"200": result.requests}
    assert result.requests_per_s == result.requests / result.duration_s
    assert result.latency["all"].count == result.requests <= len(bodies)
    assert result.latency["recommend"].count + result.latency["event"].count == result.requests
    assert (result.degraded, result.timed_out, result.lost, result.malformed) == (0, 0, 0, 0)
    assert result.server.rss_mb > 1 and result.server.cpu_s >= 0
    assert result.latency["all"].p50_ms <= result.latency["all"].p99_ms


def test_a_stall_is_charged_for_everybody_who_came_meanwhile(planted, stalling):
    """One request is answered late; a closed loop of 8 clients would see 8 slow answers."""
    with planted(stalling(150, 0.5)) as (port, _):
        result = run_load(spec_of(port, miss_share=0, event_share=0))
    # About 150 of 300 are due in the half second: the median of them waits 250 ms.
    assert result.latency["all"].p99_ms > 300
    assert result.latency["all"].p90_ms > 100
    assert result.waited > 50
    assert result.within_mark < 0.9
    assert result.latency["all"].max_ms >= 450


def test_every_planted_error_is_counted(planted, reply):
    told = {"503": 0, "200": 0}

    def answer(transport, number):
        status = 503 if number % 10 == 0 else 200
        told[str(status)] += 1
        transport.write(reply(status))

    with planted(answer) as (port, _):
        result = run_load(spec_of(port, warmup_s=0.0))
    assert result.statuses == told
    assert result.within_mark <= 1 - told["503"] / result.requests
    assert not held(result)


def test_degraded_answers_are_counted_when_good(planted, reply):
    body = b'{"items":[],"degraded":"popular"}'

    def answer(transport, number):
        transport.write(reply(200 if number % 2 else 500, body))

    with planted(answer) as (port, _):
        result = run_load(spec_of(port, warmup_s=0.0))
    assert result.degraded == result.statuses["200"]


def test_a_server_that_degrades_in_time_holds_nothing(planted, reply):
    body = b'{"items":[],"degraded":"state"}'

    def answer(transport, number):
        transport.write(reply(200, body) if number % 50 == 0 else reply())

    with planted(answer) as (port, _):
        result = run_load(spec_of(port, warmup_s=0.0, mark_ms=4000.0))
    assert result.statuses == {"200": result.requests} and result.within_mark == 1
    assert result.degraded == result.requests // 50
    assert not held(msgspec.structs.replace(result, void=False))


@pytest.mark.parametrize(("degraded", "holds"), [(0, True), (1, True), (2, False), (1000, False)])
def test_at_most_a_thousandth_may_be_degraded(degraded, holds):
    template = fake_runs(1.0)[0](spec_of(1, rate=0.5))
    assert held(msgspec.structs.replace(template, requests=1000, degraded=degraded)) is holds


def test_lost_malformed_and_unanswered_requests_are_told_apart(planted, reply):
    def answer(transport, number):
        if number % 20 == 5:
            transport.close()
        elif number % 20 == 10:
            transport.write(b"SSH-2.0-not-http\r\n\r\n")
        elif number % 20 != 15:
            transport.write(reply())

    with planted(answer) as (port, _):
        result = run_load(spec_of(port, warmup_s=0.0, timeout_s=0.3))
    assert result.lost > 5 and result.malformed > 5 and result.timed_out > 5
    answered = sum(result.statuses.values())
    assert answered + result.lost + result.malformed + result.timed_out == result.requests
    assert result.latency["all"].max_ms >= 300


def test_answers_in_pieces_and_closed_connections_are_read(planted, reply):
    async def dribble(transport, pieces):
        for piece in pieces:
            transport.write(piece)
            await asyncio.sleep(0.001)

    tasks = set()

    def answer(transport, number):
        whole = reply()
        if number % 3 == 0:
            transport.write(reply(extra=b"Connection: close\r\n"))
            transport.close()
            return
        pieces = [whole[:5], whole[5:50], whole[50:-3], whole[-3:]]
        tasks.add(asyncio.get_running_loop().create_task(dribble(transport, pieces)))

    with planted(answer) as (port, _):
        result = run_load(spec_of(port, rate=100.0))
    assert result.statuses == {"200": result.requests}


def test_nobody_there_is_an_error_that_says_so():
    with pytest.raises(ValueError, match="is the server running"):
        run_load(spec_of(1))


def test_a_wrong_pid_is_an_error(planted, good):
    with planted(good) as (port, _), pytest.raises(ValueError, match="give the server's pid"):
        run_load(spec_of(port, pid=2**30))


def test_the_processor_time_of_a_server_that_lost_a_process_is_unknown(planted, reply):
    with subprocess.Popen(["sleep", "60"]) as worker:

        def answer(transport, number):
            if number == 150:
                worker.kill()
                worker.wait()
            transport.write(reply())

        with planted(answer) as (port, _):
            server = run_load(spec_of(port, pid=os.getpid())).server
    assert (server.cpu_s, server.cpu_ms_per_request) == (None, None)
    assert server.rss_mb > 1


def test_a_spec_that_is_no_spec_exits_1(monkeypatch, capsys):
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(b'{"rate": 0}')))
    assert load._main() == 1
    assert "host" in capsys.readouterr().err


def fake_runs(capacity, *, void_at=(), long_share=0.9):
    """Return a `run` whose server holds `capacity` requests per second, and the rates tried."""
    tried = []
    template = msgspec.convert(
        {
            **dict.fromkeys(("requests", "degraded", "timed_out", "lost", "malformed"), 0),
            **dict.fromkeys(("waited", "send_lag_p50_ms", "send_lag_p99_ms"), 0),
            **{"send_lag_max_ms": 0, "client_cpu_share": 0, "latency": {}, "statuses": {}},
            **{"rate": 1, "duration_s": 1, "requests_per_s": 1, "within_mark": 1, "void": False},
        },
        load.LoadResult,
    )

    def run(spec):
        tried.append((spec.rate, spec.duration_s, spec.mark_ms))
        # A long run meets what a short one may miss: it holds less.
        limit = capacity * (long_share if spec.duration_s > 10 else 1.0)
        return msgspec.structs.replace(
            template,
            rate=spec.rate,
            within_mark=0.9995 if spec.rate <= limit else 0.99,
            void=len(tried) in void_at,
        )

    return run, tried


@pytest.mark.parametrize("start", [10.0, 1000.0, 64_000.0])
def test_bisection_finds_the_planted_capacity_and_confirms_it(start):
    run, tried = fake_runs(1234.0)
    found = sustained(spec_of(1, rate=start, duration_s=30.0), p99_ms=7.0, run=run)
    assert 1234 * 0.9 / 1.1 <= found.requests_per_s <= 1234 * 0.9
    assert (found.requests_per_s, 30.0, 7.0) in tried
    assert found.result.rate == found.requests_per_s and held(found.result)
    assert len(found.trials) == len(tried)


def test_a_long_run_that_holds_far_less_is_found_in_few_runs():
    run, tried = fake_runs(10_000.0, long_share=0.2)
    found = sustained(spec_of(1, rate=9000.0, duration_s=30.0), p99_ms=7.0, run=run)
    assert 2000 / 1.06 <= found.requests_per_s <= 2000
    assert len([1 for _, duration_s, _ in tried if duration_s == 30.0]) < 15


def test_a_void_run_is_tried_again_and_never_counts():
    run, tried = fake_runs(100.0, void_at=(1,))
    found = sustained(spec_of(1, rate=64.0, duration_s=30.0), p99_ms=7.0, run=run)
    assert tried[0] == tried[1] and found.requests_per_s > 50
    run, _ = fake_runs(100.0, void_at=range(1000))
    with pytest.raises(ValueError, match="runs at 64 requests/s told nothing"):
        sustained(spec_of(1, rate=64.0), p99_ms=7.0, run=run)


@pytest.mark.parametrize(("in_time", "outcome"), [(0.9995, True), (0.99, None)])
def test_what_is_missed_while_the_host_has_the_cores_tells_nothing(in_time, outcome):
    template = fake_runs(1.0)[0](spec_of(1, rate=0.5))
    run = msgspec.structs.replace(template, stolen_share=0.02, within_mark=in_time)
    assert held(run) is outcome


def test_every_run_of_a_search_asks_for_users_without_a_state() -> None:
    run, _ = fake_runs(100.0)
    asked = []
    spec = spec_of(1, rate=64.0, miss_share=0.1, cold_users=[f"c{n}" for n in range(500)])
    sustained(spec, p99_ms=7.0, run=lambda spec: asked.append(spec) or run(spec))
    came = asked[0].rate * (asked[0].warmup_s + asked[0].duration_s) * 0.1
    assert asked[1].cold_users[0] == f"c{math.ceil(came)}"
    assert sorted(asked[-1].cold_users) == sorted(spec.cold_users)


def test_a_server_that_holds_nothing_sustains_nothing():
    run, _ = fake_runs(0.0)
    found = sustained(spec_of(1, rate=64.0), p99_ms=7.0, run=run)
    assert (found.requests_per_s, found.result) == (0.0, None)


def test_marks_that_mean_nothing_are_refused():
    with pytest.raises(ValueError, match="p99_ms is 0"):
        sustained(spec_of(1), p99_ms=0)


@pytest.mark.parametrize(("stolen", "robbed"), [(0.001, False), (0.02, True)])
def test_a_run_says_whether_the_host_took_the_cores_away(monkeypatch, capsysbinary, stolen, robbed):
    run = {"realtime": True, "stolen_share": 0.0}
    result = msgspec.defstruct("Run", [(name, type(value), value) for name, value in run.items()])
    clock = iter([5.0, 5.0 + stolen * 10.0])
    monkeypatch.setattr(load, "stolen_s", clock.__next__)
    monkeypatch.setattr(load, "drive", lambda spec, plan: result())
    monkeypatch.setattr(load, "_go_first", lambda: True)
    monkeypatch.setattr(os, "cpu_count", lambda: 1)
    spec = spec_of(1, rate=1000.0, duration_s=9.0, warmup_s=1.0)
    stdin = SimpleNamespace(buffer=io.BytesIO(msgspec.json.encode(spec)))
    monkeypatch.setattr(sys, "stdin", stdin)
    assert load._main() == 0
    told = msgspec.json.decode(capsysbinary.readouterr().out)
    assert told["stolen_share"] == pytest.approx(stolen)
    template = fake_runs(1.0)[0](spec_of(1, rate=0.5))
    assert msgspec.structs.replace(template, stolen_share=told["stolen_share"]).robbed is robbed
