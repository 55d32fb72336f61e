"""Items that change while the server runs: durable, in the next list, and hidden means hidden."""

from __future__ import annotations

import random
import threading

import httpx
import pytest

from ouzel.serving.app import build_app
from ouzel.serving.security import Access
from ouzel.serving.titles import TitleSearch
from tests.serving.doubles import make_engine
from tests.serving.running import running


def ids(reply):
    assert reply.status_code == 200, reply.text
    return [item["item_id"] for item in reply.json()["items"]]


def lists(client, n=40):
    """Return one list of every kind that knows item i13."""
    return {
        "user": ids(client.get(f"/v1/recommend?user_id=ada&n={n}")),
        "session": ids(client.post("/v1/recommend", json={"items": ["i12"], "n": n})),
        "nobody": ids(client.get(f"/v1/recommend?n={n}")),
        "similar": ids(client.get(f"/v1/similar?item_id=i14&n={n}")),
        "popular": ids(client.get(f"/v1/popular?n={n}")),
        "recent": ids(client.get(f"/v1/popular?kind=recent&n={n}")),
    }


def test_a_hidden_item_is_in_no_list_until_it_is_available_again(client):
    before = lists(client)
    assert all("i13" in found for found in before.values())
    reply = client.patch("/v1/items/i13", json={"available": False})
    assert reply.json() == {
        "item_id": "i13",
        "fields": {"genres": "Drama", "title": "Film number 13"},
        "available": False,
    }
    hidden = lists(client)
    for name, found in hidden.items():
        assert found == [item for item in before[name] if item != "i13"], name
    assert ids(client.get("/v1/recommend?user_id=ada&n=1")) == ["i14"]  # no list is shorter for it
    client.patch("/v1/items/i13", json={"available": True})
    assert lists(client) == before


def test_delete_hides_and_the_next_start_knows_it(tmp_path):
    for run in range(2):
        with running(build_app(make_engine(tmp_path), Access("127.0.0.1", None))) as client:
            if not run:
                assert client.delete("/v1/items/i13").json()["available"] is False
            assert not any("i13" in found for found in lists(client).values())
            assert client.get("/v1/items/i13").json()["available"] is False


def test_items_like_a_hidden_item_are_still_found(client):
    before = ids(client.get("/v1/similar?item_id=i13"))
    client.delete("/v1/items/i13")
    assert ids(client.get("/v1/similar?item_id=i13")) == before


def test_new_items_and_new_titles_are_found_at_once(client):
    items = [
        {"item_id": "new/one", "fields": {"title": "A Slow River", "price": 12.5}},
        {"item_id": "i5", "fields": {"title": "Rapids"}},
    ]
    reply = client.put("/v1/items", json=items)
    assert reply.json()["accepted"] == 2 and reply.json()["durability"] == "disk"
    assert client.get("/v1/items/new/one").json() == {
        "item_id": "new/one",
        "fields": {"price": "12.5", "title": "A Slow River"},
        "available": True,
    }
    assert client.get("/v1/items/i5").json()["fields"] == {"genres": "Drama", "title": "Rapids"}
    assert ids(client.get("/v1/items?query=slow river")) == ["new/one"]
    assert ids(client.get("/v1/items?query=rapids")) == ["i5"]
    assert "i5" not in ids(client.get("/v1/items?query=film number&limit=100"))


def test_what_was_done_with_an_item_before_it_came_enters_the_history(client, engine):
    event = {"event": "click", "item_id": "late", "user_id": "ada"}
    assert client.post("/v1/events", json=event).json()["accepted"] == 1
    client.get("/v1/recommend?user_id=ada")
    user = engine.log.user_row(user_id="ada")
    before = len(engine._visitors.history(user))
    client.put("/v1/items", json=[{"item_id": "late"}])
    assert len(engine._visitors.history(user)) == before + 1


def test_a_look_at_the_head_changes_nothing(client, engine):
    before = engine.log.last_offset()
    for path in ("/v1/items/i13", "/v1/items", "/v1/recommend", "/v1/popular", "/metrics"):
        assert client.head(path).status_code == 200
    client.put("/v1/items", json=[{"item_id": "i1"}])  # what was shown is written before it
    assert engine.log.last_offset() == before + 1
    assert client.get("/v1/items/i13").json()["available"] is True


def test_what_is_not_allowed_names_what_is(client):
    allowed = client.post("/v1/items").headers["allow"]
    assert {"GET", "PUT"} <= set(allowed.split(", "))


def test_there_are_not_fields_without_end(client):
    items = [{"item_id": "i1", "fields": {f"f{number}": "x" for number in range(300)}}]
    reply = client.put("/v1/items", json=items)
    assert reply.status_code == 422 and "256 names at most" in reply.json()["detail"]


def test_many_new_titles_are_found_and_the_search_is_made_anew(client, engine):
    for start in (0, 700):
        items = [
            {"item_id": f"t{number}", "fields": {"title": f"Tale {number}\nof one"}}
            for number in range(start, start + 700)
        ]
        client.put("/v1/items", json=items)
    client.patch("/v1/items/t3", json={"fields": {"title": "Renamed"}})
    for _ in range(200):
        if engine.titles.changed < 700:
            break
        client.get("/health/live")
    assert engine.titles.changed < 700
    assert ids(client.get("/v1/items?query=tale 1399 of")) == ["t1399"]
    assert ids(client.get("/v1/items?query=renamed")) == ["t3"]
    assert ids(client.get("/v1/items?query=tale 3 of")) == []


def test_a_title_that_changes_while_the_search_is_made_anew_is_found(client, engine, monkeypatch):
    let, begun = threading.Event(), threading.Event()
    make = TitleSearch.__init__

    def slow(self, titles):
        make(self, titles)
        begun.set()
        let.wait(60)  # whatever was read of the titles is old from here on

    monkeypatch.setattr("ouzel.serving.live_titles.MOST_CHANGED", 0)
    monkeypatch.setattr(TitleSearch, "__init__", slow)
    client.patch("/v1/items/i1", json={"fields": {"title": "First"}})
    assert begun.wait(60)
    client.patch("/v1/items/i1", json={"fields": {"title": "Second"}})
    client.patch("/v1/items/i2", json={"fields": {"title": "Third"}})
    before = engine.titles
    let.set()
    while engine.titles is before:
        client.get("/health/live")
    assert ids(client.get("/v1/items?query=second")) == ["i1"]
    assert ids(client.get("/v1/items?query=third")) == ["i2"]
    assert ids(client.get("/v1/items?query=first")) == []


def test_an_item_that_nobody_knows_is_404_and_is_not_made(client):
    for method in ("GET", "PATCH", "DELETE"):
        reply = client.request(method, "/v1/items/nobody", json={})
        assert reply.status_code == 404 and "PUT /v1/items" in reply.json()["detail"]
    assert client.get("/v1/items/nobody").status_code == 404


@pytest.mark.parametrize(
    "items",
    [
        [],
        {"item_id": "i1"},
        [{"fields": {}}],
        [{"item_id": ""}],
        [{"item_id": "x" * 257}],
        [{"item_id": "i1", "title": "beside, not in, fields"}],
        [{"item_id": "i1", "fields": {"price": None}}],
        [{"item_id": "i1", "fields": {"price": True}}],
        [{"item_id": "i1", "fields": {"a b": "x"}}],
        [{"item_id": "i1", "fields": {"available": "no"}}],
        [{"item_id": "i1", "available": "no"}],
        [{"item_id": "fine"}, {"item_id": "line\nbreak"}],
        [{"item_id": f"n{number}"} for number in range(1001)],
    ],
)
def test_what_is_no_item_is_refused_and_nothing_is_stored(client, engine, items):
    before = engine.log.last_offset()
    reply = client.put("/v1/items", json=items)
    assert reply.status_code == 422, reply.text
    assert reply.json()["errors"] and reply.json()["detail"]
    assert engine.log.last_offset() == before
    assert client.get("/v1/items/fine").status_code == 404


def test_a_change_that_cannot_be_written_changes_nothing(client, engine, monkeypatch):
    def full(events):
        raise OSError(28, "No space left on device")

    before = lists(client)
    monkeypatch.setattr(engine.log, "append", full)
    assert client.delete("/v1/items/i13").status_code == 503
    assert lists(client) == before


def test_no_hidden_item_leaks_while_many_ask(client):
    """After the acknowledgement no list shows it, whatever rides in the same passes."""
    ended = threading.Event()
    faults: list[str] = []

    def ask(seed):
        rng = random.Random(seed)
        with httpx.Client(base_url=client.base_url, timeout=20) as mine:
            while not ended.is_set():
                found = ids(mine.get(f"/v1/recommend?user_id={rng.choice(['ada', 'bo'])}&n=30"))
                if len(found) != len(set(found)):
                    faults.append(f"twice in {found}")

    crowd = [threading.Thread(target=ask, args=(seed,)) for seed in range(4)]
    for thread in crowd:
        thread.start()
    rng = random.Random(9)
    try:
        for _ in range(60):
            item = f"i{rng.randint(1, 40)}"
            client.patch(f"/v1/items/{item}", json={"available": False})
            faults += [name for name, found in lists(client, n=30).items() if item in found]
            client.patch(f"/v1/items/{item}", json={"available": True})
    finally:
        ended.set()
        for thread in crowd:
            thread.join()
    assert not faults


def shop(client):
    """Give the first 20 items a price and a category."""
    items = [
        {"item_id": f"i{row}", "fields": {"price": str(row), "kind": "odd" if row % 2 else "even"}}
        for row in range(1, 21)
    ]
    assert client.put("/v1/items", json=items).status_code == 200


def test_a_filter_holds_in_every_list(client):
    shop(client)
    wanted = {f"i{row}" for row in range(2, 15, 2)}
    asked = {"filter": 'kind in ["even"] and price < 15', "n": 40}
    for path, more in (
        ("recommend", {"user_id": "ada"}),
        ("recommend", {"items": ["i3"]}),
        ("recommend", {}),
        ("similar", {"item_id": "i4"}),
        ("popular", {}),
    ):
        found = set(ids(client.get(f"/v1/{path}", params={**asked, **more})))
        left_out = {"i12"} if "user_id" in more else {"i4"} if "item_id" in more else set()
        assert found == wanted - left_out - ({"i10"} if "user_id" in more else set()), path


def test_a_price_that_changes_counts_in_the_next_list(client):
    shop(client)
    asked = {"filter": "price < 3", "n": 40}
    assert set(ids(client.get("/v1/recommend", params=asked))) == {"i1", "i2"}
    client.patch("/v1/items/i20", json={"fields": {"price": "2.5"}})
    client.patch("/v1/items/i1", json={"available": False})
    client.patch("/v1/items/i2", json={"fields": {"price": ""}})
    assert ids(client.get("/v1/recommend", params=asked)) == ["i20"]


def test_requests_with_and_without_filters_ride_together(client):
    shop(client)
    filters = [None, "price < 5", "price > 15", 'kind == "odd"']
    alone = {
        text: ids(client.post("/v1/recommend", json={"user_id": "bo", "n": 9, "filter": text}))
        for text in filters
    }
    faults = []

    def ask(text):
        with httpx.Client(base_url=client.base_url, timeout=20) as mine:
            for _ in range(25):
                body = {"user_id": "bo", "n": 9, "filter": text}
                if ids(mine.post("/v1/recommend", json=body)) != alone[text]:
                    faults.append(text)

    crowd = [threading.Thread(target=ask, args=(text,)) for text in filters * 2]
    for thread in crowd:
        thread.start()
    for thread in crowd:
        thread.join()
    assert not faults and len({tuple(found) for found in alone.values()}) == len(filters)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "price <",
        "prise < 5",
        "__import__('os')",
        "x" * 1001,
        "price > -" + "9" * 900,
        " or ".join(f"price < {number}" for number in range(17)),
    ],
)
def test_a_filter_that_is_none_is_refused(client, text):
    shop(client)
    for path in ("recommend", "similar", "popular"):
        asked = {"filter": text} | ({"item_id": "i1"} if path == "similar" else {})
        reply = client.get(f"/v1/{path}", params=asked)
        assert reply.status_code == 422, reply.text
        assert "filter" in reply.json()["detail"]
