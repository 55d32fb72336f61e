"""How many events a server takes in batches, durably, and how far user states are behind then.

Connections post batch after batch without a pause (a closed loop: the server sets the pace). Users
and items are drawn at random, so nearly every event is of another user than the one before.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from http.client import HTTPConnection

import numpy as np

BATCH = 100
CONNECTIONS = 4
BODIES = 64
"""Different batches per connection; they are sent over and over, as new events each time."""

LONGEST_BEHIND_S = 120.0


def measure_ingestion(
    port: int,
    users: Sequence[str],
    items: Sequence[str],
    *,
    seconds: float,
    behind: Callable[[], float],
    seed: int,
) -> dict[str, float | None]:
    """Return the row of the case `events`.

    Keys: `events_per_s` acknowledged, `p50_ms` and `p99_ms` of the acknowledgement of a batch, and
    `states_behind_s`: from the last of them until `behind()`, how many states lack an event, is 0
    (None after two minutes).

    Raises: ValueError if the server does not take all events of a batch.

    >>> from unittest.mock import patch
    >>> with patch("ouzel.evaluation.ingestion._post", lambda connection, body: time.sleep(0.001)):
    ...     row = measure_ingestion(1, ["u"], ["i"], seconds=0.05, behind=lambda: 0.0, seed=0)
    >>> row["events_per_s"] > 1000, row["states_behind_s"] < 1
    (True, True)
    """
    taken_ms: list[float] = []
    failures: list[ValueError] = []
    drawn = np.random.default_rng(seed).spawn(CONNECTIONS)
    bodies_of = [_bodies(users, items, rng) for rng in drawn]
    begun = time.perf_counter()

    def post_all(bodies: Sequence[bytes]) -> None:
        at = 0
        with closing(HTTPConnection("127.0.0.1", port, timeout=60)) as connection:
            while time.perf_counter() - begun < seconds and not failures:
                sent = time.perf_counter()
                try:
                    _post(connection, bodies[at % len(bodies)])
                except ValueError as error:
                    failures.append(error)
                    return
                taken_ms.append(1000 * (time.perf_counter() - sent))
                at += 1

    threads = [threading.Thread(target=post_all, args=(bodies,)) for bodies in bodies_of]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]
    ended = time.perf_counter()
    return {
        "events_per_s": BATCH * len(taken_ms) / (ended - begun),
        "p50_ms": float(np.percentile(taken_ms, 50)),
        "p99_ms": float(np.percentile(taken_ms, 99)),
        "states_behind_s": _until_current(behind),
    }


def _bodies(users: Sequence[str], items: Sequence[str], rng: np.random.Generator) -> list[bytes]:
    return [
        json.dumps(
            [
                {
                    "event": "click",
                    "user_id": users[int(rng.integers(len(users)))],
                    "item_id": items[int(rng.integers(len(items)))],
                }
                for _ in range(BATCH)
            ]
        ).encode()
        for _ in range(BODIES)
    ]


def _post(connection: HTTPConnection, body: bytes) -> None:
    connection.request("POST", "/v1/events", body, {"Content-Type": "application/json"})
    answer = connection.getresponse()
    text = answer.read()
    if answer.status != 200 or json.loads(text)["accepted"] != BATCH:
        raise ValueError(f"a batch of events was answered {answer.status}: {text[:300]!r}")


def _until_current(behind: Callable[[], float]) -> float | None:
    begun = time.perf_counter()
    while behind():
        if time.perf_counter() - begun > LONGEST_BEHIND_S:
            return None
        time.sleep(0.02)
    return time.perf_counter() - begun
