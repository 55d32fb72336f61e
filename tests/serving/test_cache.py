"""Kept answers are bounded, and never tell anything but what would be found anew."""

from __future__ import annotations

import itertools
import json
import threading
import tracemalloc
from contextlib import ExitStack

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ouzel.evaluation.load_spec import LoadSpec, make_plan
from ouzel.serving.app import build_app
from ouzel.serving.cache import ENTRY_BYTES, Cache, is_personal, list_bytes
from ouzel.serving.security import Access
from ouzel.serving.wire import ModelName, RecommendRequest, ShownItem
from tests.serving.doubles import make_engine
from tests.serving.running import running


def counts(client) -> dict[str, float]:
    lines = client.get("/metrics").text.splitlines()
    pairs = [line.split() for line in lines if line.startswith("ouzel_cache_total{")]
    return {name.partition('"')[2].partition('"')[0]: float(count) for name, count in pairs}


def ids(reply):
    return [item["item_id"] for item in reply.json()["items"]]


def test_what_was_asked_longest_ago_gives_way():
    cache = Cache(max_bytes=100 * ENTRY_BYTES)
    for number in range(100):
        cache.put(number, number, 0)
    assert cache.get(0) == 0
    cache.put(100, 100, 0)
    assert cache.get(1) is None and cache.get(0) == 0 and cache.get(100) == 100
    assert cache.bytes == 100 * ENTRY_BYTES and len(cache) == 100
    cache.put(100, 101, 5)  # in place of what was there
    assert cache.get(100) == 101 and cache.bytes <= cache.max_bytes


def test_what_would_fill_the_cache_is_not_kept_and_an_empty_one_keeps_nothing():
    cache = Cache(max_bytes=1 << 20)
    cache.put("large", 1, 1 << 17)
    assert cache.get("large") is None and cache.bytes == 0
    off = Cache(max_bytes=0)
    off.put("small", 1, 1)
    assert off.get("small") is None and len(off) == 0


def test_nothing_is_kept_for_longer_than_was_said():
    now = [0.0]
    cache = Cache(max_bytes=1 << 16, kept_seconds=10, monotonic=lambda: now[0])
    cache.put("a", 1, 1)
    now[0] = 10.0
    assert cache.get("a") == 1
    now[0] = 10.5
    assert cache.get("a") is None
    cache.put("a", 2, 1)
    assert cache.get("a") == 2


def test_the_bytes_of_a_list_are_not_told_too_small():
    def made(number):
        return [
            ShownItem(
                item_id=f"an item {number} {rank}",
                score=0.1 * rank,
                rank=rank,
                source="popular",
                fields={"title": f"A title {number} of an item {rank} é", "genres": "Drama" * rank},
            )
            for rank in range(1, 21)
        ]

    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    lists = [made(number) for number in range(200)]
    taken = tracemalloc.get_traced_memory()[0] - before
    tracemalloc.stop()
    told = sum(list_bytes(b"", items) for items in lists)
    assert taken <= told <= 3 * taken


def test_anybodys_list_is_found_again_and_is_an_impression_of_its_own(client, engine):
    first = client.post("/v1/recommend", json={"n": 3, "fields": ["title"]}).json()
    again = client.get("/v1/recommend?n=3&fields=title")
    assert again.json()["items"] == first["items"]
    assert again.json()["request_id"] != first["request_id"]
    assert "A-cache" in again.headers["server-timing"]
    client.post("/v1/events", json={"event": "click", "user_id": "ada", "item_id": "i1"})
    for reply in (first, again.json()):
        (shown,) = engine.log.impressions(reply["request_id"])
        assert list(shown.item_ids) == [item["item_id"] for item in first["items"]]
    assert counts(client) == {
        "lists_hits": 1, "lists_misses": 1, "items_hits": 0, "items_misses": 0,
    }  # fmt: skip


def test_similar_lists_are_shared_by_those_who_do_not_leave_out_what_they_saw(client, engine):
    asked = {"item_id": "i20", "n": 4}
    first = client.post("/v1/similar", json=asked).json()
    again = client.post("/v1/similar", json={**asked, "user_id": "ada"}).json()
    assert again["items"] == first["items"]
    assert engine.lists.hits == 1
    client.post("/v1/similar", json={**asked, "user_id": "ada", "exclude_seen": True})
    assert (engine.lists.hits, engine.lists.misses) == (1, 1)
    client.post("/v1/events", json={"event": "click", "user_id": "ada", "item_id": "i1"})
    (shown,) = engine.log.impressions(again["request_id"])
    assert shown.user_id == "ada"


def test_lists_that_differ_in_anything_are_kept_apart(client):
    asked = [
        {"n": 3}, {"n": 4}, {"n": 3, "fields": ["title"]}, {"n": 3, "exclude_items": ["i7"]},
        {"n": 3, "filter": 'genres == "Drama"'}, {"n": 3, "context": {"page": "home"}},
    ]  # fmt: skip
    for body in asked * 2:
        assert client.post("/v1/recommend", json=body).status_code == 200
    assert client.get("/v1/popular?n=3").status_code == 200
    assert client.get("/v1/popular?n=3&kind=recent").status_code == 200
    assert counts(client)["lists_misses"] == len(asked) + 2
    assert counts(client)["lists_hits"] == len(asked)


def test_known_users_never_come_near_the_cache(client, engine):
    for _ in range(3):
        client.post("/v1/recommend", json={"user_id": "ada"})
        client.post("/v1/recommend", json={"session_id": "s"})
        client.post("/v1/recommend", json={"items": ["i3"]})
    assert (engine.lists.hits, engine.lists.misses, len(engine.lists)) == (0, 0, 0)


def test_the_requests_of_the_serving_benchmark_are_those_of_known_users():
    spec = LoadSpec(
        host="h", port=1, rate=99, users=["u1", "u2"], items=["i1"], cold_users=["c"], duration_s=3
    )
    bodies = [payload.partition(b"\r\n\r\n")[2] for payload in make_plan(spec).payloads]
    asked = [body for body in map(json.loads, bodies) if "event" not in body]
    assert len(asked) > 100
    assert all(is_personal(RecommendRequest(**body)) for body in asked)


def test_a_degraded_list_is_not_kept(client, engine):
    degrading = engine.answers.pipeline.stages[3]
    run, degrading.run = degrading.run, None  # the popular fill cannot be called
    assert client.get("/v1/recommend?n=2").json()["degraded"] == "popular"
    degrading.run = run
    assert ids(client.get("/v1/recommend?n=2")) == ["i7", "i1"]
    assert engine.lists.hits == 0


def test_another_model_is_never_answered_from_the_lists_of_the_last_one(client, engine):
    client.get("/v1/recommend?n=2")
    engine.model = ModelName("NextItem", "fedcba9876543210+0")
    client.get("/v1/recommend?n=2")
    assert engine.lists.hits == 0


def test_an_item_is_found_again_until_anything_changes(client, engine):
    first = client.get("/v1/items/i5")
    assert client.get("/v1/items/i5").content == first.content
    assert engine.items.hits == 1
    client.patch("/v1/items/i5", json={"fields": {"title": "Another"}})
    assert client.get("/v1/items/i5").json()["fields"]["title"] == "Another"
    assert client.get("/v1/items/none").status_code == 404


def test_a_change_that_cannot_take_effect_lets_nothing_old_be_told(client, engine, monkeypatch):
    client.get("/v1/items/i5")

    def broken(*_):
        raise RuntimeError("planted")

    monkeypatch.setattr(engine, "_apply_item", broken)
    client.patch("/v1/items/i5", json={"fields": {"title": "Another"}})
    assert client.get("/v1/items/i5").json()["fields"]["title"] == "Another"


WHO = [{"user_id": "ada"}, {"session_id": "s"}, {"user_id": "nobody"}]
ITEM = st.integers(1, 20).map("i{}".format)
FILTERS = [{}, {}, {"filter": 'genres == "Drama"'}, {"filter": 'title in ["Film 8", "New"]'}]
CHANGES = [{"available": False}, {"available": True}, {"fields": {"title": "New"}}]


def choice(*parts):
    return st.sampled_from(parts)


def asking(path, *parts):
    merged = st.tuples(*parts).map(lambda found: {k: v for part in found for k, v in part.items()})
    return merged.map(lambda body: ("POST", path, body))


# What matters must meet often: the same list before and after a click, or a change.
MOVES = st.one_of(
    asking("/v1/events", choice(*WHO), ITEM.map(lambda i: {"event": "click", "item_id": i})),
    asking("/v1/recommend", choice(*WHO), choice({"n": 3})),
    asking("/v1/recommend", choice({"n": 3}, {"n": 40, "fields": ["title"]}), choice(*FILTERS)),
    asking(
        "/v1/similar",
        choice({"item_id": "i7"}),
        choice(*WHO, {}),
        choice({}, {"exclude_seen": True}),
    ),
    st.tuples(choice("PATCH"), ITEM.map("/v1/items/{}".format), choice(*CHANGES)),
    choice("/v1/items/i3", "/v1/items/i7", "/v1/popular?n=3", "/v1/popular?n=3&kind=recent").map(
        lambda path: ("GET", path, None)
    ),
)


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    """Two servers with the same past: one keeps answers, the other does not."""
    with ExitStack() as stack:
        clients = []
        for name in ("keeping", "not"):
            engine = make_engine(tmp_path_factory.mktemp(name))
            if name == "not":
                engine.lists.max_bytes = engine.items.max_bytes = 0
            app = build_app(engine, Access("127.0.0.1", None))
            clients.append((stack.enter_context(running(app)), engine))
        yield clients
        (_, keeping), (_, bare) = clients
        assert keeping.lists.hits > 100 and keeping.items.hits > 20
        assert bare.lists.hits == bare.items.hits == 0


NUMBERS = itertools.count()


@settings(
    max_examples=60, deadline=None, derandomize=True,
    suppress_health_check=list(HealthCheck),
)  # fmt: skip
@given(st.lists(MOVES, min_size=5, max_size=40))
def test_a_kept_answer_is_what_would_be_found_anew(both, moves):
    """The promise of the cache: no click, no hide and no change is ever behind it."""
    # Each twice, so that the second is likely to be found.
    for method, path, asked in (move for move in moves for _ in range(2)):
        fresh_id = {"event_id": f"event-{next(NUMBERS)}"} if path == "/v1/events" else {}
        body = None if asked is None else {**asked, **fresh_id}
        kept, fresh = (
            client.request(method, path, json=body) if body is not None
            else client.request(method, path)
            for client, _ in both
        )  # fmt: skip
        assert kept.status_code == fresh.status_code == 200, kept.text
        if "items" in kept.json():
            assert kept.json()["items"] == fresh.json()["items"], (method, path, body)
        elif path.startswith("/v1/items/"):
            assert kept.json() == fresh.json()


def test_a_hidden_item_is_in_no_list_after_its_acknowledgement_whoever_asks_meanwhile(engine):
    app = build_app(engine, Access("127.0.0.1", None))
    with running(app) as client:
        over = threading.Event()

        def ask():
            while not over.is_set():
                client.get("/v1/recommend?n=5")
                client.get("/v1/popular?n=5")

        askers = [threading.Thread(target=ask) for _ in range(3)]
        for asker in askers:
            asker.start()
        try:
            for _ in range(20):
                client.delete("/v1/items/i7")
                assert "i7" not in ids(client.get("/v1/recommend?n=5"))
                assert "i7" not in ids(client.get("/v1/popular?n=5"))
                client.patch("/v1/items/i7", json={"available": True})
                assert ids(client.get("/v1/recommend?n=5"))[0] == "i7"
        finally:
            over.set()
            for asker in askers:
                asker.join()
    assert engine.lists.hits > 50
