"""Online learning of a home: what comes into the log is learned from where the Bundle stopped."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from ouzel import Recommender
from ouzel.bundle.bundle import Bundle
from ouzel.events.types import Interaction, ItemUpdate
from ouzel.recommender import online
from tests.recommender.conftest import walks

ONLINE = ["eals", "bpr", "isgd"]


def fashion(users: range, *, times: int = 3) -> pl.DataFrame:
    """Return users who all take the same three items, two of them unknown until now."""
    items = ["c0-0", "fresh 1", "fresh 2"] * times
    rows = [(f"late {user}", item, 1_700_000_000 + n) for user in users for n, item in
            enumerate(items)]  # fmt: skip
    return pl.DataFrame(rows, schema=["user_id", "item_id", "timestamp"], orient="row")


@pytest.fixture(scope="module", params=ONLINE)
def fitted(request, tmp_path_factory) -> Recommender:
    home = tmp_path_factory.mktemp("online") / request.param
    settings = {"dim": 8, "epochs": 5}
    told = {"settings": settings, "split": "none", "seed": 1}
    return Recommender(home, model=request.param).fit(walks(), **told)


@pytest.fixture
def recommender(fitted: Recommender, tmp_path: Path) -> Iterator[Recommender]:
    fitted.save(tmp_path / "copy")
    copied = Recommender(tmp_path / "copy")
    yield copied
    copied._close()


def users_of(bundle: Bundle) -> dict[int, np.ndarray]:
    held = bundle.tensors("learning")
    return dict(zip(held["user_rows"].tolist(), held["users"], strict=True))


def test_what_was_never_seen_is_recommended_right_after(recommender: Recommender) -> None:
    before = recommender.home.current()
    assert "fresh 2" not in set(recommender.recommend(["late 1"], k=50)["item_id"])
    recommender.partial_fit(fashion(range(40), times=12))
    after = recommender.home.current()
    assert after.manifest.parent == before.digest and after.manifest.features["refit"]
    assert after.manifest.num_rows == before.manifest.num_rows + 2
    recommender.home.log().append([clicked("somebody", "c0-0"), clicked("somebody", "fresh 1")])
    found = recommender.recommend(["somebody"], k=3)
    assert "fresh 2" in found["item_id"].to_list()[:2]
    assert set(found["source"]) == {"sequence"}


def clicked(user_id: str, item_id: str) -> Interaction:
    return Interaction(
        event_id=f"{user_id} {item_id}",
        timestamp_ms=1_800_000_000_000,
        user_id=user_id,
        item_id=item_id,
        event="view",
    )


def test_each_event_is_learned_once_and_learning_goes_on(recommender, monkeypatch) -> None:
    """The planted fault would be an offset that is lost: events twice, or never."""
    monkeypatch.setattr(online, "BATCH_EVENTS", 7)
    learned: list[tuple[int, int]] = []
    kind = online.online_model(recommender.home.current())
    usual = kind.partial_fit

    def noted(self, users_E, rows_E):
        learned.extend(zip(users_E.tolist(), rows_E.tolist(), strict=True))
        return usual(self, users_E, rows_E)

    monkeypatch.setattr(kind, "partial_fit", noted)
    recommender.partial_fit(fashion(range(3)))
    assert len(learned) == 27
    recommender.partial_fit(fashion(range(3)))
    assert len(learned) == 27
    digest = recommender.home.current().digest
    item = ItemUpdate(event_id="item", timestamp_ms=0, item_id="shown", columns={})
    with recommender.home.log() as log:
        log.append([item, clicked("late 1", "fresh 1"), item, clicked("late 9", "fresh 2")])
    recommender.partial_fit()
    recommender.partial_fit()
    assert len(learned) == 29 and learned[-2] in learned[:27] and learned[-1] not in learned[:27]
    assert recommender.home.current().manifest.parent == digest


def test_what_training_held_out_is_learned_first(tmp_path: Path, monkeypatch) -> None:
    settings = {"dim": 8, "epochs": 2}
    recommender = Recommender(tmp_path, model="isgd").fit(walks(), settings=settings)
    kind = online.online_model(recommender.home.current())
    usual, learned = kind.partial_fit, []

    def noted(self, users_E, rows_E):
        learned.append(len(rows_E))
        return usual(self, users_E, rows_E)

    monkeypatch.setattr(kind, "partial_fit", noted)
    bundle = recommender.home.current()
    _, split = online.recorded_split(recommender.home, bundle)
    recommender.partial_fit(fashion(range(3)))
    assert learned == [len(split.full) - len(split.train), 27] and learned[0] > 0
    recommender.partial_fit(fashion(range(3, 4)))
    assert learned[2:] == [9]


def test_likes_alone_are_learned_where_fit_took_likes_alone(tmp_path: Path) -> None:
    rated = walks().with_columns(value=pl.lit(5.0))
    told = {"settings": {"dim": 8, "epochs": 2}, "min_value": 4}
    recommender = Recommender(tmp_path, model="isgd").fit(rated, **told)
    before = recommender.home.log().last_offset()
    recommender.partial_fit(
        fashion(range(3)).with_columns(value=pl.lit(1.0) + pl.int_range(27) % 5)
    )
    assert recommender.home.log().last_offset() - before == sum(n % 5 >= 3 for n in range(27))


def test_a_model_of_fields_learns_from_all_events_at_once(recommender, monkeypatch) -> None:
    bundle = recommender.home.current()
    bundle.manifest.features["ctr"] = {"name": "deepfm"}
    with pytest.raises(ValueError, match=r"deepfm, which orders .* fit without ctr first"):
        online.online_model(bundle)


def test_who_did_nothing_keeps_a_vector_and_all_have_one(recommender: Recommender) -> None:
    before = users_of(recommender.home.current())
    recommender.partial_fit(fashion(range(2)))
    after = users_of(recommender.home.current())
    assert len(after) == len(before) + 2
    for user, vector in before.items():
        np.testing.assert_array_equal(after[user], vector)


def test_vectors_are_kept_by_the_rows_of_users(recommender, monkeypatch) -> None:
    """A user whom the log knows for longer than another, and who did something later."""
    with recommender.home.log() as log:
        log.append([clicked("early", "unknown"), clicked("late", "c0-0"), clicked("early", "c0-1")])
        rows = [log.user_row(name) for name in ("early", "late")]
    kept: dict[int, np.ndarray] = {}
    usual = online._published

    def noted(home, log, stream, parent, offset):
        users_UD, _ = stream.model.arrays()
        kept.update((row, users_UD[stream.places(np.array([row]))[0]].copy()) for row in rows)
        return usual(home, log, stream, parent, offset)

    monkeypatch.setattr(online, "_published", noted)
    recommender.partial_fit()
    assert rows[0] < rows[1] and not np.array_equal(*kept.values())
    for row, vector in kept.items():
        np.testing.assert_array_equal(users_of(recommender.home.current())[row], vector)


def test_what_is_measured_is_still_what_fit_left_out(recommender: Recommender) -> None:
    rows = recommender.evaluate()
    measured = recommender.home.measured().digest
    for batch in (range(2), range(2, 4)):
        recommender.partial_fit(fashion(batch))
    assert recommender.home.measured().digest == measured
    assert recommender.evaluate() == rows


def test_a_model_that_cannot_says_which_can(tmp_path: Path) -> None:
    recommender = Recommender(tmp_path / "home", model="ease").fit(walks())
    events = len(recommender._open().log.newest(10**6))
    with pytest.raises(ValueError, match="ease learns from all events at once") as told:
        recommender.partial_fit(fashion(range(2)))
    assert all(name in str(told.value) for name in ONLINE)
    assert len(recommender._open().log.newest(10**6)) == events
    with pytest.raises(ValueError, match="has no model yet"):
        Recommender(tmp_path / "nothing").partial_fit(fashion(range(2)))
