"""Every sequence model behind the server: a click is in the very next answer."""

from __future__ import annotations

import pytest

from ouzel.serving.app import build_app
from ouzel.serving.home import open_home
from ouzel.serving.security import Access
from tests.models.every import NAMES, files_of, graphs_of
from tests.serving.real_home import write_home
from tests.serving.running import running


def scores(client, user: str) -> dict[str, float]:
    request = {"user_id": user, "n": 30, "exclude_seen": False}
    reply = client.post("/v1/recommend", json=request).json()
    assert reply["degraded"] is None
    return {i["item_id"]: i["score"] for i in reply["items"] if i["source"] == "sequence"}


@pytest.mark.parametrize("name", NAMES)
def test_every_click_changes_the_very_next_answer(name: str, tmp_path) -> None:
    write_home(tmp_path / "home", exported=(files_of(name), graphs_of(name)))
    engine = open_home(tmp_path / "home", state_bytes=1 << 20)
    with running(build_app(engine, Access("127.0.0.1", None))) as client:
        before = scores(client, "u1")
        assert len(before) >= 20
        for item in ("i3", "i17", "i3", "i8"):
            click = {"event": "view", "item_id": item, "user_id": "u1"}
            assert client.post("/v1/events", json=click).status_code == 200
            after = scores(client, "u1")
            shared = before.keys() & after.keys()
            assert max(abs(before[one] - after[one]) for one in shared) > 1e-3
            before = after
        visitor = {"event": "view", "item_id": "i5", "session_id": "s9"}
        assert client.post("/v1/events", json=visitor).status_code == 200
        session = {"session_id": "s9", "n": 5}
        found = client.post("/v1/recommend", json=session).json()["items"]
        assert {item["source"] for item in found} == {"sequence"}
