"""A real home whose plain requests are answered directly, and what its answers are compared by."""

from __future__ import annotations

import re
import time

import msgspec

from ouzel.serving.direct import Direct
from ouzel.serving.home import open_home
from ouzel.serving.short import ShortWay
from tests.serving.real_home import HOUR_MS, write_home
from tests.serving.test_short import parsed, post, sent_alone
from tests.tiny import START_MS

USERS = [f"u{number}" for number in range(6)]
NOW_MS = START_MS + 1000 * HOUR_MS


def opened(folder, monkeypatch, **home):
    """Return the engine of a home in `folder`, in which time stands still."""
    # The time of a request enters its scores: one moment, so that they can be compared.
    monkeypatch.setattr("ouzel.events.clock.now_ms", lambda: NOW_MS)
    write_home(folder / "home", **home)
    return open_home(folder / "home", state_bytes=1 << 20)


def noted_ways(monkeypatch):
    """Return the list of ways that requests for lists went: some "direct" ones go on as "usual"."""
    taken = []
    take, go_on = Direct.take, ShortWay.go_on

    def noted_take(self, asking, body, loop):
        took = take(self, asking, body, loop)
        if took:
            taken.append("direct")
        return took

    def noted_go_on(self, asked):
        if asked.head.scope["path"] == "/v1/recommend":
            taken.append("usual")
        go_on(self, asked)

    monkeypatch.setattr(Direct, "take", noted_take)
    monkeypatch.setattr(ShortWay, "go_on", noted_go_on)
    return taken


def usual(client, body, *headers):
    """Return the answer to the same request by the way of uvicorn."""
    return parsed(sent_alone(client, post(body, "Connection: close", *headers)))


def direct(client, body, *headers):
    return parsed(sent_alone(client, post(body, *headers)))


def items(answer):
    return [item["item_id"] for item in answer[2]["items"]]


def to_the_letter(sent: bytes) -> bytes:
    """Return the body of an answer but for its id and its time."""
    body = sent.partition(b"\r\n\r\n")[2]
    body, ids = re.subn(rb'"request_id":"[0-9a-f]{32}"', b"", body)
    body, times = re.subn(rb'"took_ms":\d+\.\d+', b"", body)
    assert (ids, times) == (1, 1)
    return body


def shown(engine, answer):
    """Return what the log says was shown by an answer."""
    request_id = answer[2]["request_id"]
    until = time.monotonic() + 20
    while not (found := engine.log.impressions(request_id)) and time.monotonic() < until:
        time.sleep(0.01)
    (impression,) = found
    assert impression.event_id == f"shown-{request_id}"
    assert impression.request_id == request_id
    fields = msgspec.structs.asdict(impression)
    return {name: each for name, each in fields.items() if name not in ("event_id", "request_id")}
