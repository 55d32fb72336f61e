"""How soon a click is visible: the time from sending it to holding an answer that knows of it.

Each probe asks for a list, clicks its first item and asks again. A list is the answer to the click
once the clicked item, now seen, has left it; the probe asks until that happens and counts how many
answers it took. Promised is one.
"""

from __future__ import annotations

import http.client
import json
import time
from collections.abc import Iterator, Sequence
from typing import Any
from uuid import uuid4

import numpy as np

MOST_ANSWERS = 50


def measure_visibility(
    port: int, user_ids: Sequence[str], *, pause_seconds: float = 0.0
) -> dict[str, float]:
    """Return the row of the case `visible`, one probe for each of `user_ids`.

    Keys: `probes`, `p50_ms`, `p99_ms` and `max_ms` from the click to the first answer that knows
    of it, `event_p99_ms` of the click's acknowledgement, and `next_answer_share`: the share of
    probes whose very next answer knew.

    Raises: ValueError if the server refuses, or after 50 answers that do not know of the click.

    >>> from unittest.mock import patch
    >>> before, after = {"items": [{"item_id": "a"}], "request_id": "r"}, {"items": []}
    >>> answers = iter([before, {"accepted": 1}, after])
    >>> with patch("ouzel.evaluation.visibility._post", lambda *request: next(answers)):
    ...     measure_visibility(8000, ["u"])["next_answer_share"]
    1.0
    """
    probes = list(_probes(port, user_ids, pause_seconds))
    total_ms, event_ms, answers = (np.array(column) for column in zip(*probes, strict=True))
    return {
        "probes": float(len(probes)),
        "p50_ms": float(np.percentile(total_ms, 50)),
        "p99_ms": float(np.percentile(total_ms, 99)),
        "max_ms": float(total_ms.max()),
        "event_p99_ms": float(np.percentile(event_ms, 99)),
        "next_answer_share": float((answers == 1).mean()),
    }


def _probes(
    port: int, user_ids: Sequence[str], pause_seconds: float
) -> Iterator[tuple[float, float, int]]:
    """Yield (ms to the answer that knows, ms to the acknowledgement, answers needed)."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30.0)
    try:
        for user_id in user_ids:
            yield _probe(connection, user_id)
            time.sleep(pause_seconds)
    finally:
        connection.close()


def _probe(connection: http.client.HTTPConnection, user_id: str) -> tuple[float, float, int]:
    ask = json.dumps({"user_id": user_id, "n": 10}).encode()
    shown = _post(connection, "/v1/recommend", ask)
    clicked = shown["items"][0]["item_id"]
    click = {"event_id": uuid4().hex, "event": "click", "user_id": user_id, "item_id": clicked}
    body = json.dumps({**click, "request_id": shown["request_id"]}).encode()
    began = time.perf_counter()
    if _post(connection, "/v1/events", body)["accepted"] != 1:
        raise ValueError(f"the click of {user_id} was not accepted: give the server a fresh home")
    acknowledged = time.perf_counter()
    for answers in range(1, MOST_ANSWERS + 1):
        answer = _post(connection, "/v1/recommend", ask)
        if clicked not in {item["item_id"] for item in answer["items"]}:
            done = time.perf_counter()
            return 1000 * (done - began), 1000 * (acknowledged - began), answers
    raise ValueError(f"the click of {user_id} on {clicked} is not visible after {MOST_ANSWERS}")


def _post(connection: http.client.HTTPConnection, path: str, body: bytes) -> dict[str, Any]:
    connection.request("POST", path, body, {"Content-Type": "application/json"})
    response = connection.getresponse()
    text = response.read()
    if response.status != 200:
        raise ValueError(f"POST {path} was answered {response.status}: {text[:300]!r}")
    reply: dict[str, Any] = json.loads(text)
    return reply
