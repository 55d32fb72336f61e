"""Models that keep no states over HTTP: every click is in the next answer, as the model has it."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Iterator
from pathlib import Path

import httpx
import numpy as np
import pytest

from ouzel import Recommender
from ouzel.evaluation.protocol import Scorer
from ouzel.events.interactions import History
from ouzel.models.registry import MODELS, kind_of
from ouzel.recommender.evaluate import ITEM_FILES, history_scorer
from ouzel.recommender.home import Home
from ouzel.serving.app import build_app
from ouzel.serving.engine import Engine
from ouzel.serving.home import open_home
from ouzel.serving.reader import inherited
from ouzel.serving.security import Access
from tests.recommender.conftest import walks
from tests.serving.running import running
from tests.serving.test_workers import Connections, served

NAMES = [model.name for model in MODELS if kind_of(model) in ("encoder", "closed_form")]
"""Models of ratings are in test_ratings.py."""


@pytest.fixture(scope="module", params=NAMES)
def made(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp(request.param) / "home"
    Recommender(home, model=request.param).fit(walks(), split="leave-one-out", blend=False)
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


def scorer_of(home: Path) -> Scorer:
    bundle = Home(home).current()
    kind = bundle.manifest.kind
    return history_scorer(kind, {name: bundle.tensors(name) for name in ITEM_FILES[kind]})


def expected(home: Path, engine: Engine, history: History, n: int) -> tuple[list[str], list[float]]:
    """Return the list that the model gives for a history, seen items left out."""
    scores = scorer_of(home)([history], np.array([0]))[0].copy()
    scores[[0, *history.rows.tolist()]] = -np.inf
    best = np.argsort(-scores, kind="stable")[: min(n, np.isfinite(scores).sum())]
    return engine.catalog.ids(best.tolist()), scores[best].tolist()


def history_of(engine: Engine, user_id: str) -> History:
    user = engine.log.user_row(user_id=user_id)
    assert user is not None
    return engine.log.history(user)


def ask(client: httpx.Client, path: str = "recommend", **fields: object) -> dict:
    reply = client.post(f"/v1/{path}", json=fields)
    assert reply.status_code == 200, reply.text
    assert reply.json()["degraded"] is None
    return reply.json()


def test_answers_are_those_of_the_model_event_after_event(home, engine, client) -> None:
    before = None
    for item in (None, "c0-3", "c3-4", "c0-8", "c2-9"):
        if item:
            event = {"event": "click", "user_id": "user 1", "item_id": item}
            assert client.post("/v1/events", json=event).status_code == 200
        reply = ask(client, user_id="user 1", n=30)
        ids, scores = expected(home, engine, history_of(engine, "user 1"), 30)
        found = [entry["score"] for entry in reply["items"] if entry["source"] == "sequence"]
        assert found == pytest.approx(scores[: len(found)], rel=1e-3, abs=1e-4)
        assert len(found) >= 2
        assert [entry["item_id"] for entry in reply["items"]][: len(found)] == ids[: len(found)]
        assert found != before
        before = found


def test_a_visitor_is_answered_by_the_items_of_the_session(home, engine, client) -> None:
    rows = engine.catalog.rows(["c0-3", "c0-4"])
    ids, _ = expected(home, engine, History(rows, np.arange(2)), 2)
    reply = ask(client, items=["c0-3", "c0-4"], n=2)
    assert [entry["item_id"] for entry in reply["items"]] == ids
    assert {entry["source"] for entry in reply["items"]} == {"session"}
    nobody = ask(client, user_id="nobody", n=2)
    assert {entry["source"] for entry in nobody["items"]} == {"popular"}


def test_similar_items_are_of_the_same_circle(client) -> None:
    reply = ask(client, "similar", item_id="c2-7", n=2)
    assert {entry["source"] for entry in reply["items"]} == {"similar"}
    assert all(entry["item_id"].startswith("c2-") for entry in reply["items"])


def test_own_items_are_ranked_and_lists_arranged_by_the_model(home, engine, client) -> None:
    rows = history_of(engine, "user 1").rows
    sent = ["c3-1", "c1-8", "c1-9", "c0-2"]
    scores = scorer_of(home)([History(rows, np.arange(len(rows)))], np.array([0]))[0]
    of_sent = np.maximum(scores[engine.catalog.rows(sent)], np.finfo(np.float32).min)
    best = [sent[place] for place in np.argsort(-of_sent, kind="stable")]
    reply = ask(client, "rank", user_id="user 1", items=sent)
    told = [entry["item_id"] for entry in reply["items"] if entry["source"] == "sequence"]
    assert told == best[: len(told)] and told
    plain = ask(client, user_id="user 1", n=3)["items"]
    second = plain[1]["item_id"]
    boosted = ask(client, user_id="user 1", n=3, boosts=[{"items": [second], "factor": 1e3}])
    assert boosted["items"][0]["item_id"] == second


def test_what_is_hidden_or_excluded_is_not_shown(client) -> None:
    first = ask(client, user_id="user 1", n=2)["items"]
    rest = ask(client, user_id="user 1", n=2, exclude_items=[first[0]["item_id"]])["items"]
    assert rest[0]["item_id"] == first[1]["item_id"]
    gone = client.patch(f"/v1/items/{first[0]['item_id']}", json={"available": False})
    assert gone.status_code == 200, gone.text
    assert ask(client, user_id="user 1", n=2)["items"][0]["item_id"] == first[1]["item_id"]


def test_python_and_evaluation_say_the_same(home, engine, client) -> None:
    recommender = Recommender.load(home)
    served = ask(client, user_id="user 5", n=3)["items"]
    found = recommender.recommend(["user 5", "nobody"], k=3)
    assert found["item_id"].to_list()[:3] == [entry["item_id"] for entry in served]
    rows = {row["model"]: row for row in recommender.evaluate()}
    name = Home(home).current().manifest.model
    assert set(rows) == {name, "popular", "recent_popular", "vmis"}
    assert rows[name]["ndcg@10"] > rows["popular"]["ndcg@10"] + 0.1


def test_nothing_is_kept_of_users(engine, client) -> None:
    ask(client, user_id="user 1")
    told = client.get("/metrics").text
    assert 'ouzel_now{of="state_slots"} 0.0' in told
    assert engine.parts.states.pool.bytes == len(engine.parts.states.pool) == 0
    assert asyncio.run(engine.audit_one()) is None
    with pytest.raises(ValueError, match="not shared"):
        inherited(engine)


@pytest.mark.parametrize("made", ["ease"], indirect=True)
def test_each_process_knows_of_every_acknowledged_event(home: Path) -> None:
    with served(home, workers=3) as (_, port), Connections(port) as connections:
        for turn in range(40):
            user = f"user {turn % 4}"
            shown = connections.json("/v1/recommend", {"user_id": user, "n": 1})["items"]
            if shown[0]["source"] != "sequence":
                continue
            clicked = shown[0]["item_id"]
            event = {"event": "click", "user_id": user, "item_id": clicked}
            connections.json("/v1/events", event)
            again = connections.json("/v1/recommend", {"user_id": user, "n": 5})["items"]
            assert clicked not in [entry["item_id"] for entry in again]
