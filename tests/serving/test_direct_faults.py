"""Faults, and company: what goes wrong for one request of a pass costs no other."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from threading import Event

import numpy as np
import pytest

from ouzel.ranking.direct import DirectSearch
from ouzel.serving import direct as direct_module
from tests.serving.direct_home import (
    USERS,
    direct,
    items,
    noted_ways,
    opened,
    shown,
)
from tests.serving.test_short import answers, connected, parsed, post


@pytest.fixture
def engine(tmp_path, monkeypatch):
    return opened(tmp_path, monkeypatch)


@pytest.fixture
def ways(monkeypatch):
    return noted_ways(monkeypatch)


def planted(*_, **__):
    raise RuntimeError("planted")


FAULTS = {
    "inference.states.UserStates.query": "state",
    "inference.states.UserStates.contains": "state",
    "retrieval.live.LiveIndex.search": "search",
    "ranking.direct.DirectSearch.lists": None,
    "ranking.direct.DirectSearch.serves": None,
    "serving.visitors.Visitors.at_hand": None,
    "serving.direct._reply_of": None,
}


@pytest.mark.parametrize("encodes", [True, False])
@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_sends_the_request_the_usual_way(client, ways, engine, monkeypatch, fault, encodes):
    monkeypatch.setattr(engine.direct, "_encodes", encodes)
    body = {"user_id": "u5", "n": 6}
    before = direct(client, body)
    with monkeypatch.context() as patched:
        patched.setattr(f"ouzel.{fault}", planted)
        status, _, told = direct(client, body)
        assert (status, len(told["items"])) == (200, 6)
        if ways[-1] == "usual":
            assert told["degraded"] == FAULTS[fault]
        else:
            assert encodes and told["items"] == before[2]["items"]
        assert encodes or ways[-1] == "usual"
        if told["degraded"] is None:
            assert told["items"] == before[2]["items"]
    ways.clear()
    after = direct(client, body)
    assert after[2]["items"] == before[2]["items"] and ways == ["direct"]


def test_a_history_that_cannot_be_read_costs_the_history(client, engine, monkeypatch):
    monkeypatch.setattr(engine.direct, "_encodes", True)
    engine._states.forget(engine.log.user_row(user_id="u5"))
    with monkeypatch.context() as patched:
        patched.setattr("ouzel.serving.visitors.Visitors.find", planted)
        status, _, told = direct(client, {"user_id": "u5"})
        assert (status, told["degraded"], len(told["items"])) == (200, "history", 10)
    assert direct(client, {"user_id": "u5"})[2]["degraded"] is None


def test_a_state_of_no_numbers_costs_its_user_alone(client, engine):
    user = engine.log.user_row(user_id="u5")
    vector = engine._states.pool.last_SD[engine._states.slot(user)]
    kept = vector.copy()
    vector[:] = np.nan
    for name, degraded in (("u5", "state"), ("u4", None), ("u5", "state")):
        status, _, told = direct(client, {"user_id": name})
        assert (status, told["degraded"], len(told["items"])) == (200, degraded, 10)
    vector[:] = kept
    assert direct(client, {"user_id": "u5"})[2]["degraded"] is None


class Slow:
    """Lets the first pass take until all others have come, which then share passes."""

    def __init__(self, monkeypatch):
        self.sizes, self.begun, self.all_there = [], Event(), Event()
        lists = DirectSearch.lists

        def slow(search, queries):
            self.begun.set()
            self.all_there.wait(20)
            self.sizes.append(len(queries))
            return lists(search, queries)

        monkeypatch.setattr(DirectSearch, "lists", slow)


def at_once(client, monkeypatch, bodies, *, sharing=2):
    """Return the answers to requests on connections of their own, and how many shared a pass."""
    with ExitStack() as stack:
        connections = [stack.enter_context(connected(client)) for _ in bodies]
        for connection in connections:  # so that each is known to the server
            connection.sendall(post({"n": 1}))
            answers(connection, 1)
        slow = Slow(monkeypatch)
        for connection, body in zip(connections, bodies, strict=True):
            connection.sendall(post(body))
            assert slow.begun.wait(20)
        time.sleep(0.05)  # now all of it lies there
        slow.all_there.set()
        told = [parsed(answers(connection, 1)[0]) for connection in connections]
        assert sum(slow.sizes) == len(bodies) and max(slow.sizes) >= sharing
        return told, slow.sizes


BODIES = [{"user_id": user, "n": n} for n in (1, 4, 9, 2, 12) for user in USERS]


def test_all_who_ask_at_once_get_their_own_answers(client, ways, engine, monkeypatch):
    alone = [direct(client, body) for body in BODIES]
    ways.clear()
    told, sizes = at_once(client, monkeypatch, BODIES)
    assert max(sizes) == direct_module.MAX_PASS
    assert ways == ["usual"] * len(BODIES) + ["direct"] * len(BODIES)
    for one, other in zip(told, alone, strict=True):
        assert items(one) == items(other)
        scores = [[item["score"] for item in each[2]["items"]] for each in (one, other)]
        assert scores[0] == pytest.approx(scores[1], rel=1e-5)
    assert len({each[2]["request_id"] for each in told}) == len(BODIES)
    for body, answer in list(zip(BODIES, told, strict=True))[::7]:
        assert shown(engine, answer)["user_id"] == body["user_id"]


def test_one_bad_list_of_a_pass_costs_no_other(client, ways, engine, monkeypatch):
    ids = engine.catalog.ids
    failing = []

    def one_fails(rows):
        if len(rows) == 4 and not failing:
            failing.append(1)
            raise RuntimeError("planted")
        return ids(rows)

    monkeypatch.setattr(engine.catalog, "ids", one_fails)
    told, _ = at_once(client, monkeypatch, BODIES)
    assert [len(items(each)) for each in told] == [body["n"] for body in BODIES]
    assert failing and ways.count("usual") == len(BODIES) + 1


def test_one_short_list_of_a_pass_costs_no_other(client, ways, monkeypatch):
    bodies = [{"user_id": "u0"}, *BODIES[:8], {"user_id": "u1", "n": 60}]
    told, sizes = at_once(client, monkeypatch, bodies)
    assert sizes[-1] > 1
    assert [len(items(each)) for each in told[:-1]] == [10, *(body["n"] for body in BODIES[:8])]
    assert len(items(told[-1])) > 12 and {each[2]["degraded"] for each in told} == {None}


def test_beyond_a_bound_nobody_waits_here(client, ways, monkeypatch):
    monkeypatch.setattr(direct_module, "MAX_WAITING", 0)
    monkeypatch.setattr(direct_module, "MOST_ABSENT", 0)
    for user in ("u1", "nobody"):
        assert direct(client, {"user_id": user})[0] == 200
    assert ways == ["usual", "usual"]


def test_connections_that_ask_on_and_on(client):
    expected = {user: items(direct(client, {"user_id": user})) for user in USERS}

    def ask(user):
        with connected(client) as connection:
            for _ in range(30):
                connection.sendall(post({"user_id": user}))
                if items(parsed(answers(connection, 1)[0])) != expected[user]:
                    return False
            connection.sendall(post({"user_id": user}) * 3)
            return [items(parsed(each)) for each in answers(connection, 3)] == [expected[user]] * 3

    with ThreadPoolExecutor(len(USERS)) as threads:
        assert all(threads.map(ask, USERS))


def test_who_goes_away_harms_nobody(client):
    for _ in range(20):
        with connected(client) as connection:
            connection.sendall(post({"user_id": "u1"}))
    assert direct(client, {"user_id": "u1"})[0] == 200


def test_users_without_held_states_who_come_at_once_get_their_own_lists(
    client, ways, engine, monkeypatch
):
    monkeypatch.setattr(engine.direct, "_encodes", True)
    alone = [direct(client, {"user_id": user}) for user in USERS]
    for user in USERS[1:]:
        engine._states.forget(engine.log.user_row(user_id=user))
    told, sizes = at_once(client, monkeypatch, [{"user_id": user} for user in USERS], sharing=1)
    assert [items(one) for one in told] == [items(one) for one in alone]
    assert sizes == [1] * len(USERS)  # nobody waits for more than one encode


def test_a_state_that_goes_before_its_pass_harms_nobody(client, engine, monkeypatch):
    lists = DirectSearch.lists

    def first_forgotten(self, queries):
        engine._states.forget(queries[0].user)
        return lists(self, queries)

    monkeypatch.setattr(DirectSearch, "lists", first_forgotten)
    status, _, told = direct(client, {"user_id": "u2"})
    assert (status, told["degraded"], len(told["items"])) == (200, None, 10)
