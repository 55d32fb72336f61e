from __future__ import annotations

import json

import pytest

from ouzel.events import clock
from ouzel.events.types import Impression


def event(n=0, **more):
    return {"event_id": f"e{n}", "event": "click", "user_id": "ada", "item_id": "i20", **more}


def test_the_three_forms_of_a_body(client, engine):
    before = engine.log.last_offset()
    one = client.post("/v1/events", json=event(1))
    assert one.json() == {
        "accepted": 1,
        "duplicates": 0,
        "conflicts": 0,
        "rejected": [],
        "durability": "disk",
        "offset": before + 1,
    }
    many = client.post("/v1/events", json=[event(2), event(3)])
    assert many.json()["accepted"] == 2
    lines = "\n".join(json.dumps(event(n)) for n in (4, 5, 6)) + "\n"
    for content_type in ("application/x-ndjson", "application/json"):
        sent = client.post("/v1/events", content=lines, headers={"content-type": content_type})
        assert sent.status_code == 200, sent.text
    assert sent.json()["duplicates"] == 3
    user = engine.log.user_row(user_id="ada")
    assert engine.log.history(user).rows.tolist()[3:] == [20] * 6


def test_a_retry_changes_nothing(client, engine):
    first = client.post("/v1/events", json=event(1)).json()
    again = client.post("/v1/events", json=event(1)).json()
    assert (again["accepted"], again["duplicates"]) == (0, 1)
    assert again["offset"] == first["offset"]
    user = engine.log.user_row(user_id="ada")
    assert engine.log.history(user).rows.tolist().count(20) == 1


def test_the_same_id_with_another_payload_is_a_conflict_and_not_applied(client, engine):
    client.post("/v1/events", json=event(1))
    reply = client.post("/v1/events", json=event(1, item_id="i33")).json()
    assert (reply["accepted"], reply["conflicts"]) == (0, 1)
    assert client.get("/v1/recommend?user_id=ada&n=1").json()["items"][0]["item_id"] == "i21"


def test_part_of_a_batch_may_be_refused(client):
    reply = client.post("/v1/events", json=[event(1), event(2, item_id="x" * 257), event(3)])
    assert reply.status_code == 200
    assert reply.json()["accepted"] == 2
    (rejected,) = reply.json()["rejected"]
    assert rejected["index"] == 1
    assert "item_id" in rejected["detail"]


def test_a_batch_without_one_good_event_is_refused_as_a_whole(client):
    reply = client.post("/v1/events", json=[event(1, user_id=None), event(2, value="much")])
    assert reply.status_code == 422
    assert [error["loc"] for error in reply.json()["errors"]] == ["[0].user_id", "[1].value"]


def test_unknown_items_are_stored_and_change_nothing(client, engine):
    reply = client.post("/v1/events", json=event(1, item_id="brand-new"))
    assert reply.json()["accepted"] == 1
    assert client.get("/v1/recommend?user_id=ada&n=1").json()["items"][0]["item_id"] == "i13"


def test_what_is_no_sign_of_liking_enters_no_history(client):
    for number, verb in enumerate(("hide", "dislike", "search", "remove_from_cart", "skip")):
        assert client.post("/v1/events", json=event(number, event=verb)).status_code == 200
    assert client.get("/v1/recommend?user_id=ada&n=1").json()["items"][0]["item_id"] == "i13"
    assert client.post("/v1/events", json=event(9, event="wishlisted")).status_code == 200
    assert client.get("/v1/recommend?user_id=ada&n=1").json()["items"][0]["item_id"] == "i21"


def test_a_late_event_takes_its_place_in_time(client):
    client.get("/v1/recommend?user_id=ada")
    reply = client.post("/v1/events", json=event(1, timestamp="1970-01-01T00:00:05Z"))
    assert reply.json()["accepted"] == 1
    assert client.get("/v1/recommend?user_id=ada&n=1").json()["items"][0]["item_id"] == "i13"


def test_impressions_of_the_client_are_kept(client, engine):
    shown = {
        "event_id": "s1",
        "event": "impression",
        "session_id": "s",
        "request_id": "r1",
        "items": ["i1", "i2"],
    }
    assert client.post("/v1/events", json=shown).json()["accepted"] == 1
    (found,) = engine.log.impressions("r1")
    assert isinstance(found, Impression)
    assert found.item_ids == ("i1", "i2")


def test_times_in_every_form(client, engine, monkeypatch):
    monkeypatch.setattr(clock, "now_ms", lambda: 1_700_000_000_000)
    forms = [1_600_000_000, 1_600_000_000_000, 1_600_000_000.0, "2020-09-13T12:26:40Z", None]
    for number, form in enumerate(forms):
        sent = event(number, timestamp=form) if form is not None else event(number)
        assert client.post("/v1/events", json=sent).status_code == 200
    user = engine.log.user_row(user_id="ada")
    times = engine.log.history(user).times_ms.tolist()[3:]
    assert times == [1_600_000_000_000] * 4 + [1_700_000_000_000]


@pytest.mark.parametrize("ahead", [299, 301])
def test_the_future_ends_in_five_minutes(client, monkeypatch, ahead):
    monkeypatch.setattr(clock, "now_ms", lambda: 1_700_000_000_000)
    reply = client.post("/v1/events", json=event(1, timestamp=1_700_000_000 + ahead))
    assert reply.status_code == (200 if ahead < 300 else 422)
    if ahead > 300:
        assert reply.json()["errors"][0]["loc"] == "[0].timestamp"


def test_a_full_disk_stops_acknowledgements_not_answers(client, engine, monkeypatch):
    def full(events):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as planted:
        planted.setattr(engine.log, "append", full)
        reply = client.post("/v1/events", json=event(1))
        assert reply.status_code == 503
        assert reply.headers["retry-after"] == "1"
        assert "No space left" in reply.json()["detail"]
        ready = client.get("/health/ready")
        assert ready.status_code == 503
        assert (ready.json()["reads"], ready.json()["writes"]) == (True, False)
        assert client.get("/health/live").status_code == 200
        # The event had no effect, and answers go on.
        assert client.get("/v1/recommend?user_id=ada&n=1").json()["items"][0]["item_id"] == "i13"
    assert client.post("/v1/events", json=event(1)).json()["accepted"] == 1
    assert client.get("/health/ready").json()["status"] == "ready"
