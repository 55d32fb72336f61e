"""The serving cases: what is sent to a running server, and the row that comes of it.

The same code measures Ouzel and a peer; all it knows of either is a port and a process.
"""

from __future__ import annotations

import http.client
import json
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

import msgspec
import numpy as np

from ouzel.evaluation.load import TRIES, others_next, run_load, sustained
from ouzel.evaluation.load_client import read_head
from ouzel.evaluation.load_process import process_use
from ouzel.evaluation.load_result import LoadResult
from ouzel.evaluation.load_spec import LoadSpec
from ouzel.evaluation.server_process import ServerProcess
from ouzel.evaluation.visibility import measure_visibility
from ouzel.evaluation.workload import Workload

WARM_CONNECTIONS = 16
RATE_TRIES = 3
UNLOADED_REQUESTS = 500
EVENT_ITEMS = 5_000
"""Items that events of a run are about, drawn over the whole catalogue."""

Row = dict[str, Any]

_HEAD = (
    b"POST /v1/recommend HTTP/1.1\r\nHost: 127.0.0.1\r\n"
    b"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n"
)


@dataclass(frozen=True, kw_only=True)
class Effort:
    """How long a case measures: `hold_s` at the rate found, `search_s` for each step before.

    Where rates are given, it measures `rate_s` at each.
    """

    hold_s: float
    search_s: float
    rate_s: float
    precision: float
    probes: int


FULL = Effort(hold_s=30.0, search_s=5.0, rate_s=10.0, precision=0.05, probes=1000)
TUNING = Effort(hold_s=6.0, search_s=2.0, rate_s=10.0, precision=0.15, probes=0)
QUICK = Effort(hold_s=3.0, search_s=1.0, rate_s=2.0, precision=0.3, probes=50)


def warm(port: int, user_ids: Sequence[str]) -> None:
    """Ask once for each user, the last one first, so that all states are held.

    Raises: ValueError if the server refuses.

    >>> warm(8000, [])  # nobody to ask for: nothing is sent
    """

    def ask_all(start: int) -> None:
        with _connected(port) as connection:
            for user_id in reversed(user_ids[start::WARM_CONNECTIONS]):
                _ask(connection, user_id)

    with ThreadPoolExecutor(WARM_CONNECTIONS) as pool:
        list(pool.map(ask_all, range(WARM_CONNECTIONS)))


def unloaded_ms(port: int, user_ids: Sequence[str]) -> tuple[float, float]:
    """Return p50 and p99 in ms of one connection that asks back to back, nothing else running.

    From the first byte sent until the last is read, on a bare socket: Python's HTTP client takes
    0.3 ms of its own.

    Raises:
        ValueError: the server refuses.

    >>> from unittest.mock import patch
    >>> with patch("ouzel.evaluation.serving_case._ask_bare"), patch("socket.create_connection"):
    ...     p50_ms, p99_ms = unloaded_ms(8000, ["u0", "u1"])  # a server that answers at once
    >>> 0 <= p50_ms <= p99_ms
    True
    """
    taken_ms = []
    with socket.create_connection(("127.0.0.1", port), timeout=60.0) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for user_id in user_ids[:UNLOADED_REQUESTS]:
            body = json.dumps({"user_id": user_id, "n": 10}).encode()
            request = _HEAD % len(body) + body
            began = time.perf_counter()
            _ask_bare(connection, request)
            taken_ms.append(1000 * (time.perf_counter() - began))
    return float(np.percentile(taken_ms, 50)), float(np.percentile(taken_ms, 99))


def gauge(port: int, family: str, of: str) -> float:
    """Return one value that the server's `/metrics` shows.

    Raises: ValueError if it is not there.

    >>> from unittest.mock import Mock, patch
    >>> answer = Mock(read=lambda: b'ouzel_now{of="reads"} 1.0')
    >>> connection = Mock(getresponse=lambda: answer)
    >>> with patch("ouzel.evaluation.serving_case._connected", lambda port: closing(connection)):
    ...     gauge(8000, "ouzel_now", "reads")
    1.0
    """
    name = f'{family}{{of="{of}"}} '
    with _connected(port) as connection:
        connection.request("GET", "/metrics")
        lines = connection.getresponse().read().decode().splitlines()
    for line in lines:
        if line.startswith(name):
            return float(line.removeprefix(name))
    raise ValueError(f"the server shows no {name.strip()}: is it an Ouzel of this version?")


def server_row(server: ServerProcess) -> Row:
    """Return what a server takes: seconds until it was ready, and the memory of all its processes.

    >>> server_row(ServerProcess(port=8000, pid=2**30, start_to_ready_s=2.5))  # gone by now
    {'start_to_ready_s': 2.5, 'rss_mb': 0.0}
    """
    rss_mb = process_use(server.pid).rss_mb
    return {"start_to_ready_s": server.start_to_ready_s, "rss_mb": rss_mb}


def load_spec(server: ServerProcess, work: Workload, *, rate: float, seed: int) -> LoadSpec:
    """Return the workload of the design: Zipf users, 10% events, 5% of users not in the pool.

    >>> from ouzel.evaluation.workload import cluster_centres, make_workload
    >>> centres = cluster_centres(10, 4, seed=0)
    >>> work = make_workload(centres, num_items=300, num_live=2, num_cold=1)
    >>> spec = load_spec(ServerProcess(port=8000, pid=1), work, rate=100.0, seed=0)
    >>> spec.users, spec.cold_users
    (['u0', 'u1'], ['u2'])
    """
    users, items = work.user_ids(), work.item_ids()
    return LoadSpec(
        host="127.0.0.1",
        port=server.port,
        rate=rate,
        users=users[: work.num_live],
        cold_users=users[work.num_live :],
        items=items[:: max(1, len(items) // EVENT_ITEMS)],
        pid=server.pid,
        seed=seed,
    )


def sustained_row(
    spec: LoadSpec,
    effort: Effort,
    *,
    p99_ms: float,
    told: Callable[[LoadResult], None] | None = None,
    run: Callable[..., LoadResult] = run_load,
) -> Row:
    """Return the highest rate held within `p99_ms` and what was measured while it was held.

    >>> from types import SimpleNamespace
    >>> spec = LoadSpec(host="h", port=1, rate=8, users=["u"], event_share=0, miss_share=0)
    >>> too_slow = lambda asked: SimpleNamespace(
    ...     void=False, robbed=False, within_mark=0.5, degraded=0, requests=9
    ... )
    >>> sustained_row(spec, QUICK, p99_ms=50.0, run=too_slow)["requests_per_s"]
    0.0
    """
    asked = msgspec.structs.replace(spec, duration_s=effort.hold_s)
    found = sustained(
        asked,
        p99_ms=p99_ms,
        search_s=effort.search_s,
        precision=effort.precision,
        told=told,
        run=run,
    )
    row: Row = {"p99_mark_ms": p99_ms, "requests_per_s": found.requests_per_s}
    if found.result is None:
        return {**row, "degraded": found.trials[-1].degraded, "trials": len(found.trials)}
    return {**row, **_measured(found.result), "trials": len(found.trials)}


def rate_rows(
    spec: LoadSpec,
    rates: Sequence[float],
    effort: Effort,
    *,
    told: Callable[[LoadResult], None] | None = None,
    run: Callable[..., LoadResult] = run_load,
) -> Iterator[Row]:
    """Yield what was measured at each of some rates, in time or not.

    A run that is void, or that the host robbed, is repeated, `RATE_TRIES` times in all; the one
    that was robbed least is the row, whatever came of it.

    >>> from types import SimpleNamespace
    >>> spec = LoadSpec(host="h", port=1, rate=8, users=["u"], event_share=0, miss_share=0)
    >>> stuck = lambda asked: (_ for _ in ()).throw(ValueError(f"at {asked.rate:g}"))
    >>> list(rate_rows(spec, [64.0], QUICK, run=stuck))
    Traceback (most recent call last):
    ...
    ValueError: at 64
    """
    for rate in rates:
        results: list[LoadResult] = []
        while len(results) < RATE_TRIES:
            asked = msgspec.structs.replace(spec, rate=rate, duration_s=effort.rate_s)
            results.append(run(asked))
            spec = others_next(asked)
            if told is not None:
                told(results[-1])
            if not (results[-1].void or results[-1].robbed):
                break
        least = min(results, key=lambda result: (result.void, result.stolen_share))
        yield {
            "rate": rate,
            "p99_mark_ms": spec.mark_ms,
            "requests_per_s": least.requests_per_s,
            "void": least.void,
            **_measured(least),
        }


def _measured(result: LoadResult) -> Row:
    row: Row = {
        "p50_ms": result.latency["recommend"].p50_ms,
        "p99_ms": result.latency["recommend"].p99_ms,
        "answered_in_mark": result.within_mark,
        "degraded": result.degraded,
        "seconds": result.duration_s,
        "send_lag_p99_ms": result.send_lag_p99_ms,
        "client_cpu_share": result.client_cpu_share,
        "stolen_share": result.stolen_share,
    }
    if "event" in result.latency:
        row["event_p99_ms"] = result.latency["event"].p99_ms
    if result.server is not None:
        row["server_cpu_ms_per_request"] = result.server.cpu_ms_per_request
    return row


def visible_row(spec: LoadSpec, effort: Effort) -> Row:
    """Return how soon a click is visible while the load of `spec` goes on.

    Where the load was void it is done again with other users, while there are any.

    Raises: ValueError if a click is lost, or if the load could not be sent on time.

    >>> from types import SimpleNamespace
    >>> from unittest.mock import patch
    >>> spec = LoadSpec(host="h", port=1, rate=8, users=["u", "v"], event_share=0, miss_share=0)
    >>> late = SimpleNamespace(void=True, robbed=False, send_lag_p99_ms=7.0, stolen_share=0.0)
    >>> with patch.multiple(
    ...     "ouzel.evaluation.serving_case",
    ...     run_load=lambda spec: late,
    ...     measure_visibility=lambda port, users, *, pause_seconds: {"probes": 1.0},
    ... ):
    ...     visible_row(spec, QUICK)  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    ...
    ValueError: the load was sent 7.0 ms late and robbed of 0.0% of the cores: end what else ...
    """
    loaded, probed = spec.users[: len(spec.users) // 2], spec.users[len(spec.users) // 2 :]
    asked = msgspec.structs.replace(spec, users=loaded, duration_s=effort.hold_s)
    for attempt in range(TRIES):
        users = probed[attempt * effort.probes :][: effort.probes]
        with ThreadPoolExecutor(1) as pool:
            load = pool.submit(run_load, asked)
            pause_s = effort.hold_s / len(users)
            row = measure_visibility(spec.port, users, pause_seconds=pause_s)
            result = load.result()
        if not (result.void or result.robbed) or len(probed) < (attempt + 2) * effort.probes:
            break
    if result.void or result.robbed:
        raise ValueError(
            f"the load was sent {result.send_lag_p99_ms:.1f} ms late and robbed of "
            f"{result.stolen_share:.1%} of the cores: end what else runs here and on the host"
        )
    return {**row, "background_requests_per_s": result.requests_per_s}


def _connected(port: int) -> closing[http.client.HTTPConnection]:
    return closing(http.client.HTTPConnection("127.0.0.1", port, timeout=60.0))


def _ask_bare(connection: socket.socket, request: bytes) -> None:
    connection.sendall(request)
    head, body, wanted = b"", b"", None
    while wanted is None or len(body) < wanted:
        if not (data := connection.recv(1 << 16)):
            raise ValueError("the server hung up: see what it says")
        body += data
        if wanted is None and b"\r\n\r\n" in body:
            head, _, body = body.partition(b"\r\n\r\n")
            status, wanted = read_head(head.lower())
    if status != HTTPStatus.OK:
        raise ValueError(f"the server answered {status}: {body[:300]!r}")


def _ask(connection: http.client.HTTPConnection, user_id: str) -> None:
    body = json.dumps({"user_id": user_id, "n": 10})
    connection.request("POST", "/v1/recommend", body, {"Content-Type": "application/json"})
    response = connection.getresponse()
    text = response.read()
    if response.status != 200:
        raise ValueError(f"the server answered {response.status}: {text[:300]!r}")
