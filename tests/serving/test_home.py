"""The real thing: a home on disk, exported graphs, the state pool, over HTTP."""

from __future__ import annotations

import asyncio
import shutil
import threading

import numpy as np
import pytest

from ouzel.bundle.store import BundleStore
from ouzel.events import clock
from ouzel.events.log import EventLog
from ouzel.events.types import ItemUpdate
from ouzel.serving.app import build_app
from ouzel.serving.home import open_home
from ouzel.serving.security import Access
from ouzel.serving.timing import Timing
from ouzel.serving.wire import RecommendRequest
from tests.serving.real_home import HOUR_MS, write_home
from tests.serving.running import running
from tests.tiny import NUM_ROWS, START_MS, oracle, tiny_graphs, tiny_model

STATE_BYTES = 1 << 20
NOW_MS = START_MS + 40 * HOUR_MS


@pytest.fixture(autouse=True)
def still_clock(monkeypatch):
    """The model sees how long ago things happened, so time must stand still to compare answers."""
    monkeypatch.setattr(clock, "now_ms", lambda: NOW_MS)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    home = tmp_path_factory.mktemp("made") / "home"
    write_home(home)
    return home


@pytest.fixture
def home(made, tmp_path):
    shutil.copytree(made, tmp_path / "home")
    return tmp_path / "home"


@pytest.fixture
def engine(home):
    engine = open_home(home, state_bytes=STATE_BYTES)
    yield engine
    asyncio.run(engine.close())


@pytest.fixture
def client(engine):
    with running(build_app(engine, Access("127.0.0.1", None))) as client:
        yield client


def expected(log, user_id, n=5):
    """Return the list that the float64 model gives, seen items left out."""
    history = log.history(log.user_row(user_id=user_id))
    vector = oracle(tiny_model(), history, NOW_MS)
    scores = tiny_graphs().item(np.arange(NUM_ROWS)).astype(np.float64) @ vector
    scores[[0, *history.rows.tolist()]] = -np.inf
    best = np.argsort(-scores)[:n]
    return [f"i{row}" for row in best], scores[best]


def test_answers_are_those_of_the_model_event_after_event(client, engine):
    for item in (None, "i7", "i21", "i7", "i30"):
        if item:
            event = {"event": "click", "user_id": "u1", "item_id": item}
            assert client.post("/v1/events", json=event).status_code == 200
        reply = client.post("/v1/recommend", json={"user_id": "u1", "n": 5}).json()
        ids, scores = expected(engine.log, "u1")
        assert reply["degraded"] is None
        assert [entry["item_id"] for entry in reply["items"]] == ids
        assert [entry["score"] for entry in reply["items"]] == pytest.approx(scores, abs=1e-3)
    assert engine._states.stats.appends == 4


def app_of(home):
    return build_app(open_home(home, state_bytes=STATE_BYTES), Access("127.0.0.1", None))


def test_states_come_back_after_a_restart(home):
    def ask(client):
        reply = client.get("/v1/recommend?user_id=u2&n=5").json()
        assert reply["items"][0]["source"] == "sequence"
        return [entry["item_id"] for entry in reply["items"]]

    with running(app_of(home)) as client:
        client.post("/v1/events", json={"event": "click", "user_id": "u2", "item_id": "i5"})
        before = ask(client)
    with running(app_of(home)) as client:
        assert ask(client) == before


def test_a_session_of_context_items_uses_the_model(client):
    reply = client.post("/v1/recommend", json={"items": ["i3", "i9"], "n": 4}).json()
    assert {item["source"] for item in reply["items"]} == {"session"}
    assert not {"i3", "i9"} & {item["item_id"] for item in reply["items"]}


def test_the_fallback_of_a_broken_model_is_the_neighbours(client, engine, monkeypatch):
    def broken(*_):
        raise RuntimeError("planted")

    monkeypatch.setattr(engine._states, "query_session", broken)
    reply = client.post("/v1/recommend", json={"items": ["i3", "i9"], "n": 4})
    assert reply.status_code == 200
    assert reply.json()["degraded"] == "state"
    assert {item["source"] for item in reply.json()["items"]} <= {"vmis", "popular"}


def test_the_audit_finds_a_planted_corruption(client, engine, caplog):
    client.get("/v1/recommend?user_id=u3")
    user = engine.log.user_row(user_id="u3")
    states = engine._states
    for other in states.pool.users():
        if other != user:
            states.forget(other)

    def audit():
        return asyncio.run_coroutine_threadsafe(engine.audit_one(), engine.writer._loop).result(60)

    assert audit() < 1e-4
    states.pool.cache[1][states.pool.slot(user)] += 1.0
    assert audit() > 1e-3
    assert states.stats.audit_failures == 1
    assert 'ouzel_states_total{of="audit_failures"} 1.0' in client.get("/metrics").text


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_a_running_server_finds_a_planted_corruption_by_itself(
    tmp_path, monkeypatch, caplog, precision
):
    write_home(tmp_path / "home", precision=precision)
    monkeypatch.setattr("ouzel.serving.engine.AUDIT_SECONDS", 0.01)
    engine = open_home(tmp_path / "home", state_bytes=STATE_BYTES)
    with running(build_app(engine, Access("127.0.0.1", None))) as client:

        def told(name):
            lines = client.get("/metrics").text.splitlines()
            return float(next(line for line in lines if line.startswith(name)).split()[-1])

        before = client.get("/v1/recommend?user_id=u3").json()["items"]
        assert told("ouzel_state_audit_max_error") < 1e-3
        states, user = engine._states, engine.log.user_row(user_id="u3")
        values = states.pool.cache[-1 if precision == "fp32" else -2]
        values[states.pool.slot(user)] += 5
        while not told('ouzel_states_total{of="audit_failures"}'):
            pass
        assert told("ouzel_state_audit_max_error") > states._tolerance
        assert "off by" in caplog.text
        assert client.get("/v1/recommend?user_id=u3").json()["items"] == before


def test_answers_do_not_wait_for_an_audit(engine, monkeypatch):
    graphs, request = engine._states._graphs, RecommendRequest(user_id="u3")
    encode, let = graphs.encode, threading.Event()

    async def scenario():
        engine.answers.rank([request], [Timing()])
        monkeypatch.setattr(graphs, "encode", lambda *padded: let.wait(60) and encode(*padded))
        audit = asyncio.create_task(engine.audit_one())
        await asyncio.sleep(0)
        answer = await engine.answers.answer(request, Timing())
        assert answer.degraded is None
        assert not audit.done()
        let.set()
        assert await audit < 1e-4

    asyncio.run(scenario())
    assert engine._states.stats.audits == 1
    engine.log.close()


def test_an_event_that_takes_no_effect_here_is_read_from_the_log(
    client, engine, monkeypatch, caplog
):
    client.get("/v1/recommend?user_id=u1")

    def broken(*_):
        raise RuntimeError("planted")

    with monkeypatch.context() as planted:
        planted.setattr(engine._states, "observe", broken)
        event = {"event": "click", "user_id": "u1", "item_id": "i7"}
        assert client.post("/v1/events", json=event).json()["accepted"] == 1
    reply = client.post("/v1/recommend", json={"user_id": "u1", "n": 5}).json()
    assert [item["item_id"] for item in reply["items"]] == expected(engine.log, "u1")[0]
    assert client.get("/health/ready").status_code == 200


def test_nothing_is_audited_while_events_are_on_their_way(engine):
    engine.writer.submitted += 1
    assert asyncio.run(engine.audit_one()) is None
    engine.log.close()


def test_items_that_came_after_the_model_are_stored_and_left_alone(home):
    with EventLog.open(home / "events.db") as log:
        log.append([ItemUpdate(event_id="n", timestamp_ms=1, item_id="new", columns={})])
    with running(app_of(home)) as client:
        before = client.get("/v1/recommend?user_id=u4&n=3").json()["items"]
        event = {"event": "click", "user_id": "u4", "item_id": "new"}
        assert client.post("/v1/events", json=event).json()["accepted"] == 1
        after = client.get("/v1/recommend?user_id=u4&n=3").json()["items"]
        assert [item["item_id"] for item in after] == [item["item_id"] for item in before]
        only = client.get("/v1/recommend?items=new&n=2").json()["items"]
        assert {item["source"] for item in only} == {"popular"}


def test_a_home_that_cannot_be_served_says_why(home, tmp_path):
    with pytest.raises(ValueError, match="no model yet"):
        open_home(tmp_path / "empty", state_bytes=STATE_BYTES)
    (home / "events.db").unlink()
    with pytest.raises(ValueError, match="is missing, and the model of this home belongs to it"):
        open_home(home, state_bytes=STATE_BYTES)
    assert not (home / "events.db").exists()
    EventLog.open(home / "events.db").close()  # an empty one
    with pytest.raises(ValueError, match="another catalogue"):
        open_home(home, state_bytes=STATE_BYTES)
    graph = BundleStore(home).current() / "query.onnx"
    graph.write_bytes(b"x" + graph.read_bytes()[1:])
    with pytest.raises(ValueError, match=r"query\.onnx is damaged"):
        open_home(home, state_bytes=STATE_BYTES)
