"""The direct way gives what the way of all routes gives, and keeps each of its promises."""

from __future__ import annotations

import json
import re

import msgspec
import pytest

from ouzel.ranking import assembly
from ouzel.ranking import direct as ranking_direct
from ouzel.retrieval.scan import ScanIndex
from ouzel.serving.app import build_app
from ouzel.serving.child import core_numbers
from ouzel.serving.home import open_home
from ouzel.serving.security import Access
from ouzel.serving.wire import ModelName
from tests.serving.direct_home import (
    NOW_MS,
    USERS,
    direct,
    items,
    noted_ways,
    opened,
    shown,
    to_the_letter,
    usual,
)
from tests.serving.real_home import write_home
from tests.serving.running import running
from tests.serving.test_short import parsed, post, sent_alone


@pytest.fixture
def engine(request, tmp_path, monkeypatch):
    """Return the engine of a home whose lists are blended with other sources, if asked."""
    return opened(tmp_path, monkeypatch, blended=getattr(request, "param", False))


@pytest.fixture
def ways(monkeypatch):
    return noted_ways(monkeypatch)


BOTH = pytest.mark.parametrize("engine", [False, True], ids=["alone", "blended"], indirect=True)


@BOTH
@pytest.mark.parametrize("n", [None, 1, 3, 10, 20])
def test_the_answer_is_that_of_the_usual_way(client, ways, n):
    for user in USERS:
        body = {"user_id": user} | ({} if n is None else {"n": n})
        answer = sent_alone(client, post(body))
        assert ways.pop() == "direct" and not ways
        other = sent_alone(client, post(body, "Connection: close"))
        assert to_the_letter(answer) == to_the_letter(other)
        (status, headers, told), theirs = parsed(answer), parsed(other)
        assert status == 200 and len(told["items"]) == (n or 10)
        for name in ("content-type", "x-content-type-options", "cache-control", "server"):
            assert headers.get(name) == theirs[1].get(name), name
        assert [name for name in headers if name != "date"] == [
            name for name in theirs[1] if name not in ("date", "connection")
        ]
        got = client.get("/v1/recommend", params=body).json()
        assert (got["items"], got["model"]) == (told["items"], told["model"])
        assert got["degraded"] is told["degraded"] is None
    assert not ways  # by GET, or with a connection to be closed, nothing comes here


def test_ids_and_times_are_those_of_the_request(client):
    told = [direct(client, {"user_id": "u1"})[2] for _ in range(20)]
    ids = [each["request_id"] for each in told]
    assert len(set(ids)) == 20
    assert all(one[:12] == f"{NOW_MS:012x}" and len(one) == 32 for one in ids)
    assert all(0 < each["took_ms"] < 20_000 for each in told)


def test_the_header_tells_where_the_time_went(client):
    _, headers, told = direct(client, {"user_id": "u1"})
    spent = dict(re.findall(r"([\w-]+);dur=([\d.]+)", headers["server-timing"]))
    assert list(spent) == [
        *("T", "P", "A", "T-decode", "T-wait", "P-state", "A-search", "T-turn", "A-encode")
    ]
    total = sum(float(spent[part]) for part in "TPA")
    assert told["took_ms"] <= total + 0.01
    assert all(float(each) >= 0 for each in spent.values())


NOT_DIRECT = [
    {},
    {"n": 3},
    {"user_id": "u1", "typo": 1},
    {"user_id": "u1", "n": 0},
    {"user_id": "u1", "n": 501},
    {"user_id": "u1", "n": "3"},
    {"user_id": "u1", "n": None},
    {"user_id": ""},
    {"user_id": "x" * 257},
    {"user_id": 1},
    {"user_id": None, "n": 2},
    {"user_id": "u1", "session_id": "s"},
    {"user_id": "u1", "exclude_seen": False},
    {"user_id": "u1", "items": ["i3"]},
    {"user_id": "u1", "exclude_items": ["i3"]},
    {"user_id": "u1", "fields": ["title"]},
    {"user_id": "u1", "filter": 'title == "Film 3"'},
    {"user_id": "u1", "context": {"page": 1}},
    {"user_id": "u1", "caps": {"title": 1}},
    {"user_id": "u1", "diversity": {"method": "mmr", "weight": 0.5}},
    {"user_id": "u1", "sources": {"popular": 1}},
    b"",
    b"{",
    b"[]",
    b'{"user_id":"u1"}x',
    b'{"user_id":"\xff"}',
    b'{"user_id":"\\ud800"}',
    b'{"user_id":' + b"[" * 5000 + b"]" * 5000 + b"}",
]


@pytest.mark.parametrize("body", NOT_DIRECT, ids=lambda body: str(body)[:40])
def test_all_else_goes_the_usual_way_and_is_answered_as_ever(client, ways, body):
    answer, other = direct(client, body), usual(client, body)
    assert ways == ["usual"]
    assert answer[0] == other[0] and answer[0] in (200, 400, 422)
    passing = ("request_id", "took_ms")
    told = [{k: v for k, v in each[2].items() if k not in passing} for each in (answer, other)]
    assert told[0] == told[1]
    assert answer[1]["content-type"] == other[1]["content-type"]


UNKNOWN = ["nobody", "ü" * 200, "a\nb", "\u0000", "' OR 1 = 1; --"]


@pytest.mark.parametrize("user_id", UNKNOWN)
def test_who_is_not_known_goes_the_usual_way(client, ways, user_id):
    body = {"user_id": user_id, "n": 3}
    answer, other = direct(client, body), usual(client, body)
    assert ways[-1] == "usual" and answer[0] == other[0] and answer[0] in (200, 422)
    if answer[0] == 200:
        assert answer[2]["items"] == other[2]["items"]
        assert {item["source"] for item in answer[2]["items"]} == {"popular"}
    else:
        assert answer[2] == other[2]


def test_more_items_than_there_are_go_the_usual_way(client, ways):
    body = {"user_id": "u1", "n": 60}
    answer = sent_alone(client, post(body))
    assert ways == ["direct", "usual"]
    assert to_the_letter(answer) == to_the_letter(
        sent_alone(client, post(body, "Connection: close"))
    )
    assert 0 < len(parsed(answer)[2]["items"]) < 60


@pytest.mark.parametrize(("encodes", "way"), [(True, "direct"), (False, "usual")])
def test_a_user_without_a_held_state_has_the_same_list(
    client, ways, engine, monkeypatch, encodes, way
):
    monkeypatch.setattr(engine.direct, "_encodes", encodes)
    before = direct(client, {"user_id": "u2"})[2]["items"]
    engine._states.forget(engine.log.user_row(user_id="u2"))
    again = [direct(client, {"user_id": "u2"})[2]["items"] for _ in range(2)]
    assert ways == ["direct", way, "direct"]
    for each in again:
        assert [item["item_id"] for item in each] == [item["item_id"] for item in before]
        scores = [[item["score"] for item in one] for one in (each, before)]
        assert scores[0] == pytest.approx(scores[1], abs=1e-3)


def test_an_event_is_in_the_very_next_answer(client, ways):
    for user in USERS:
        before = direct(client, {"user_id": user, "n": 5})
        for _ in range(4):
            click = {"event": "view", "item_id": items(before)[0], "user_id": user}
            assert client.post("/v1/events", json=click).status_code == 200
            after = direct(client, {"user_id": user, "n": 5})
            assert click["item_id"] not in items(after)
            scores = {item["item_id"]: item["score"] for item in before[2]["items"]}
            kept = [item for item in after[2]["items"] if item["item_id"] in scores]
            assert all(abs(item["score"] - scores[item["item_id"]]) > 1e-4 for item in kept)
            other = usual(client, {"user_id": user, "n": 5})
            assert after[2]["items"] == other[2]["items"]
            before = after
    assert ways.count("direct") == 5 * len(USERS)


def test_what_is_hidden_is_in_no_list_and_comes_back(client, ways):
    before = {user: items(direct(client, {"user_id": user})) for user in USERS}
    gone = before["u3"][0]
    assert client.patch(f"/v1/items/{gone}", json={"available": False}).status_code == 200
    for user in USERS:
        during = items(direct(client, {"user_id": user}))
        assert gone not in during and len(during) == 10
        assert during == items(usual(client, {"user_id": user}))
    assert client.patch(f"/v1/items/{gone}", json={"available": True}).status_code == 200
    assert {user: items(direct(client, {"user_id": user})) for user in USERS} == before
    assert set(ways) == {"direct"}


def test_what_was_shown_is_in_the_log(client, ways, engine):
    answer, other = (
        direct(client, {"user_id": "u4", "n": 7}),
        usual(client, {"user_id": "u4", "n": 7}),
    )
    assert ways == ["direct"]
    ours = shown(engine, answer)
    assert ours == shown(engine, other)
    assert ours["item_ids"] == tuple(items(answer)) and ours["user_id"] == "u4"
    assert ours["model_version"] == answer[2]["model"]["version"]
    assert ours["timestamp_ms"] == NOW_MS


def test_answers_are_counted(client, engine):
    def counted():
        text = client.get("/metrics").text
        requests = re.search(r'ouzel_requests_total{route="recommend",status="200"} (\S+)', text)
        hits = re.search(r'ouzel_states_total{of="hits"} (\S+)', text)
        return float(requests[1]) if requests else 0.0, float(hits[1])

    before = counted()
    for user in USERS:
        direct(client, {"user_id": user})
    after = counted()
    assert [b - a for a, b in zip(before, after, strict=True)] == [len(USERS), len(USERS)]
    text = client.get("/metrics").text
    assert 'ouzel_stage_seconds_count{route="recommend",stage="search"}' in text
    assert 'ouzel_now{of="waiting_requests"} 0.0' in text


KEY = "a long secret"


def test_nobody_is_let_in_who_is_kept_out_elsewhere(engine, ways):
    body = {"user_id": "u1"}
    with running(build_app(engine, Access("127.0.0.1", KEY))) as client:
        right, wrong = f"X-API-Key: {KEY}", f"X-API-Key: {KEY}!"
        for _ in range(3):  # a head that is known is checked like any other
            assert direct(client, body, right)[0] == 200
            assert direct(client, body, wrong)[0] == 401
            assert direct(client, body)[0] == 401
            assert direct(client, body, right, "Origin: http://evil.example")[0] == 403
            foreign = post(body, right).replace(b"127.0.0.1", b"evil.example")
            assert parsed(sent_alone(client, foreign))[0] == 421
        assert ways == ["direct", "usual", "usual", "usual", "usual"] * 3
        assert direct(client, body, f"Authorization: Bearer {KEY}")[0] == 200


ODD = ['a "quoted" id', "50%", "%s%(x)d%%", "back\\slash", "größe", "日本", "🙂", "a/b\u00a0c"]


def test_odd_texts_are_encoded_right(client, ways, engine, monkeypatch):
    monkeypatch.setattr(
        engine.catalog, "ids", lambda rows: [f"{row} {ODD[row % 8]}" for row in rows]
    )
    model = ModelName('100% "größe" %s', "%d+0")
    monkeypatch.setattr(engine, "model", model)
    monkeypatch.setattr(engine.direct, "_model", msgspec.json.encode(model).decode())
    for user in USERS:
        body = {"user_id": user, "n": 12}
        answer = sent_alone(client, post(body))
        assert to_the_letter(answer) == to_the_letter(
            sent_alone(client, post(body, "Connection: close"))
        )
        assert parsed(answer)[2]["model"] == {"name": model.name, "version": model.version}
    assert ways == ["direct"] * len(USERS)


@pytest.mark.parametrize("user_id", ODD)
@pytest.mark.parametrize("escaped", [True, False])
def test_users_with_odd_ids_are_found(client, ways, engine, user_id, escaped):
    for item in ("i3", "i9"):
        click = {"event": "view", "item_id": item, "user_id": user_id}
        assert client.post("/v1/events", json=click).status_code == 200
    body = json.dumps({"user_id": user_id}, ensure_ascii=escaped).encode()
    told = [direct(client, body) for _ in range(2)]
    assert ways[-1] == "direct"
    assert told[0][2]["items"] == told[1][2]["items"]
    assert not {"i3", "i9"} & set(items(told[1]))
    assert shown(engine, told[1])["user_id"] == user_id


def test_with_a_ranker_nothing_is_direct(tmp_path):
    write_home(tmp_path / "home", ranker=True)
    engine = open_home(tmp_path / "home", state_bytes=1 << 20)
    assert engine.direct is None
    with running(build_app(engine, Access("127.0.0.1", None))) as client:
        assert len(items(direct(client, {"user_id": "u1"}))) == 10


@pytest.mark.skipif(
    not ScanIndex.works() or len(core_numbers()) < 2, reason="no scan kernel, or one core only"
)
@pytest.mark.parametrize(("brief", "way"), [(0, "usual"), (1 << 20, "direct")])
def test_a_search_that_takes_long_is_left_to_another_thread(
    tmp_path, ways, monkeypatch, brief, way
):
    monkeypatch.setattr(assembly, "EXACT_ROWS", 0)
    monkeypatch.setattr(ranking_direct, "DIRECT_BYTES", brief)
    write_home(tmp_path / "home")
    engine = open_home(tmp_path / "home", state_bytes=1 << 20)
    with running(build_app(engine, Access("127.0.0.1", None))) as client:
        assert engine._searches[0].index.engine.name != "exact"
        assert len(items(direct(client, {"user_id": "u1"}))) == 10
    assert ways == [way]
