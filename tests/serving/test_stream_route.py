"""The stream over real HTTP: what it tells, to how many, and how it ends."""

from __future__ import annotations

import asyncio
import json
import logging
import socket
import threading
import time
from contextlib import contextmanager

import httpx
import pytest

from ouzel.serving.app import build_app
from ouzel.serving.security import Access
from ouzel.serving.short import ShortWay
from ouzel.serving.stream import Listener
from tests.serving.running import raw, running

FAST = 0.02


@pytest.fixture
def engine(engine):
    engine.stream.seconds = FAST
    return engine


@contextmanager
def listening(client, **more):
    """Yield an iterator over the ticks of a stream, and its answer."""
    with client.stream("GET", "/v1/stream", **more) as reply:
        yield ticks(reply), reply


def ticks(reply):
    for line in reply.iter_lines():
        if line.startswith("data: "):
            yield json.loads(line.removeprefix("data: "))


def until(condition, *, seconds=60.0):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "never so"
        time.sleep(0.005)


def test_the_stream_tells_what_happens(client):
    with listening(client) as (heard, reply):
        assert reply.status_code == 200
        assert reply.headers["content-type"] == "text/event-stream; charset=utf-8"
        assert reply.headers["cache-control"] == "no-store"
        next(heard)
        other = httpx.Client(base_url=client.base_url)
        for _ in range(5):
            other.get("/v1/recommend?user_id=ada")
        other.post("/v1/events", json={"event": "click", "user_id": "ada", "item_id": "i20"})
        other.get("/v1/recommend?n=0")
        seen = {"recommend": 0.0, "events": 0.0, "refused": 0.0}
        for tick in heard:
            span = tick["seconds"]
            seen["recommend"] += tick["answers"].get("recommend", {"per_s": 0})["per_s"] * span
            seen["events"] += tick["events"] * span
            seen["refused"] += tick["refused"] * span
            if "search" in tick["stages"]:
                assert tick["stages"]["search"]["p99_ms"] >= tick["stages"]["search"]["p50_ms"] > 0
            if seen["recommend"] > 5.5:
                break
        other.close()
    assert {name: round(count) for name, count in seen.items()} == {
        "recommend": 6,
        "events": 1,
        "refused": 1,
    }


def test_the_bytes_are_those_of_server_sent_events(client):
    address = (client.base_url.host, client.base_url.port)
    with socket.create_connection(address, timeout=20) as connection:
        connection.sendall(
            b"GET /v1/stream HTTP/1.1\r\nHost: localhost\r\nLast-Event-ID: 7\r\n\r\n"
        )
        received = b""
        while received.count(b"event: tick\n") < 2:
            received += connection.recv(65536)
    assert b"retry: 2000\n\n" in received
    assert b"\nid:" not in received
    assert b"event: tick\ndata: {" in received


def test_nothing_is_counted_while_nobody_listens(client, engine, monkeypatch):
    told = []
    tick = engine.stream._live.tick
    monkeypatch.setattr(engine.stream._live, "tick", lambda: told.append(1) or tick())
    time.sleep(3 * FAST)
    assert not told
    with listening(client) as (heard, _):
        next(heard)
    until(lambda: not len(engine.stream))
    count = len(told)
    assert count >= 1
    time.sleep(3 * FAST)
    assert len(told) == count


def test_of_the_time_when_nobody_listened_nothing_is_told(client):
    with listening(client) as (heard, _):
        next(heard)
    for _ in range(20):
        client.get("/v1/recommend")
    with listening(client) as (heard, _):
        assert "recommend" not in next(heard)["answers"]


def test_more_than_so_many_are_refused_until_one_leaves(client, engine):
    engine.stream.max_listeners = 1
    with listening(client) as (heard, _):
        next(heard)
        refused = client.get("/v1/stream")
        assert refused.status_code == 503
        assert refused.headers["retry-after"] == "5"
        assert refused.json()["detail"].startswith("1 clients listen already")
    until(lambda: not len(engine.stream))
    with listening(client) as (heard, reply):
        assert reply.status_code == 200 and next(heard)


def test_head_ends_at_once(client, engine):
    reply = client.head("/v1/stream")
    assert reply.status_code == 200 and reply.content == b""
    until(lambda: not len(engine.stream))


def test_the_access_rules_are_those_of_all_routes(engine):
    with running(build_app(engine, Access("0.0.0.0", "canary"))) as locked:
        assert locked.get("/v1/stream").status_code == 401
        with listening(locked, headers={"authorization": "Bearer canary"}) as (heard, _):
            assert next(heard)
        foreign = {"authorization": "Bearer canary", "sec-fetch-site": "cross-site"}
        assert locked.get("/v1/stream", headers=foreign).status_code == 403


def test_a_foreign_host_hears_nothing(client):
    sent = b"GET /v1/stream HTTP/1.1\r\nHost: evil.example\r\n\r\n"
    assert b"421" in raw(client, sent).splitlines()[0]


def test_the_page_of_metrics_says_how_many_listen(client):
    with listening(client) as (heard, _):
        next(heard)
        with httpx.Client(base_url=client.base_url) as other:
            assert 'ouzel_now{of="stream_listeners"} 1.0' in other.get("/metrics").text


def test_a_tick_that_cannot_be_told_is_left_out(client, engine, monkeypatch, caplog):
    tick, calls = engine.stream._live.tick, []

    def failing():
        calls.append(1)
        if len(calls) == 2:
            raise RuntimeError("planted")
        return tick()

    monkeypatch.setattr(engine.stream._live, "tick", failing)
    with listening(client) as (heard, _):
        for _ in range(3):
            next(heard)
    assert "planted" in caplog.text


@pytest.mark.parametrize("reads", [True, False])
def test_a_server_that_stops_ends_its_streams(engine, monkeypatch, caplog, reads):
    """Well within the time that answers may take to drain, whether or not the client reads."""
    monkeypatch.setattr("ouzel.serving.server.DRAIN_SECONDS", 60)
    monkeypatch.setattr("ouzel.serving.stream_route.STUCK_SECONDS", 0.3)
    if not reads:
        monkeypatch.setattr("ouzel.serving.stream._encode", lambda _: b"x" * (1 << 22))
    with caplog.at_level(logging.ERROR):
        ended = []
        with running(build_app(engine, Access("127.0.0.1", None))) as client:
            address = (client.base_url.host, client.base_url.port)
            connection = socket.create_connection(address, timeout=20)
            connection.sendall(b"GET /v1/stream HTTP/1.1\r\nHost: localhost\r\n\r\n")
            if reads:
                reader = threading.Thread(target=lambda: ended.append(_all_of(connection)))
                reader.start()
            until(lambda: len(engine.stream) == 1)
            time.sleep(5 * FAST)
            begun = time.monotonic()
    assert time.monotonic() - begun < 20
    if reads:
        reader.join()
        assert ended[0].endswith(b"0\r\n\r\n")  # the last chunk: no broken answer
    connection.close()
    assert not caplog.records


def test_who_reads_slowly_hears_the_newest_tick_only():
    async def listen():
        listener = Listener()
        for tick in (b"1", b"2", b"3"):
            listener.tell(tick)
        heard = [await listener.next()]
        listener.tell(b"4")
        heard.append(await listener.next())
        listener.tell(b"5")
        listener.close()
        return [*heard, await listener.next()]

    assert asyncio.run(listen()) == [b"3", b"4", None]


def test_who_does_not_read_fills_no_memory(client, engine, monkeypatch):
    """Hundreds of ticks of 256 KiB are told meanwhile; what waits for the client stays one."""
    told, protocols = [], []
    monkeypatch.setattr("ouzel.serving.stream._encode", lambda _: told.append(1) or bytes(1 << 18))
    usual = ShortWay._as_usual
    monkeypatch.setattr(ShortWay, "_as_usual", lambda one: protocols.append(one) or usual(one))
    engine.stream.seconds = 0.001
    address = (client.base_url.host, client.base_url.port)
    with socket.create_connection(address, timeout=20) as connection:
        connection.sendall(b"GET /v1/stream HTTP/1.1\r\nHost: localhost\r\n\r\n")
        until(lambda: len(told) > 200)
        assert protocols[0].transport.get_write_buffer_size() < 1 << 20


def test_who_never_reads_loses_the_place(client, engine, monkeypatch, caplog):
    monkeypatch.setattr("ouzel.serving.stream_route.STUCK_SECONDS", 0.2)
    monkeypatch.setattr("ouzel.serving.stream._encode", lambda _: b"x" * (1 << 22))
    address = (client.base_url.host, client.base_url.port)
    with caplog.at_level(logging.ERROR), socket.create_connection(address, timeout=20) as stuck:
        stuck.sendall(b"GET /v1/stream HTTP/1.1\r\nHost: localhost\r\n\r\n")
        until(lambda: len(engine.stream) == 1)
        until(lambda: len(engine.stream) == 0)
    assert not caplog.records


def _all_of(connection: socket.socket) -> bytes:
    received = b""
    while chunk := connection.recv(65536):
        received += chunk
    return received
