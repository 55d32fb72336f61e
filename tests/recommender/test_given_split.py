"""A test part in a file of its own: matched by ids, never in the log, measured as it is served."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pytest

from ouzel.data.read import from_arrow
from ouzel.recommender.given_split import GivenTest
from ouzel.recommender.home import Home
from ouzel.recommender.options import Silent, TrainOptions
from ouzel.recommender.train import import_dataset, train_home


class Told(Silent):
    def __init__(self) -> None:
        self.warned: list[str] = []

    def warn(self, text: str) -> None:
        self.warned.append(text)


def dataset(*lines: tuple[str, str]) -> object:
    users, items = zip(*lines, strict=True)
    return from_arrow(pl.DataFrame({"user_id": users, "item_id": items}))


def circles(*, held_out: bool) -> list[tuple[str, str]]:
    """Return users of two tastes; of the eight items of each two are held out."""
    rng = np.random.default_rng(0)
    lines = []
    for user in range(40):
        items = rng.permutation(8)
        chosen = items[:2] if held_out else items[2:]
        lines += [(f"u{user}", f"{'ab'[user % 2]}{item}") for item in chosen]
    return lines


@pytest.fixture
def home(tmp_path: Path) -> Home:
    home = Home(tmp_path / "home")
    with home.log() as log:
        import_dataset(log, dataset(*circles(held_out=False)), Silent())
    return home


def test_what_is_served_is_measured_on_what_the_file_has(home: Home) -> None:
    options = TrainOptions(model="ease", split="none", settings={"l2": 1.0})
    told = Told()
    trained = train_home(home, options, told)
    assert told.warned == [], "nothing was held out, as asked"
    assert trained.rows == [] and trained.bundle.manifest.data.num_events == 240
    given = GivenTest(home, dataset(*circles(held_out=True)))
    ours, *baselines = given.rows(Silent(), threads=1)
    assert (ours["model"], ours["split"], ours["num_targets"]) == ("ease", "given", 80)
    assert ours["recall@20"] == 1 and ours["ndcg@20"] == pytest.approx(1)
    found = {row["model"]: row["ndcg@20"] for row in baselines}
    assert set(found) == {"popular", "recent_popular", "vmis"} and found["popular"] < 0.99
    assert ours["num_warm"] == 80 and ours["recall@20_warm"] == 1


def test_users_and_items_are_matched_by_their_ids(home: Home) -> None:
    lines = [("u3", "b0"), ("u3", "nowhere"), ("stranger", "a1"), ("u2", "a5"), ("u3", "b0")]
    given = GivenTest(home, dataset(*lines))
    held_out = given.held_out
    with home.log() as log:
        users = [log.user_row(user) for user in ("u2", "u3")]
        rows = log.catalog.rows(["a5", "b0"]).tolist()
    assert given.train.users_U[held_out.users_U].tolist() == sorted(users)
    assert held_out.rows_E.tolist() == [rows[0], rows[1], 0]
    assert held_out.offsets_U1.tolist() == [0, 1, 3]
    assert given.num_excluded == 1


def test_a_file_of_strangers_is_refused(home: Home) -> None:
    with pytest.raises(ValueError, match="give files of one split"):
        GivenTest(home, dataset(("stranger", "a1")))


def test_the_log_learns_nothing_of_it(home: Home) -> None:
    with home.log() as log:
        before = log.digest(until_offset=log.last_offset())
    GivenTest(home, dataset(*circles(held_out=True)))
    with home.log() as log:
        assert log.digest(until_offset=log.last_offset()) == before
