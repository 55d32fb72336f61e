"""The short way gives what the long way gives, and takes nothing that is not plain."""

from __future__ import annotations

import json
import re
import socket
import time
from contextlib import suppress

import pytest

from ouzel.serving.app import build_app
from ouzel.serving.security import Access
from ouzel.serving.short import LONGEST_BODY, LONGEST_HEAD, ShortWay
from tests.serving.running import running

EVENT = {"event": "click", "user_id": "u", "item_id": "i1", "event_id": "e"}


@pytest.fixture
def ways(monkeypatch):
    """Return the list of ways that requests went."""
    taken = []
    plain, usual, again = ShortWay._plain, ShortWay._as_usual, ShortWay._again

    def noted_again(self, data):
        known = again(self, data)
        if known:
            taken.append("again")
        return known

    def noted_plain(self, short):
        asked = plain(self, short)
        if asked is not None:
            taken.append("short")
        return asked

    def noted_usual(self):
        taken.append("usual")
        usual(self)

    monkeypatch.setattr(ShortWay, "_plain", noted_plain)
    monkeypatch.setattr(ShortWay, "_as_usual", noted_usual)
    monkeypatch.setattr(ShortWay, "_again", noted_again)
    return taken


def post(body: bytes | dict, *headers: str, path: str = "/v1/recommend", version: str = "1.1"):
    sent = json.dumps(body).encode() if isinstance(body, dict) else body
    head = [f"POST {path} HTTP/{version}", "Host: 127.0.0.1", f"Content-Length: {len(sent)}"]
    return "\r\n".join([*head, *headers, "", ""]).encode() + sent


def parsed(received: bytes) -> tuple[int, dict[str, str], dict]:
    head, _, body = received.partition(b"\r\n\r\n")
    lines = head.decode().split("\r\n")
    headers = dict(line.split(": ", 1) for line in lines[1:])
    assert len(body) == int(headers["content-length"])
    return int(lines[0].split()[1]), headers, json.loads(body)


def without_what_passes(answer):
    """Leave out what differs from one answer to the next: ids, times, and the connection's end."""
    status, headers, body = answer
    headers = {k: v for k, v in headers.items() if k not in ("date", "connection")}
    headers["server-timing"] = re.sub(r"dur=[\d.]+", "", headers["server-timing"])
    headers.pop("content-length")
    return status, headers, {k: v for k, v in body.items() if k not in ("request_id", "took_ms")}


REQUESTS = [
    ({"user_id": "nobody", "n": 3}, "/v1/recommend"),
    ({"n": 501}, "/v1/recommend"),
    ({"user": "typo"}, "/v1/recommend"),
    (b"{", "/v1/recommend"),
    (EVENT, "/v1/events"),
    ({"event": "click", "item_id": "i1"}, "/v1/events"),
    (b"", "/v1/events"),
]


@pytest.mark.parametrize(("body", "path"), REQUESTS)
def test_both_ways_answer_alike(client, ways, body, path):
    sent_alone(
        client, post(body, path=path)
    )  # an event that comes again is a duplicate on either way
    short = parsed(sent_alone(client, post(body, path=path)))
    usual = parsed(sent_alone(client, post(body, "Connection: close", path=path)))
    assert ways == ["short", "again", "usual"]
    assert usual[1]["connection"] == "close"
    assert without_what_passes(short) == without_what_passes(usual)


NOT_PLAIN = [
    post({"n": 1}, version="1.0"),
    post({"n": 1}, "Expect: 100-continue"),
    post({"n": 1}, "Content-Encoding: identity"),
    post({"n": 1}, path="/v1/recommend?"),
    b"POST /v1/recommend HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n"
    b'7\r\n{"n":1}\r\n0\r\n\r\n',
    b"GET /v1/recommend HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n",
    post(b'{"n":1' + b" " * LONGEST_BODY + b"}"),
]


@pytest.mark.parametrize("sent", NOT_PLAIN)
def test_what_is_not_plain_goes_the_way_of_uvicorn(client, ways, sent):
    received = sent_alone(client, sent)
    assert ways == ["usual"]
    assert received.startswith(b"HTTP/1.1 200 OK\r\n")


def test_an_upgrade_goes_the_way_of_uvicorn(client, ways):
    sent = post(b"", "Connection: upgrade", "Upgrade: websocket")
    assert parsed(sent_alone(client, sent))[0] == 400
    assert ways == ["usual"]


def test_a_failure_is_a_problem_and_goes_to_the_log(client, engine, monkeypatch, caplog):
    async def broken(request, timing):
        raise RuntimeError("planted")

    monkeypatch.setattr(engine.answers, "answer", broken)
    status, headers, body = parsed(sent_alone(client, post({"n": 1})))
    assert (status, headers["content-type"]) == (500, "application/problem+json")
    assert body["detail"] == "the server failed: see its log"
    assert "planted" in caplog.text


def test_a_foreign_host_is_refused_on_the_short_way_too(client, ways):
    sent = post({"n": 1}).replace(b"127.0.0.1", b"evil.example")
    assert parsed(sent_alone(client, sent))[0] == 421
    assert ways == ["short"]


def test_a_head_that_comes_again_is_not_parsed_again(client, ways):
    with connected(client) as connection:
        for n in (3, 4, 5):
            connection.sendall(post({"user_id": "nobody", "n": n}))
            assert len(parsed(answers(connection, 1)[0])[2]["items"]) == n
    with connected(client) as another:
        another.sendall(post({"user_id": "nobody", "n": 6}))
        assert len(parsed(answers(another, 1)[0])[2]["items"]) == 6
        another.sendall(post({"user_id": "nobody", "n": 12}))  # a longer body: another head
        assert len(parsed(answers(another, 1)[0])[2]["items"]) == 12
    assert ways == ["short", "again", "again", "again", "short"]


def test_a_known_head_is_checked_like_any_other(client, ways, engine):
    foreign = post({"n": 1}).replace(b"127.0.0.1", b"evil.example")
    for _ in range(3):
        assert parsed(sent_alone(client, foreign))[0] == 421
    assert ways == ["short", "again", "again"]


def test_a_known_head_in_parts_or_in_company_is_parsed(client, ways):
    one = post({"user_id": "nobody", "n": 2})
    assert parsed(sent_alone(client, one))[0] == 200
    with connected(client) as connection:
        for cut in (10, len(one) - 30, len(one) - 3):
            connection.sendall(one[:cut])
            time.sleep(0.02)
            connection.sendall(one[cut:])
            assert len(parsed(answers(connection, 1)[0])[2]["items"]) == 2
        connection.sendall(one + one)
        assert [len(parsed(each)[2]["items"]) for each in answers(connection, 2)] == [2, 2]
        connection.sendall(one)
        assert len(parsed(answers(connection, 1)[0])[2]["items"]) == 2
    assert ways == ["short", "short", "short", "short", "short", "usual", "again"]


SMALL = b'{"n":1}'
REFUSED = b"POST /v1/recommend HTTP/9.9\r\nHost: 127.0.0.1\r\nContent-Length: 7\r\n\r\n" + SMALL


@pytest.mark.parametrize("chunk", [REFUSED, b"POS" + SMALL, b"\r\n\r\n" + SMALL, b"\r\n\r\n"])
def test_what_is_no_request_is_not_taken_for_the_one_before(engine, chunk):
    app = build_app(engine, Access("127.0.0.1", "secret"))
    sent = b"" if chunk == b"\r\n\r\n" else SMALL
    with running(app) as client:
        with connected(client) as connection:
            connection.sendall(post(sent, "X-API-Key: secret"))
            assert parsed(answers(connection, 1)[0])[0] != 401
            connection.sendall(chunk)
            time.sleep(0.05)
        with connected(client) as stranger:
            stranger.settimeout(0.2)
            stranger.sendall(chunk)
            with suppress(TimeoutError):
                assert b" 200 " not in stranger.recv(65536)
        (head,) = app.heads
    assert head == post(sent, "X-API-Key: secret").removesuffix(sent)


def test_few_heads_are_remembered_and_none_that_is_long(client, ways, monkeypatch):
    monkeypatch.setattr("ouzel.serving.short.MOST_HEADS", 2)
    for name in "abca":
        sent_alone(client, post({"n": 1}, f"X-Trace: {name}"))
    assert ways == ["short"] * 4  # "a" gave way
    long = "X-Trace: " + "x" * LONGEST_HEAD
    for _ in range(2):
        sent_alone(client, post({"n": 1}, long))
    assert ways == ["short"] * 6


@pytest.mark.parametrize(("soon", "way"), [(5.0, ["short"]), (0.01, ["short", "usual"])])
def test_a_body_that_lets_wait_is_read_to_its_end(client, ways, monkeypatch, soon, way):
    monkeypatch.setattr("ouzel.serving.short.SOON_SECONDS", soon)
    whole = post({"user_id": "nobody", "n": 2})
    for turn, cut in enumerate((len(whole) - 26, len(whole) - 3), 1):
        with connected(client) as connection:
            connection.sendall(whole[:cut])
            while len(ways) < turn * len(way):  # the rest comes when the way is taken
                time.sleep(0.001)
            connection.sendall(whole[cut:])
            assert len(parsed(answers(connection, 1)[0])[2]["items"]) == 2
    assert ways == way * 2


def test_who_goes_away_before_the_body_came_harms_nobody(client, monkeypatch):
    monkeypatch.setattr("ouzel.serving.short.SOON_SECONDS", 0.01)
    for _ in range(3):
        with connected(client) as connection:
            connection.sendall(post({"n": 1})[:-3])
    time.sleep(0.05)
    assert parsed(sent_alone(client, post({"n": 1})))[0] == 200


def test_one_connection_takes_both_ways_by_turns(client, ways):
    with connected(client) as connection:
        for sent in (post({"n": 1}), NOT_PLAIN[2], post({"n": 2})):
            connection.sendall(sent)
            assert parsed(answers(connection, 1)[0])[0] == 200
    assert ways == ["short", "usual", "again"]


def test_requests_sent_without_waiting_are_answered_in_order(client):
    with connected(client) as connection:
        connection.sendall(b"".join(post({"n": n}) for n in range(1, 6)))
        received = [len(parsed(answer)[2]["items"]) for answer in answers(connection, 5)]
    assert received == [1, 2, 3, 4, 5]


def test_who_does_not_read_fills_no_memory(client, ways, monkeypatch):
    buffered = []
    answer = ShortWay._answer

    async def noted(self, asked):
        await answer(self, asked)
        buffered.append(self.transport.get_write_buffer_size())

    monkeypatch.setattr(ShortWay, "_answer", noted)
    with connected(client) as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        until = time.monotonic() + 20
        # One at a time, so that nothing but the unread answers can end the short way.
        for sent in range(1, 3000):
            connection.sendall(post({"n": 40}))
            while len(buffered) < sent and "usual" not in ways and time.monotonic() < until:
                time.sleep(0.0005)
            if "usual" in ways or time.monotonic() > until or buffered[-1] > 1 << 20:
                break
    assert "usual" in ways  # which waits until there is room
    assert max(buffered) < 1 << 20


def test_who_goes_away_harms_nobody(client):
    for _ in range(20):
        with connected(client) as connection:
            connection.sendall(post(EVENT, path="/v1/events"))
    assert parsed(sent_alone(client, post({"n": 1})))[0] == 200


def sent_alone(client, sent: bytes) -> bytes:
    """Return the answer to one request on a connection of its own."""
    with connected(client) as connection:
        connection.sendall(sent)
        return answers(connection, 1)[0]


def connected(client) -> socket.socket:
    return socket.create_connection((client.base_url.host, client.base_url.port), timeout=20)


def answers(connection: socket.socket, count: int) -> list[bytes]:
    """Return so many answers as they come from a connection that stays open."""
    received, found = b"", []
    while len(found) < count:
        received = received.removeprefix(b"HTTP/1.1 100 Continue\r\n\r\n")
        head, end, rest = received.partition(b"\r\n\r\n")
        length = re.search(rb"content-length: (\d+)", head)
        if end and length and len(rest) >= int(length[1]):
            size = len(head) + 4 + int(length[1])
            found.append(received[:size])
            received = received[size:]
            continue
        chunk = connection.recv(65536)
        assert chunk, "the connection was closed"
        received += chunk
    assert not received
    return found
