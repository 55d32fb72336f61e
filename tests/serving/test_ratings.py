"""Models of ratings over HTTP: every rating is in the next answer, as the model has it."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Iterator
from pathlib import Path

import httpx
import numpy as np
import polars as pl
import pytest

from ouzel import Recommender
from ouzel.events.interactions import History
from ouzel.models.factorization import RATING_MODELS
from ouzel.recommender.evaluate import ITEM_FILES, history_scorer
from ouzel.recommender.home import Home
from ouzel.serving.app import build_app
from ouzel.serving.engine import Engine
from ouzel.serving.home import open_home
from ouzel.serving.security import Access
from tests.serving.running import running
from tests.serving.test_workers import Connections, served

NAMES = [model.name for model in RATING_MODELS]
SMALL = {"dim": 2, "epochs": 20, "samples": 3}


def ratings(num_users: int = 60) -> pl.DataFrame:
    """Return users who give the items of their own half 5 and those of the other 1, nine of 16."""
    rng = np.random.default_rng(0)
    rows = [
        (f"user {user}", f"i{item}", 1_600_000_000 + place, 5 if item % 2 == user % 2 else 1)
        for user in range(num_users)
        for place, item in enumerate(rng.permutation(16)[:9].tolist())
    ]
    return pl.DataFrame(rows, schema=["user_id", "item_id", "timestamp", "value"], orient="row")


@pytest.fixture(scope="module", params=NAMES)
def made(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp(request.param) / "home"
    recommender = Recommender(home, model=request.param)
    recommender.fit(ratings(), split="leave-one-out", settings=SMALL, blend=False)
    return home


@pytest.fixture
def home(made: Path, tmp_path: Path) -> Path:
    return shutil.copytree(made, tmp_path / "home")


@pytest.fixture
def engine(home: Path) -> Iterator[Engine]:
    engine = open_home(home, state_bytes=1 << 20)
    yield engine
    asyncio.run(engine.close())


@pytest.fixture
def client(engine: Engine) -> Iterator[httpx.Client]:
    with running(build_app(engine, Access("127.0.0.1", None))) as client:
        yield client


def history_of(engine: Engine, user_id: str) -> History:
    user = engine.log.user_row(user_id=user_id)
    assert user is not None
    return engine.log.history(user, valued=True)


def expected(home: Path, history: History) -> np.ndarray:
    """Return the value (N,) that the model predicts of each item."""
    bundle = Home(home).current()
    tensors = {name: bundle.tensors(name) for name in ITEM_FILES[bundle.manifest.kind]}
    return history_scorer(bundle.manifest.kind, tensors)([history], np.array([0]))[0]


def ask(client: httpx.Client, **fields: object) -> dict[str, float]:
    reply = client.post("/v1/recommend", json=fields)
    assert reply.status_code == 200, reply.text
    assert reply.json()["degraded"] is None
    items = reply.json()["items"]
    return {one["item_id"]: one["score"] for one in items if one["source"] != "popular"}


def rate(client: httpx.Client, user: str, item: str, value: float | None) -> None:
    event = {"event": "rate", "user_id": user, "item_id": item}
    event |= {} if value is None else {"value": value}
    assert client.post("/v1/events", json=event).status_code == 200


def test_answers_are_predicted_ratings_event_after_event(home, engine, client) -> None:
    before: dict[str, float] = {}
    told = (("i3", 5), ("i4", 1), ("i3", 1), ("i6", None), ("i8", 5))
    for item, value in told:
        rate(client, "somebody", item, value)
        found = ask(client, user_id="somebody", n=20)
        scores = expected(home, history_of(engine, "somebody"))
        rows = engine.catalog.rows(list(found))
        assert list(found.values()) == pytest.approx(scores[rows].tolist(), abs=1e-3)
        assert list(found.values()) == sorted(found.values(), reverse=True)
        assert len(found) >= 10 and item not in found
        shared = found.keys() & before.keys()
        assert not before or max(abs(found[one] - before[one]) for one in shared) > 1e-3
        before = found


def test_how_it_was_rated_decides_what_is_shown(client) -> None:
    for user, liked, not_liked in (("odd", "i3", "i4"), ("even", "i4", "i3")):
        rate(client, user, liked, 5)
        rate(client, user, not_liked, 1)
        best = list(ask(client, user_id=user, n=4))
        assert {int(item[1:]) % 2 for item in best} == {1 if user == "odd" else 0}


def test_a_visitor_who_looks_is_taken_to_like(home, engine, client) -> None:
    rows = engine.catalog.rows(["i1", "i5"])
    scores = expected(home, History(rows, np.arange(2)))
    found = ask(client, items=["i1", "i5"], n=3)
    assert list(found.values()) == pytest.approx(np.sort(scores)[::-1][:3].tolist(), abs=1e-3) or (
        {int(item[1:]) % 2 for item in found} == {1}
    )
    assert ask(client, user_id="nobody", n=3) == {}


def test_python_says_the_same(home, client) -> None:
    served_items = ask(client, user_id="user 5", n=3)
    found = Recommender.load(home).recommend(["user 5"], k=3)
    assert found["item_id"].to_list() == list(served_items)
    assert found["score"].to_list() == pytest.approx(list(served_items.values()), abs=1e-4)


@pytest.mark.parametrize("made", ["svdpp"], indirect=True)
def test_each_process_knows_the_value_of_every_acknowledged_event(home: Path) -> None:
    with served(home, workers=3) as (_, port), Connections(port) as connections:
        for turn in range(12):
            user, odd = f"guest {turn}", turn % 2
            for item in (1, 2, 3, 4):
                value = 5 if item % 2 == odd else 1
                event = {"event": "rate", "user_id": user, "item_id": f"i{item}", "value": value}
                connections.json("/v1/events", event)
                connections.json("/v1/recommend", {"user_id": user, "n": 1})
            shown = connections.json("/v1/recommend", {"user_id": user, "n": 3})["items"]
            assert {int(one["item_id"][1:]) % 2 for one in shown} == {odd}
