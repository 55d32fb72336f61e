"""What a request may ask of its list beyond the order of scores, over HTTP."""

from __future__ import annotations

import pytest


def ids(reply):
    assert reply.status_code == 200, reply.text
    return [item["item_id"] for item in reply.json()["items"]]


def ask(client, **fields):
    return client.post("/v1/recommend", json={"user_id": "ada", **fields})


def rank(client, **fields):
    return client.post("/v1/rank", json={"user_id": "ada", **fields})


def click(client, *items, **who):
    for item_id in items:
        event = {"event": "click", "item_id": item_id, **who}
        assert client.post("/v1/events", json=event).status_code == 200


def change(client, item_id, **fields):
    assert client.patch(f"/v1/items/{item_id}", json=fields).status_code == 200


def test_sources_are_united_and_named(client):
    reply = ask(client, n=6, breadth=6, sources={"sequence": 1, "popular": 1, "trending": 0})
    items = reply.json()["items"]
    assert {"i7", "i13", "i14"} <= set(ids(reply))
    assert {tuple(item["sources"]) for item in items} == {("sequence",), ("popular",)}
    assert all(item["source"] == item["sources"][0] for item in items)
    assert reply.json()["degraded"] is None


def test_breadth_alone_leaves_the_list_as_it_is(client):
    assert ids(ask(client, n=3, breadth=30)) == ids(ask(client, n=3)) == ["i13", "i14", "i15"]


def test_who_asks_for_nothing_goes_the_standard_way(client, engine, monkeypatch):
    begun = []
    for name in ("standard", "union", "rank"):
        pipeline = getattr(engine.answers.paths, name)
        begin = pipeline.begin
        monkeypatch.setattr(
            pipeline,
            "begin",
            lambda asked, name=name, begin=begin: begun.append(name) or begin(asked),
        )
    ids(ask(client, n=3))
    ids(ask(client, n=3, sources={}, boosts=[]))
    ids(ask(client, n=3, breadth=5))
    ids(rank(client, items=["i1"]))
    ids(client.get("/v1/similar?item_id=i1"))
    assert begun == ["standard", "standard", "union", "rank", "standard"]


def test_trending_follows_events_at_once(client, monkeypatch):
    monkeypatch.setattr("ouzel.retrieval.trending.RANK_ANEW_MS", 0)
    click(client, *["i35"] * 5, user_id="bo")
    reply = ask(client, n=3, sources={"trending": 1})
    assert ids(reply)[0] == "i35"
    assert reply.json()["items"][0]["source"] == "trending"
    assert ids(client.get("/v1/popular?kind=trending&n=1")) == ["i35"]


def test_trending_begins_with_what_is_in_the_log(client):
    assert set(ids(client.get("/v1/popular?kind=trending"))) == {
        "i10", "i11", "i12", "i30", "i31",
    }  # fmt: skip


def test_own_candidates_come_back_in_order(client):
    reply = rank(client, items=["i1", "i30", "nobody", "i14", "i30", "i12"])
    assert ids(reply) == ["i14", "i12", "i1", "i30"]
    assert reply.json()["unknown"] == ["nobody"]
    assert [item["rank"] for item in reply.json()["items"]] == [1, 2, 3, 4]
    assert {item["source"] for item in reply.json()["items"]} == {"sequence"}
    assert ids(rank(client, items=["i1", "i30", "i14"], n=1)) == ["i14"]


def test_own_candidates_of_nobody_are_ordered_by_popularity(client):
    reply = client.post("/v1/rank", json={"items": ["i30", "i20", "i7"]})
    assert ids(reply) == ["i7", "i20", "i30"]
    assert {item["source"] for item in reply.json()["items"]} == {"popular"}


def test_own_candidates_keep_seen_items_unless_told(client):
    assert set(ids(rank(client, items=["i11", "i14"]))) == {"i11", "i14"}
    assert ids(rank(client, items=["i11", "i14"], exclude_seen=True)) == ["i14"]


def test_own_candidates_that_are_hidden_are_not_answered(client):
    change(client, "i14", available=False)
    change(client, "i15", fields={"genres": "Comedy"})
    assert ids(rank(client, items=["i14", "i15", "i16"])) == ["i15", "i16"]
    found = rank(client, items=["i14", "i15", "i16"], filter='"Comedy" in genres')
    assert ids(found) == ["i15"]
    assert found.json()["unknown"] == []


def test_items_newer_than_the_model_come_last_and_obey_like_all(client):
    put = [
        {"item_id": "fresh", "fields": {"genres": "Comedy"}},
        {"item_id": "gone", "fields": {"genres": "Comedy"}, "available": False},
    ]
    assert client.put("/v1/items", json=put).status_code == 200
    items = ["gone", "fresh", "i30"]
    reply = rank(client, items=items)
    assert ids(reply) == ["i30", "fresh"]
    assert reply.json()["items"][1]["source"] == "unscored"
    assert ids(rank(client, items=items, filter='"Comedy" in genres')) == ["fresh"]
    assert ids(rank(client, items=items, filter='"Drama" in genres')) == ["i30"]
    assert reply.json()["unknown"] == []


def test_a_ranked_list_is_an_impression(client, engine):
    body = rank(client, items=["i1", "i14"], context={"page": "search"}).json()
    click(client, "i1", user_id="ada")  # what was shown is written before it
    (shown,) = engine.log.impressions(body["request_id"])
    assert list(shown.item_ids) == ["i14", "i1"] and shown.context == {"page": "search"}


def test_boosts_by_filter_and_by_item(client):
    change(client, "i20", fields={"genres": "Comedy"})
    boosts = [{"filter": '"Comedy" in genres', "factor": 1000}]
    assert ids(ask(client, n=1, boosts=boosts)) == ["i20"]
    assert ids(ask(client, n=1, boosts=[{"items": ["i13", "?"], "factor": 0.01}])) == ["i14"]
    assert ids(rank(client, items=["i13", "i20"], boosts=boosts)) == ["i20", "i13"]


@pytest.mark.parametrize(
    ("path", "fields", "named"),
    [
        ("recommend", {"sources": {"vmis": 0}}, "weight 0"),
        ("recommend", {"sources": {"neighbours": 1}}, "sources"),
        ("recommend", {"sources": {"vmis": -1}}, "sources"),
        ("recommend", {"breadth": -1}, "breadth"),
        ("recommend", {"breadth": 1001}, "breadth"),
        ("recommend", {"boosts": [{"factor": 0, "items": ["i1"]}]}, "factor"),
        ("recommend", {"boosts": [{"factor": 2}]}, "give one of them"),
        ("recommend", {"boosts": [{"factor": 2, "filter": "x =", "items": ["i1"]}]}, "give one"),
        ("recommend", {"boosts": [{"factor": 2, "filter": "price <"}]}, "cannot be read"),
        ("recommend", {"boosts": [{"factor": 2, "filter": "nothing < 1"}]}, "no item has a field"),
        ("rank", {}, "items"),
        ("rank", {"items": []}, "items"),
        ("rank", {"items": ["x"] * 1001}, "items"),
        ("rank", {"items": ["a\u0000"]}, "items[0]"),
        ("rank", {"items": ["i1"], "n": 0}, "n"),
        ("rank", {"items": ["i1"], "sources": {"vmis": 1}}, "sources"),
        ("rank", {"items": ["i1"], "exclude_items": ["i1"]}, "exclude_items"),
    ],
)
def test_what_cannot_be_is_refused_by_name(client, path, fields, named):
    reply = client.post(f"/v1/{path}", json=fields)
    assert reply.status_code == 422
    assert named in reply.text


def test_caps_by_field(client):
    for row in range(13, 33, 2):
        change(client, f"i{row}", fields={"genres": "Comedy|War"})
    found = client.post(
        "/v1/recommend",
        json={"user_id": "ada", "n": 8, "caps": {"genres": 2}, "fields": ["genres"]},
    )
    genres = [item["fields"]["genres"] for item in found.json()["items"]]
    assert sorted(genres) == ["Comedy|War"] * 2 + ["Drama"] * 2


def test_pins_have_their_places_unless_they_may_not_be_shown(client):
    change(client, "i25", available=False)
    pins = [{"item_id": f"i{row}", "position": place} for row, place in ((20, 2), (25, 1), (11, 3))]
    reply = ask(client, n=4, pins=[*pins, {"item_id": "nobody", "position": 1}])
    assert ids(reply) == ["i13", "i20", "i14", "i15"]  # i25 is hidden, i11 was seen
    assert ids(rank(client, items=["i13", "i20", "i14"], pins=pins)) == ["i13", "i20", "i14"]
    beyond = [{"item_id": "i13", "position": 3}, {"item_id": "i20", "position": 4}]
    assert ids(ask(client, n=2, pins=beyond)) == ["i13", "i14"]


def test_items_newer_than_the_model_are_pinned_if_they_may_be_shown(client):
    put = [{"item_id": "fresh", "fields": {}}, {"item_id": "gone", "available": False}]
    assert client.put("/v1/items", json=put).status_code == 200
    pins = [{"item_id": "gone", "position": 1}, {"item_id": "fresh", "position": 2}]
    assert ids(ask(client, n=2, pins=pins)) == ["i13", "fresh"]
    assert ids(ask(client, n=2, pins=pins, filter='"Drama" in genres')) == ["i13", "i14"]


@pytest.mark.parametrize("method", ["mmr", "dpp"])
def test_variety_is_asked_for_by_weight(client, method):
    plain = ids(ask(client, n=5))
    assert ids(ask(client, n=5, diversity={"method": method, "weight": 0})) == plain
    assert len(ids(ask(client, n=5, diversity={"method": method, "weight": 0.5}))) == 5


def test_a_calibrated_list_takes_the_shares_of_the_history(client):
    for row in (11, 12, 30, 31, 32):
        change(client, f"i{row}", fields={"genres": "War"})
    calibrated = {"method": "calibrated", "weight": 1, "field": "genres"}
    found = set(ids(ask(client, n=3, diversity=calibrated)))
    assert len(found & {"i30", "i31", "i32"}) == 2


def test_what_chance_did_is_in_the_reply_and_in_the_log(client, engine):
    asked = {
        "n": 4,
        "explore": {"temperature": 5, "seed": 11},
        "pins": [{"item_id": "i9", "position": 1}],
    }
    first, second = ask(client, **asked), ask(client, **asked)
    assert ids(first) == ids(second) != ids(ask(client, n=4))
    propensities = [item["propensity"] for item in first.json()["items"]]
    assert propensities[0] == 1 and all(0 < one < 1 for one in propensities[1:])
    click(client, "i1", user_id="bo")  # what was shown is written before it
    (shown,) = engine.log.impressions(first.json()["request_id"])
    assert list(shown.propensities) == propensities
    unseeded = {tuple(ids(ask(client, n=4, explore={"temperature": 5}))) for _ in range(6)}
    assert len(unseeded) > 1


def test_without_chance_there_are_no_propensities(client, engine):
    reply = ask(client, n=2, caps={"genres": 9})
    assert "propensity" not in reply.json()["items"][0]
    click(client, "i1", user_id="bo")
    (shown,) = engine.log.impressions(reply.json()["request_id"])
    assert shown.propensities is None


@pytest.mark.parametrize("path", ["recommend", "rank"])
@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"diversity": {"method": "mmr", "weight": 1.1}}, "weight"),
        ({"diversity": {"method": "random", "weight": 1}}, "method"),
        ({"diversity": {"method": "calibrated", "weight": 1}}, "field"),
        ({"diversity": {"method": "dpp", "weight": 1, "field": "genres"}}, "field"),
        ({"diversity": {"method": "calibrated", "weight": 1, "field": "shop"}}, "'shop'"),
        ({"caps": {"genres": 0}}, "caps"),
        ({"caps": {"shop": 1}}, "no item has a field 'shop': items have genres, title"),
        ({"pins": [{"item_id": "i1", "position": 0}]}, "position"),
        ({"explore": {"temperature": 0}}, "temperature"),
        ({"explore": {"temperature": 1, "seed": -1}}, "seed"),
    ],
)
def test_an_arrangement_that_cannot_be_is_refused_by_name(client, path, fields, named):
    reply = client.post(f"/v1/{path}", json={"items": ["i1"], **fields})
    assert reply.status_code == 422
    assert named in reply.text
