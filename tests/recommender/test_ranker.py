"""A ranker from training to lists: in the Bundle, in the request path, weighed, and added later."""

from __future__ import annotations

import shutil
from pathlib import Path
from unittest.mock import patch

import polars as pl
import pytest
import torch

from ouzel import Recommender
from ouzel.bundle.bundle import load_bundle
from ouzel.recommender.evaluate import recorded_split
from ouzel.recommender.home import Home
from ouzel.recommender.options import Silent, TrainOptions
from ouzel.recommender.publish import export
from ouzel.recommender.ranker import add_ranker, trained_model
from ouzel.serving.home import open_home
from tests.recommender.conftest import walks


class Telling(Silent):
    def __init__(self) -> None:
        self.told: list[str] = []

    def say(self, text: str) -> None:
        self.told.append(text)


@pytest.fixture(scope="module")
def ranked(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The home of the session's model with a ranker added."""
    home = tmp_path_factory.mktemp("ranked") / "home"
    shutil.copytree(trained, home)
    with patch("ouzel.recommender.publish.export_graphs", side_effect=AssertionError):
        add_ranker(Home(home), TrainOptions(minutes=0.01), Silent())
    return home


def test_a_ranker_is_added_to_the_model_that_is_there(trained: Path, ranked: Path) -> None:
    before, bundle = Home(trained).current(), Home(ranked).current()
    assert bundle.manifest.parent == before.digest
    assert bundle.manifest.features["ranker"]["config"]["actions"] == ["interact"]
    assert set(bundle.manifest.graphs) - set(before.manifest.graphs) == {"rank"}
    assert bundle.manifest.error_bounds["rank"] < 1e-4
    assert bundle.manifest.index is not None
    assert bundle.manifest.index == before.manifest.index
    assert bundle.tensors("ranker")["items"].shape[0] == bundle.manifest.num_rows
    same = trained_model(before).state_dict(), trained_model(bundle).state_dict()
    # The vectors of items are kept as directions and lengths, whose product may round.
    rounded = {"items.weight": 1e-6}
    for name in same[0]:
        assert torch.allclose(same[0][name], same[1][name], rtol=rounded.get(name, 0), atol=0), name
    models = [row["model"] for row in bundle.manifest.metrics]
    assert models[:2] == ["esasrec + ranker", "esasrec"]
    assert {"best_baseline", "ndcg@10_lead_low"} <= set(bundle.manifest.metrics[0])


@pytest.mark.parametrize("other", ["precision", "version"])
def test_graphs_that_would_be_others_today_are_not_taken_over(trained, other) -> None:
    bundle = Home(trained).current()
    interactions, _ = recorded_split(Home(trained), bundle)
    precision = "fp16" if other == "precision" else "int8"
    told = {"versions": {}} if other == "version" else dict(bundle.manifest.versions)
    with (
        patch("ouzel.recommender.publish.export_graphs", side_effect=InterruptedError),
        patch("ouzel.recommender.publish.versions", return_value=told),
        pytest.raises(InterruptedError),
    ):
        export(
            trained_model(bundle),
            interactions,
            held_out=[],
            precision=precision,
            threads=1,
            earlier=bundle,
        )


def test_the_whole_is_evaluated(ranked: Path) -> None:
    rows = Recommender(ranked).evaluate()
    recorded = Home(ranked).current().manifest.metrics
    assert [row["model"] for row in rows] == [row["model"] for row in recorded]
    for row, other in zip(rows, recorded, strict=True):
        assert row["ndcg@10"] == pytest.approx(other["ndcg@10"])


def test_lists_are_ranked(trained: Path, ranked: Path) -> None:
    by_retrieval = Recommender(trained).recommend(["user 1"], k=5)
    by_ranker = Recommender(ranked).recommend(["user 1"], k=5)
    assert set(by_ranker["source"]) == {"sequence"} and len(by_ranker) == 5
    assert by_ranker["score"].is_sorted(descending=True)
    assert by_ranker["score"].to_list() != by_retrieval["score"].to_list()


def test_many_users_are_ranked_as_each_alone(ranked: Path) -> None:
    recommender = Recommender(ranked)
    users = [f"user {number}" for number in range(30)]
    together = recommender.recommend(users, k=3)
    alone = pl.concat([recommender.recommend([user], k=3) for user in users])
    assert together["item_id"].to_list() == alone["item_id"].to_list()


def test_weights_of_unknown_actions_are_refused(trained: Path, ranked: Path) -> None:
    with pytest.raises(ValueError, match="no action 'intract': did you mean 'interact'"):
        Recommender(ranked, weights={"intract": 1.0}).recommend(["user 1"])
    with pytest.raises(ValueError, match="no ranker"):
        Recommender(trained, weights={"interact": 1.0}).recommend(["user 1"])
    with pytest.raises(ValueError, match="no action 'like'"):
        open_home(ranked, state_bytes=1 << 20, weights={"like": 1.0})
    flipped = Recommender(ranked, weights={"interact": -1.0}).recommend(["user 1"], k=3)
    usual = Recommender(ranked).recommend(["user 1"], k=3)
    assert flipped["item_id"].to_list() != usual["item_id"].to_list()


@pytest.mark.usefixtures("small")
def test_training_with_a_ranker_and_refit(tmp_path: Path) -> None:
    home = Home(tmp_path / "home")
    rated = walks(40).with_columns(value=pl.int_range(pl.len()) % 5)
    Recommender(home.root).fit(rated, split="leave-one-out", ranker=True, refit=True, minutes=0.01)
    for bundle in (home.current(), home.measured()):
        again = load_bundle(bundle.path)
        assert again.manifest.features["ranker"]["config"]["actions"] == ["interact", "like"]
        assert "rank" in again.manifest.graphs
    assert home.current().manifest.features["refit"]
    liked = Recommender(home.root, weights={"like": 1.0}).recommend(["user 1"], k=3)
    assert len(liked) == 3
    with pytest.raises(ValueError, match="--refit --ranker"):
        add_ranker(home, TrainOptions(), Silent())  # nothing is left to stop it by
