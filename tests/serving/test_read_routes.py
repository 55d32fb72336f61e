from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from ouzel.serving.titles import TitleSearch
from tests.serving.doubles import HOSTILE


def test_items_by_title(client):
    reply = client.get("/v1/items", params={"query": "NUMBER 12", "limit": 5}).json()
    assert reply == {
        "items": [
            {
                "item_id": "i12",
                "fields": {"title": "Film number 12", "genres": "Drama"},
                "available": True,
            }
        ]
    }
    assert len(client.get("/v1/items?query=film&limit=7").json()["items"]) == 7
    assert client.get("/v1/items?query=no-such-title").json() == {"items": []}
    assert client.get("/v1/items?query=onerror").json()["items"][0]["fields"]["title"] == HOSTILE


def test_items_without_a_query_are_the_popular_ones(client):
    items = client.get("/v1/items?limit=2").json()["items"]
    assert [item["item_id"] for item in items] == ["i7", "i1"]


def test_some_users(client):
    client.post("/v1/events", json={"event": "click", "session_id": "s", "item_id": "i1"})
    assert client.get("/v1/users").json() == {"users": ["ada", "bo"]}
    assert client.get("/v1/users?limit=1").json() == {"users": ["ada"]}


def test_probes(client):
    assert client.get("/health/live").json() == {"status": "alive"}
    ready = client.get("/health/ready")
    assert ready.status_code == 200
    assert ready.json()["model"]["name"] == "NextItem"
    assert client.head("/health/ready").status_code == 200


titles = st.lists(st.text(alphabet="abAB \nß", max_size=8), min_size=1, max_size=8)


@given(titles=titles, query=st.text(alphabet="abAB \nß", max_size=3), limit=st.integers(1, 4))
def test_title_search_is_plain_containment(titles, query, limit):
    def plain(text):
        return text.lower().replace("\n", " ")

    wanted = [row for row, title in enumerate(titles) if query and plain(query) in plain(title)]
    assert list(TitleSearch(titles).rows(query, limit)) == wanted[:limit]
