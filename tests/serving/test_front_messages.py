"""Whatever comes in whatever pieces: behind a front door it is answered as without one."""

from __future__ import annotations

import json
import re
import threading
import time

import pytest

from tests.serving.direct_home import direct
from tests.serving.front_home import answered, at_the_door, needs_door, opened
from tests.serving.running import raw
from tests.serving.test_short import answers, connected, parsed, post, sent_alone

pytestmark = needs_door
ONE = post({"user_id": "u0", "n": 3})


@pytest.fixture(scope="module")
def client(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        engine = opened(tmp_path_factory.mktemp("door"), patch)
        with at_the_door(engine) as client:
            for _ in range(2):
                direct(client, {"user_id": "u0", "n": 3})
            yield client


def test_a_request_may_come_in_any_two_pieces(client):
    with connected(client) as connection:
        for cut in range(1, len(ONE), 7):
            connection.sendall(ONE[:cut])
            time.sleep(0.003)
            connection.sendall(ONE[cut:])
            assert len(parsed(answers(connection, 1)[0])[2]["items"]) == 3


def test_a_request_may_come_byte_by_byte(client):
    with connected(client) as connection:
        for byte in ONE:
            connection.sendall(bytes([byte]))
        assert len(parsed(answers(connection, 1)[0])[2]["items"]) == 3


def test_a_head_and_a_late_body_are_answered_at_the_door_if_it_is_not_too_late(client):
    end = ONE.index(b"\r\n\r\n") + 4
    for late, here in ((0.02, 1), (0.5, 0)):
        before = answered(client)
        with connected(client) as connection:
            connection.sendall(ONE[:end])
            time.sleep(late)
            connection.sendall(ONE[end:])
            assert len(parsed(answers(connection, 1)[0])[2]["items"]) == 3
        assert answered(client) == before + here


def test_requests_sent_without_waiting_are_answered_in_order(client):
    many = b"".join(post({"user_id": "u0", "n": n}) for n in range(1, 9))
    with connected(client) as connection:
        for _ in range(3):
            connection.sendall(many)
            found = [len(parsed(each)[2]["items"]) for each in answers(connection, 8)]
            assert found == list(range(1, 9))


def test_one_connection_is_answered_here_and_there_by_turns(client):
    event = {"event": "view", "user_id": "u1", "item_id": "i1"}
    with connected(client) as connection:
        for _ in range(5):
            for sent in (ONE, post(event, path="/v1/events"), ONE, post({"n": 2}), ONE):
                connection.sendall(sent)
                assert parsed(answers(connection, 1)[0])[0] == 200


@pytest.mark.parametrize(
    "sent",
    [
        b"POST /v1/recommend HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n"
        b'7\r\n{"n":1}\r\n0\r\n\r\n',
        b"GET /v1/recommend?user_id=u0 HTTP/1.1\r\nHost: localhost\r\n\r\n",
        post({"user_id": "u0"}, version="1.0"),
        post({"user_id": "u0"}, "Connection: close"),
        post({"user_id": "u0"}, "Expect: 100-continue"),
        post(b'{"user_id": "u0"}' + b" " * 900_000),
    ],
)
def test_other_forms_of_requests_go_through(client, sent):
    received = raw(client, sent, finish=False).removeprefix(b"HTTP/1.1 100 Continue\r\n\r\n")
    assert not received or b" 200 OK\r\n" in received[:30]


def test_a_head_alone_is_answered_with_a_head_alone(client):
    with connected(client) as connection:
        for _ in range(2):
            connection.sendall(b"HEAD /health/live HTTP/1.1\r\nHost: localhost\r\n\r\n")
            time.sleep(0.05)
            assert re.fullmatch(rb"HTTP/1.1 200 OK\r\n.*\r\n\r\n", connection.recv(9999), re.S)


@pytest.mark.parametrize("sent", [b"garbage\r\n\r\n", b"\0" * 100, b"POST / HTTP/9.9\r\n\r\n"])
def test_what_is_no_request_is_refused(client, sent):
    assert raw(client, sent)[:12] in (b"HTTP/1.1 400", b"")
    assert parsed(sent_alone(client, ONE))[0] == 200


@pytest.mark.parametrize("length", [b"1, 2", b"+7", b"7 7", b"-1", b"99999999999999999999", b""])
def test_lengths_that_are_none_are_for_uvicorn(client, length):
    head = b"POST /v1/recommend HTTP/1.1\r\nHost: localhost\r\nContent-Length: " + length
    assert b" 200 " not in raw(client, head + b'\r\n\r\n{"n":1}')[:20]


def test_an_answer_without_end_goes_on_to_its_end(client):
    with client.stream("GET", "/v1/stream") as stream:
        lines = stream.iter_lines()
        told = [next(line for line in lines if line.startswith("data:")) for _ in range(2)]
    assert all(json.loads(line.removeprefix("data:"))["seconds"] >= 0 for line in told)


def test_many_connections_get_their_own_answers(client):
    wrong = []

    def ask(user):
        with connected(client) as connection:
            for n in (1, 2, 3, 4) * 10:
                connection.sendall(post({"user_id": f"u{user % 6}", "n": n}))
                _, _, told = parsed(answers(connection, 1)[0])
                if len(told["items"]) != n:
                    wrong.append(told)

    crowd = [threading.Thread(target=ask, args=[user]) for user in range(24)]
    for one in crowd:
        one.start()
    for one in crowd:
        one.join()
    assert not wrong


def test_who_does_not_read_holds_up_nobody(client):
    with connected(client) as lazy:
        lazy.setblocking(False)
        try:
            for _ in range(20_000):
                lazy.send(post({"user_id": "u0", "n": 9}))
        except BlockingIOError:
            pass
        assert parsed(sent_alone(client, ONE))[0] == 200


def test_who_says_that_no_more_comes_is_answered_and_let_go(client):
    begun = time.monotonic()
    for sent in (ONE, post({"n": 2}), b"GET /health/live HTTP/1.1\r\nHost: localhost\r\n\r\n"):
        assert raw(client, sent)[:12] in (b"HTTP/1.1 200", b"")
    assert time.monotonic() - begun < 4  # and not when it has rested too long
