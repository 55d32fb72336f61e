from __future__ import annotations

import re

import pytest

from ouzel.events import clock
from tests.serving.doubles import HOSTILE


def ids(reply):
    return [item["item_id"] for item in reply.json()["items"]]


def click(client, item_id, **who):
    event = {"event": "click", "item_id": item_id, **who}
    reply = client.post("/v1/events", json=event)
    assert reply.status_code == 200, reply.text
    return reply.json()


def test_a_known_user_gets_the_sequence_model_without_seen_items(client):
    reply = client.post("/v1/recommend", json={"user_id": "ada", "n": 3})
    assert reply.status_code == 200
    body = reply.json()
    assert ids(reply) == ["i13", "i14", "i15"]
    assert [item["rank"] for item in body["items"]] == [1, 2, 3]
    assert {item["source"] for item in body["items"]} == {"sequence"}
    assert body["model"] == {"name": "NextItem", "version": "0123456789abcdef+0"}
    assert body["degraded"] is None
    assert body["took_ms"] > 0
    assert "fields" not in body["items"][0]


def test_get_answers_like_post(client):
    post = client.post("/v1/recommend", json={"user_id": "bo", "n": 4, "fields": ["title"]})
    get = client.get("/v1/recommend?user_id=bo&n=4&fields=title")
    assert post.json()["items"] == get.json()["items"]
    assert get.json()["items"][0]["fields"] == {"title": "Film number 32"}


def test_a_click_changes_the_very_next_list(client):
    assert ids(client.get("/v1/recommend?user_id=ada&n=1")) == ["i13"]
    for row in (20, 33, 5):
        click(client, f"i{row}", user_id="ada")
        assert ids(client.get("/v1/recommend?user_id=ada&n=1")) == [f"i{row + 1}"]


def test_a_new_visitor_is_known_after_the_first_click(client):
    first = client.get("/v1/recommend?session_id=s1&n=2")
    assert first.json()["items"][0] | {"score": 0} == {
        "item_id": "i7", "score": 0, "rank": 1, "source": "popular",
    }  # fmt: skip
    click(client, "i21", session_id="s1")
    second = client.get("/v1/recommend?session_id=s1&n=2")
    assert ids(second) == ["i22", "i23"]
    assert second.json()["items"][0]["source"] == "sequence"


def test_session_items_are_context_that_is_stored_nowhere(client, engine):
    reply = client.post("/v1/recommend", json={"user_id": "ada", "items": ["i25", "i26"], "n": 2})
    assert ids(reply) == ["i27", "i28"]
    assert reply.json()["items"][0]["source"] == "session"
    assert ids(client.get("/v1/recommend?user_id=ada&n=1")) == ["i13"]
    anonymous = client.get("/v1/recommend?items=i1&items=i2&n=1")
    assert ids(anonymous) == ["i3"]


def test_unknown_users_and_items_get_the_popular_list(client):
    for ask in ({"user_id": "nobody"}, {}, {"items": ["no-such-item"]}):
        reply = client.post("/v1/recommend", json={**ask, "n": 2})
        assert ids(reply) == ["i7", "i1"]
        assert {item["source"] for item in reply.json()["items"]} == {"popular"}
        assert reply.json()["degraded"] is None


def test_seen_and_excluded_items(client):
    def ask(**more):
        return ids(client.post("/v1/recommend", json={"user_id": "ada", "n": 40, **more}))

    assert not {"i10", "i11", "i12"} & set(ask())
    assert {"i10", "i11", "i12"} <= set(ask(exclude_seen=False))
    assert "i13" not in ask(exclude_items=["i13", "unknown"])


def test_more_than_the_catalogue_holds_is_no_error(client):
    assert len(ids(client.get("/v1/recommend?user_id=ada&n=500"))) == 37


def test_a_failing_model_falls_back_and_says_so(client, engine):
    engine._states.broken = RuntimeError("planted")
    reply = client.post("/v1/recommend", json={"user_id": "ada", "n": 2})
    assert reply.status_code == 200
    assert reply.json()["degraded"] == "state"
    assert len(ids(reply)) == 2
    assert {item["source"] for item in reply.json()["items"]} <= {"vmis", "popular"}
    engine._states.broken = None
    assert client.get("/v1/recommend?user_id=ada").json()["degraded"] is None
    assert 'ouzel_degraded_total{stage="state"} 1.0' in client.get("/metrics").text


def test_a_log_that_cannot_be_read_costs_the_history_not_the_answer(client, engine, monkeypatch):
    def broken(**_):
        raise OSError("planted")

    monkeypatch.setattr(engine.log, "user_row", broken)
    reply = client.get("/v1/recommend?user_id=someone-new&n=2")
    assert reply.status_code == 200
    assert reply.json()["degraded"] == "history"
    assert ids(reply) == ["i7", "i1"]


def test_titles_are_data_not_markup(client):
    reply = client.get("/v1/recommend?items=i2&n=1&fields=title&fields=genres")
    assert reply.json()["items"][0]["fields"] == {"title": HOSTILE, "genres": "Drama"}


def test_what_was_shown_is_in_the_log_as_shown(client, engine):
    reply = client.post(
        "/v1/recommend", json={"user_id": "ada", "n": 3, "context": {"page": "home"}}
    ).json()
    click(client, reply["items"][0]["item_id"], user_id="ada", request_id=reply["request_id"])
    (shown,) = engine.log.impressions(reply["request_id"])
    assert list(shown.item_ids) == [item["item_id"] for item in reply["items"]]
    assert shown.model_version == reply["model"]["version"]
    assert shown.user_id == "ada"
    assert shown.context == {"page": "home"}


def test_timing_names_the_parts_and_their_stages(client):
    header = client.get("/v1/recommend?user_id=ada").headers["server-timing"]
    spent = {name: float(ms) for name, ms in re.findall(r"([\w-]+);dur=([\d.]+)", header)}
    assert {"T", "P", "A", "T-decode", "P-state", "A-search", "A-filter", "A-encode"} <= set(spent)
    for part in "TPA":
        stages = sum(ms for name, ms in spent.items() if name.startswith(f"{part}-"))
        assert spent[part] == pytest.approx(stages, abs=0.01)


@pytest.mark.parametrize("path", ["/health/live", "/nowhere", "/v1/recommend?n=0", "/dashboard"])
def test_every_answer_has_timing(client, path):
    assert re.match(r"T;dur=[\d.]+, P;dur=[\d.]+, A;dur=[\d.]+", client.get(path).headers["server-timing"])  # fmt: skip  # noqa: E501


def test_the_clock_can_be_replaced(client, monkeypatch):
    monkeypatch.setattr(clock, "now_ms", lambda: 1_234_567_890_123)
    request_id = client.get("/v1/recommend").json()["request_id"]
    assert int(request_id[:12], 16) == 1_234_567_890_123


def test_popular_lists(client):
    popular = client.get("/v1/popular?n=2&fields=title")
    assert ids(popular) == ["i7", "i1"]
    assert popular.json()["items"][0]["fields"] == {"title": "Film number 7"}
    assert client.get("/v1/popular?kind=recent&n=1").json()["items"][0]["source"] == "recent"


def test_items_like_an_item_do_not_hold_it(client):
    reply = client.get("/v1/similar?item_id=i20&n=39&fields=title")
    assert len(ids(reply)) == 39 and "i20" not in ids(reply)
    first = reply.json()["items"][0]
    assert first["source"] == "similar" and first["fields"]["title"]
    post = client.post("/v1/similar", json={"item_id": "i20", "n": 39, "fields": ["title"]})
    assert post.json()["items"] == reply.json()["items"]


def test_items_like_an_item_leave_out_what_was_asked(client):
    asked = {"item_id": "i20", "n": 40, "exclude_items": ["i1"]}
    assert not {"i1", "i20"} & set(ids(client.post("/v1/similar", json=asked)))
    seen = {"i10", "i11", "i12"}  # by ada
    asked |= {"user_id": "ada"}
    assert seen < set(ids(client.post("/v1/similar", json=asked)))
    asked |= {"exclude_seen": True}
    assert not seen & set(ids(client.post("/v1/similar", json=asked)))


def test_items_like_an_unknown_item_are_the_popular_ones(client):
    reply = client.get("/v1/similar?item_id=nobody-knows&n=3")
    assert {item["source"] for item in reply.json()["items"]} == {"popular"}


def test_a_list_of_similar_items_is_an_impression(client, engine):
    body = client.get("/v1/similar?item_id=i20&n=2&session_id=s").json()
    click(client, "i1", session_id="s")  # what was shown is written before it
    (shown,) = engine.log.impressions(body["request_id"])
    assert list(shown.item_ids) == [item["item_id"] for item in body["items"]]
    assert shown.session_id == "s"


def test_similar_needs_an_item(client):
    for reply in (client.get("/v1/similar"), client.post("/v1/similar", json={})):
        assert reply.status_code == 422 and "item_id" in reply.json()["detail"]
