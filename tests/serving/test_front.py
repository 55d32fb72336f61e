"""What is answered at the front door is what uvicorn would have answered; all else goes through."""

from __future__ import annotations

import json
import socket
import threading
import time

import numpy as np
import pytest

from ouzel.ranking import blend_kernel, blending
from ouzel.ranking.blending import BlendSources
from ouzel.retrieval import popular
from ouzel.serving import front
from ouzel.serving.front import Front
from ouzel.serving.front_door import FrontDoor
from ouzel.serving.home import open_home
from tests.serving.direct_home import direct, items, shown, usual
from tests.serving.front_home import answered, at_the_door, needs_door, opened
from tests.serving.real_home import write_home
from tests.serving.test_short import answers, connected, parsed, post, sent_alone

pytestmark = needs_door
USERS = [f"u{number}" for number in range(6)]


BOTH = pytest.mark.parametrize("engine", [False, True], ids=["alone", "blended"], indirect=True)


@pytest.fixture
def engine(request, tmp_path, monkeypatch):
    """Return the engine of a home whose lists are blended with other sources, if asked."""
    return opened(tmp_path, monkeypatch, blended=getattr(request, "param", False))


@pytest.fixture
def client(engine):
    with at_the_door(engine) as client:
        for user in USERS:  # their states are made, and the head is let in
            direct(client, {"user_id": user, "n": 9})
        yield client


@pytest.fixture
def moment(monkeypatch):
    """Return a function that stops the clock of the interpreter at the time of an answer."""

    def stop(answer):
        now_ms = int(answer[2]["request_id"][:12], 16)
        monkeypatch.setattr("ouzel.events.clock.now_ms", lambda: now_ms)

    return stop


def click(client, user, item):
    event = {"event": "click", "user_id": user, "item_id": item}
    assert client.post("/v1/events", json=event).json()["accepted"] == 1


@BOTH
@pytest.mark.parametrize("n", [1, 3, 9])
def test_the_answer_is_that_of_uvicorn(client, moment, n):
    before = answered(client)
    for user in USERS:
        answer = direct(client, {"user_id": user, "n": n})
        moment(answer)
        theirs = usual(client, {"user_id": user, "n": n})
        assert (answer[0], answer[2]["items"]) == (200, theirs[2]["items"])
        assert answer[2]["model"] == theirs[2]["model"] and answer[2]["degraded"] is None
        timing = answer[1].pop("server-timing")
        assert timing.startswith("T;dur=") and ", A-search;dur=" in timing
        same = ("content-type", "x-content-type-options", "cache-control")
        assert {name: answer[1][name] for name in same} == {name: theirs[1][name] for name in same}
        assert len(answer[1]["date"]) == len(theirs[1]["date"])
    assert answered(client) == before + 6


def test_the_default_length_is_ten_and_space_is_no_matter(client):
    for body in (b'{"user_id":"u0"}', b' { "n" : 4 , "user_id" : "u1" } ', b'{"user_id": "u0"}\n'):
        sent_alone(client, post(body))
        before = answered(client)
        answer = parsed(sent_alone(client, post(body)))
        assert len(answer[2]["items"]) == (4 if b"4" in body else 10)
        assert answered(client) == before + 1


NOT_PLAIN = [
    b'{"user_id": "u0", "n": 0}', b'{"user_id": "u0", "n": 501}', b'{"user_id": "u0", "n": -3}',
    b'{"user_id": "u0", "n": 1e1}', b'{"user_id": "u0", "n": 3.0}', b'{"user_id": "u0", "n": 03}',
    b'{"user_id": "u0", "n": "3"}', b'{"user_id": "u0", "n": null}', b'{"user_id": null}', b"{}",
    b'{"user_id": "u\\u0030"}', b'{"user_id": ""}', b'{"user_id": 0}', b'{"user_id": "nobody"}',
    b'{"user_id": "u0", "user_id": "u1"}', b'{"user_id": "u0", "n": 3, "n": 4}', b"[]", b"",
    b'{"user_id": "u0",}', b'{"user_id": "u0"} x', b'{"user_id": "u0"}}', b'{"user_id": "u0"',
    b'{"user_id": "u0", "exclude_seen": false}', b'{"user": "u0"}', b'{"user_id": "u\xff"}',
    b'{"user_id": "u0", "filter": "x == 1"}', b'\x00{"user_id": "u0"}', b'{"user_id": "u\n0"}',
    b'{"user_id": "u0", "n": 99999999999999999999}', b'{"n": 3}', b'{"user_id" "u0"}',
]  # fmt: skip


@pytest.mark.parametrize("body", NOT_PLAIN)
def test_what_is_not_plain_is_for_the_interpreter(client, body):
    body = body.ljust(64)  # so that the head is one that was let in
    for _ in range(2):
        sent_alone(client, post(b'{"user_id": "u1", "n": 2}'.ljust(64)))
    before = answered(client)
    status, _, told = parsed(sent_alone(client, post(body)))
    other, _, theirs = parsed(sent_alone(client, post(body, "Connection: close")))
    assert status == other and answered(client) == before
    if status != 200:
        assert told == theirs
    else:
        assert [item["item_id"] for item in told["items"]] == [
            item["item_id"] for item in theirs["items"]
        ]


@BOTH
def test_a_click_is_in_the_very_next_answer_beside_others(client):
    stop = threading.Event()

    def ask():
        with connected(client) as connection:
            while not stop.is_set():
                connection.sendall(post({"user_id": "u1", "n": 9}))
                answers(connection, 1)

    crowd = [threading.Thread(target=ask) for _ in range(3)]
    for one in crowd:
        one.start()
    try:
        with connected(client) as connection:
            for _ in range(12):
                connection.sendall(post({"user_id": "u0", "n": 9}))
                best = items(parsed(answers(connection, 1)[0]))[0]
                click(client, "u0", best)
                connection.sendall(post({"user_id": "u0", "n": 9}))
                assert best not in items(parsed(answers(connection, 1)[0]))
    finally:
        stop.set()
        for one in crowd:
            one.join()


@BOTH
def test_who_has_clicked_is_soon_answered_at_the_door_again(client, moment):
    click(client, "u2", items(direct(client, {"user_id": "u2", "n": 9}))[0])
    direct(client, {"user_id": "u2", "n": 9})
    before = answered(client)
    answer = direct(client, {"user_id": "u2", "n": 9})
    assert answered(client) == before + 1
    moment(answer)
    assert answer[2]["items"] == usual(client, {"user_id": "u2", "n": 9})[2]["items"]


@BOTH
def test_a_hidden_item_is_in_no_answer_and_comes_back(client):
    best = items(direct(client, {"user_id": "u3", "n": 9}))[0]
    before = answered(client)
    for available in (False, True):
        client.patch(f"/v1/items/{best}", json={"available": available})
        assert (best in items(direct(client, {"user_id": "u3", "n": 9}))) == available
    assert answered(client) == before + 2


@BOTH
def test_what_was_shown_is_in_the_log_as_ever(client, engine):
    ours = direct(client, {"user_id": "u4", "n": 9})
    theirs = usual(client, {"user_id": "u4", "n": 9})
    told, other = shown(engine, ours), shown(engine, theirs)
    assert told["item_ids"] == tuple(items(ours)) and told["user_id"] == "u4"
    assert {**told, "timestamp_ms": 0, "item_ids": 0} == {**other, "timestamp_ms": 0, "item_ids": 0}


def test_nothing_shown_is_lost_when_the_server_ends(tmp_path, monkeypatch):
    engine = opened(tmp_path, monkeypatch)
    with at_the_door(engine) as client, connected(client) as connection:
        ids = set()
        for _ in range(200):
            connection.sendall(post({"user_id": "u0", "n": 3}))
            ids.add(parsed(answers(connection, 1)[0])[2]["request_id"])
    with open_home(tmp_path / "home", state_bytes=1 << 20).log as log:
        assert {one.request_id for one in log.last_impressions(300)} >= ids


def test_lists_that_cannot_be_stored_cost_no_answer(client, engine, monkeypatch):
    def full(text, count):
        raise OSError("planted: no space")

    monkeypatch.setattr(engine.log, "append_shown", full)
    for _ in range(3):
        assert len(items(direct(client, {"user_id": "u0", "n": 9}))) == 9
    until = time.monotonic() + 10
    while engine.writer.stats.dropped < 3 and time.monotonic() < until:
        time.sleep(0.02)
    assert engine.writer.stats.dropped >= 3


def test_a_state_that_is_written_or_gone_is_not_read(client, engine, monkeypatch):
    user = engine.log.user_row(user_id="u5")
    pool = engine.parts.states.pool
    pool.epoch_S[pool.slot(user)] += 1  # as in the midst of a write
    before = answered(client)
    assert len(items(direct(client, {"user_id": "u5", "n": 9}))) == 9
    assert answered(client) == before
    pool.epoch_S[pool.slot(user)] += 1
    direct(client, {"user_id": "u5", "n": 9})
    assert answered(client) == before + 1


def test_who_had_to_make_room_never_gets_the_list_of_another(tmp_path, monkeypatch, moment):
    engine = opened(tmp_path, monkeypatch, state_bytes=8_000)
    assert engine.parts.states.pool.num_slots < len(USERS)
    rng = np.random.default_rng(0)
    with at_the_door(engine) as client:
        for user in rng.choice(USERS, 60):
            answer = direct(client, {"user_id": str(user), "n": 9})
            moment(answer)
            assert items(usual(client, {"user_id": str(user), "n": 9})) == items(answer)


def test_a_wrong_key_or_host_gets_nothing_at_the_door(tmp_path, monkeypatch):
    with at_the_door(opened(tmp_path, monkeypatch), "secret") as client:
        wrong = post({"user_id": "u0", "n": 9}, "X-API-Key: guess")
        right = post({"user_id": "u0", "n": 9}, "X-API-Key: secret")
        foreign = right.replace(b"Host: 127.0.0.1", b"Host: evil.example")
        for _ in range(3):
            assert parsed(sent_alone(client, right))[0] == 200
            assert parsed(sent_alone(client, wrong))[0] == 401
            assert parsed(sent_alone(client, foreign))[0] == 421
        assert answered(client) >= 1


def test_there_is_none_where_it_could_not_keep_its_promise(tmp_path, monkeypatch):
    assert FrontDoor.of(opened(tmp_path / "a", monkeypatch, ranker=True)) is None
    write_home(tmp_path / "b")  # without what kernels need
    assert FrontDoor.of(open_home(tmp_path / "b", state_bytes=1 << 20)) is None
    write_home(tmp_path / "c", compiled=True)
    many = open_home(tmp_path / "c", state_bytes=1 << 20, workers=2)
    assert FrontDoor.of(many) is None
    blended = opened(tmp_path / "d", monkeypatch, blended=True)
    assert FrontDoor.of(blended) is not None
    kernel = blended.direct._search.blend.kernel
    monkeypatch.setattr(kernel, "num_rows", kernel.num_rows + 1)  # of more than have vectors
    assert FrontDoor.of(blended) is None
    monkeypatch.setattr(blended.direct._search.blend, "kernel", None)
    assert FrontDoor.of(blended) is None


def test_lists_longer_than_what_sources_propose_are_those_of_uvicorn(tmp_path, monkeypatch, moment):
    monkeypatch.setattr(blend_kernel, "BREADTH", 4)
    monkeypatch.setattr(blending, "BREADTH", 4)
    monkeypatch.setattr(BlendSources, "breadth", 4)
    with at_the_door(opened(tmp_path, monkeypatch, blended=True)) as client:
        for user in USERS:
            direct(client, {"user_id": user, "n": 9})
        before = answered(client)
        for n in (1, 4, 5, 9):
            answer = direct(client, {"user_id": "u1", "n": n})
            moment(answer)
            assert answer[2]["items"] == usual(client, {"user_id": "u1", "n": n})[2]["items"]
            assert len(answer[2]["items"]) == n
        assert answered(client) == before + 4


def test_a_popular_list_that_is_not_known_far_enough_is_for_the_interpreter(tmp_path, monkeypatch):
    monkeypatch.setattr(popular, "HEAD", 20)  # with a breadth of 100
    with at_the_door(opened(tmp_path, monkeypatch, blended=True)) as client:
        for _ in range(3):
            answer = direct(client, {"user_id": "u1", "n": 9})
            assert items(answer) == items(usual(client, {"user_id": "u1", "n": 9}))
            assert answer[2]["degraded"] is None
        assert answered(client) == 0


def test_who_was_pushed_out_is_let_in_again(tmp_path, monkeypatch):
    monkeypatch.setattr(front, "USER_BYTES", 600)  # one user
    with at_the_door(opened(tmp_path, monkeypatch)) as client:
        for user in ("u1", "u2", "u1"):  # each has to go for the next
            direct(client, {"user_id": user, "n": 9})
            before = answered(client)  # and by now the next is in
        for _ in range(3):
            direct(client, {"user_id": "u1", "n": 9})
        assert answered(client) == before + 3


def test_a_build_of_another_layout_is_not_used(monkeypatch):
    monkeypatch.setattr(front, "_ANSWER_BYTES", 8)
    front._kernel.cache_clear()
    assert not Front.works()
    front._kernel.cache_clear()


def test_connections_that_rest_are_ended(tmp_path, monkeypatch):
    monkeypatch.setattr(front, "IDLE_SECONDS", 0.3)
    with at_the_door(opened(tmp_path, monkeypatch)) as client, connected(client) as connection:
        connection.sendall(post({"user_id": "u0", "n": 9}))
        answers(connection, 1)
        connection.settimeout(10)
        assert connection.recv(100) == b""


def test_the_server_ends_with_connections_open(tmp_path, monkeypatch):
    with at_the_door(opened(tmp_path, monkeypatch)) as client:
        held = [connected(client) for _ in range(8)]
        held[0].sendall(post({"user_id": "u0", "n": 9}))
        answers(held[0], 1)
        held[1].sendall(b"POST /v1/rec")
        begun = time.monotonic()
    assert time.monotonic() - begun < 15
    for one in held:
        one.settimeout(5)
        assert one.recv(1000) == b""
        one.close()


def test_counts_and_times_are_in_the_metrics(client):
    before = answered(client)
    for _ in range(5):
        direct(client, {"user_id": "u0", "n": 9})
    assert answered(client) == before + 5
    text = client.get("/metrics").text
    assert 'ouzel_stage_seconds_count{route="recommend",stage="search"}' in text
    assert 'ouzel_requests_total{route="recommend",status="200"}' in text
    tick = json.loads(next(_ticks(client)))
    assert tick["requests"] >= 0


def _ticks(client):
    with client.stream("GET", "/v1/stream") as stream:
        for line in stream.iter_lines():
            if line.startswith("data:"):
                yield line.removeprefix("data:")


def test_who_leaves_at_any_moment_harms_nobody(client):
    whole = post({"user_id": "u0", "n": 9})
    for cut in (*range(0, len(whole), 9), len(whole)):
        with connected(client) as connection:
            connection.sendall(whole[:cut])
    with connected(client) as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")
        connection.sendall(whole)
    assert parsed(sent_alone(client, whole))[0] == 200
