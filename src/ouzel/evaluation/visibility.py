"""How soon a click is visible: the time from sending it to holding an answer that knows of it.

Each probe asks for a list, clicks its first item and asks again, until an answer knows of the click
and counts how many answers it took. Promised is one. An answer knows if the clicked item has left,
if all of it was found with the user's state, undegraded, and if that state has moved: an item that
stayed has another score, or one has come that the list before would have held. That the item has
left is not enough: what was seen is filtered even where no state is kept.
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

SAME_SHARE = 1e-4
"""Scores this near, as a share of the list's largest, are the same: the later time of the request
alone moves them by some millionths, a click by hundredths."""

Reply = dict[str, Any]
Probe = tuple[float, float, int, bool]
"""Ms to the answer that knows, ms to the acknowledgement, answers needed, was one degraded."""


def measure_visibility(
    port: int, user_ids: Sequence[str], *, pause_seconds: float = 0.0
) -> dict[str, float]:
    """Return the row of the case `visible`, one probe for each of `user_ids`.

    Keys: `probes`, `p50_ms`, `p99_ms` and `max_ms` from the click to the first answer that knows
    of it, `event_p99_ms` of the click's acknowledgement, `next_answer_share`: the share of
    probes whose very next answer knew, and `degraded`: how many next answers said that they were
    not made from the state in time, which no list can know of a click without.

    Raises: ValueError if the server refuses, answers without the user's state, or has given 50
    answers that do not know of the click.

    >>> from unittest.mock import patch
    >>> a, b = ({"item_id": name, "score": 0.5, "source": "sequence"} for name in "ab")
    >>> before = {"items": [a], "request_id": "r", "degraded": None}
    >>> answers = iter([before, {"accepted": 1}, {**before, "items": [b]}])
    >>> with patch("ouzel.evaluation.visibility._post", lambda *request: next(answers)):
    ...     measure_visibility(8000, ["u"])["next_answer_share"]
    1.0
    """
    probes = list(_probes(port, user_ids, pause_seconds))
    columns = zip(*probes, strict=True)
    total_ms, event_ms, answers, degraded = (np.array(column) for column in columns)
    return {
        "probes": float(len(probes)),
        "p50_ms": float(np.percentile(total_ms, 50)),
        "p99_ms": float(np.percentile(total_ms, 99)),
        "max_ms": float(total_ms.max()),
        "event_p99_ms": float(np.percentile(event_ms, 99)),
        "next_answer_share": float((answers == 1).mean()),
        "degraded": float(degraded.sum()),
    }


def _probes(port: int, user_ids: Sequence[str], pause_seconds: float) -> Iterator[Probe]:
    """Yield what came of each click."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30.0)
    try:
        for user_id in user_ids:
            yield _probe(connection, user_id)
            time.sleep(pause_seconds)
    finally:
        connection.close()


def _probe(connection: http.client.HTTPConnection, user_id: str) -> Probe:
    ask = json.dumps({"user_id": user_id, "n": 10}).encode()
    shown = _list_by_state(connection, ask)
    clicked = shown["items"][0]["item_id"]
    click = {"event_id": uuid4().hex, "event": "click", "user_id": user_id, "item_id": clicked}
    body = json.dumps({**click, "request_id": shown["request_id"]}).encode()
    began = time.perf_counter()
    if _post(connection, "/v1/events", body)["accepted"] != 1:
        raise ValueError(f"the click of {user_id} was not accepted: give the server a fresh home")
    acknowledged = time.perf_counter()
    degraded = False
    for answers in range(1, MOST_ANSWERS + 1):
        answer = _post(connection, "/v1/recommend", ask)
        if _knows(shown, answer, clicked):
            done = time.perf_counter()
            return 1000 * (done - began), 1000 * (acknowledged - began), answers, degraded
        degraded = degraded or answer["degraded"] is not None
    raise ValueError(f"the click of {user_id} on {clicked} is not visible after {MOST_ANSWERS}")


def _list_by_state(connection: http.client.HTTPConnection, ask: bytes) -> Reply:
    for _ in range(MOST_ANSWERS):
        answer = _post(connection, "/v1/recommend", ask)
        if _by_state(answer):
            return answer
    raise ValueError(f"none of {MOST_ANSWERS} lists was made with the user's state: {ask!r}")


def _by_state(reply: Reply) -> bool:
    sources = {item["source"] for item in reply["items"]}
    return sources == {"sequence"} and reply["degraded"] is None


def _knows(shown: Reply, answer: Reply, clicked: str) -> bool:
    """Return whether `answer` comes from a state that the click on an item of `shown` has moved."""
    before, after = _scores(shown), _scores(answer)
    if clicked in after or not _by_state(answer):
        return False
    same = SAME_SHARE * max(map(abs, before.values()))
    lowest = min(before.values())
    others = before.keys() - {clicked}
    return others.isdisjoint(after) or any(
        abs(score - before[item_id]) > same if item_id in before else score > lowest + same
        for item_id, score in after.items()
    )


def _scores(reply: Reply) -> dict[str, float]:
    return {item["item_id"]: item["score"] for item in reply["items"]}


def _post(connection: http.client.HTTPConnection, path: str, body: bytes) -> Reply:
    connection.request("POST", path, body, {"Content-Type": "application/json"})
    response = connection.getresponse()
    text = response.read()
    if response.status != 200:
        raise ValueError(f"POST {path} was answered {response.status}: {text[:300]!r}")
    reply: Reply = json.loads(text)
    return reply
