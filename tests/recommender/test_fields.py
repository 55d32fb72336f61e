"""A model of fields from training to lists: in the Bundle, in the request path, a click at once."""

from __future__ import annotations

import asyncio
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import polars as pl
import pytest

from ouzel import Recommender
from ouzel.bundle.bundle import load_bundle
from ouzel.cli.benchmarking.home import trained_origin
from ouzel.data.split import leave_one_out
from ouzel.events.interactions import History, group_by_user
from ouzel.events.types import Interaction
from ouzel.inference.fields import FieldRanker
from ouzel.inference.onnxruntime import FieldsGraph
from ouzel.ranking.scoring import RankCandidates
from ouzel.recommender import fields
from ouzel.recommender.fields import NEGATIVES, fielded
from ouzel.recommender.home import Home
from ouzel.recommender.options import TrainOptions
from ouzel.retrieval.types import no_history
from ouzel.serving.home import open_home
from ouzel.serving.timing import Timing
from ouzel.serving.wire import RecommendRequest
from tests.recommender.conftest import walks
from tests.serving.real_home import in_service

NOW_MS = 2_000_000_000_000


def rated_walks() -> pl.DataFrame:
    return walks(60).with_columns(value=(pl.int_range(pl.len()) % 5).cast(pl.Float64))


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home whose items EASE finds and DeepFM puts in order."""
    root = tmp_path_factory.mktemp("fields") / "home"
    told = {"split": "leave-one-out", "seed": 1, "minutes": 0.05}
    with pytest.MonkeyPatch.context() as patched:
        # On so little data no order is better than that of EASE.
        patched.setattr(fields, "_better", lambda *_: True)
        rows = Recommender(root).fit(rated_walks(), model="ease", ctr="deepfm", **told)
    assert rows is not None
    return root


@pytest.mark.parametrize(("figures", "served"), [((0.1, 0.2), False), ((0.2, 0.1), True)])
def test_it_is_served_where_validation_comes_higher(
    figures, served: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = iter(figures)
    monkeypatch.setattr(fields, "mean_ndcg", lambda *_: next(given))
    told = {"split": "leave-one-out", "minutes": 0.001}
    Recommender(tmp_path).fit(rated_walks(), model="ease", ctr="mlp", **told)
    manifest = Home(tmp_path).current().manifest
    assert ("ctr" in manifest.features) == served
    assert manifest.metrics[0]["model"] == ("ease + mlp" if served else "ease")


def test_it_is_in_the_bundle_with_its_fields_and_its_measured_bound(home: Path) -> None:
    bundle = load_bundle(Home(home).current().path)
    told = bundle.manifest.features["ctr"]
    assert (told["name"], told["actions"]) == ("deepfm", ["interact", "like"])
    assert [field["name"] for field in told["fields"]] == ["hour", "weekday", "item"]
    assert bundle.manifest.error_bounds["ctr"] < 1e-4
    assert bundle.tensors("ctr")["items"].shape[0] == bundle.manifest.num_rows
    assert set(bundle.manifest.graphs) == {"ctr"}
    assert [row["model"] for row in bundle.manifest.metrics][:2] == ["ease + deepfm", "ease"]
    parent = load_bundle(home / "bundles" / str(bundle.manifest.parent)[:16])
    assert "ctr" not in parent.manifest.features and set(parent.manifest.files) < set(
        bundle.manifest.files
    )


def test_the_whole_is_evaluated(home: Path) -> None:
    rows = Recommender(home).evaluate()
    recorded = Home(home).current().manifest.metrics
    assert [row["model"] for row in rows] == [row["model"] for row in recorded]
    for row, other in zip(rows, recorded, strict=True):
        assert row["ndcg@10"] == pytest.approx(other["ndcg@10"])


def test_lists_are_in_its_order(home: Path) -> None:
    found = Recommender(home).recommend(["user 1"], k=8)
    bundle = Home(home).current()
    ranker = FieldRanker.of(bundle)
    assert ranker is not None and found["score"].is_sorted(descending=True)
    with Home(home).log() as log:
        row = log.catalog.rows(found["item_id"].to_list())
    flipped = Recommender(home, weights={"interact": -1.0}).recommend(["user 1"], k=8)
    assert flipped["item_id"].to_list() != found["item_id"].to_list()
    assert (row < ranker.num_rows).all()
    with pytest.raises(ValueError, match="no action 'lik': did you mean 'like'"):
        Recommender(home, weights={"lik": 1.0}).recommend(["user 1"])


def test_many_users_are_ranked_as_each_alone(home: Path) -> None:
    recommender = Recommender(home)
    users = [f"user {number}" for number in range(20)]
    together = recommender.recommend(users, k=3)
    alone = pl.concat([recommender.recommend([user], k=3) for user in users])
    assert together["item_id"].to_list() == alone["item_id"].to_list()


def test_a_server_ranks_and_a_click_is_in_the_next_order(home: Path, tmp_path: Path) -> None:
    shutil.copytree(home, tmp_path / "served")
    engine = open_home(tmp_path / "served", state_bytes=1 << 20)
    (stage,) = (s for s in engine.answers.pipeline.stages if isinstance(s, RankCandidates))
    assert isinstance(stage.ranker, FieldRanker)

    async def work():
        requests = [RecommendRequest(user_id=f"user {n}", n=5) for n in range(6)]
        crowd = await asyncio.gather(*(engine.answers.answer(r, Timing()) for r in requests))
        seen = RecommendRequest(user_id="user 1", n=5, exclude_seen=False)
        before = await engine.answers.answer(seen, Timing())
        click = Interaction(
            event_id="click",
            timestamp_ms=NOW_MS,
            item_id="c2-7",
            event="view",
            user_id="user 1",
        )
        await engine.writer.append([click])
        return crowd, before, await engine.answers.answer(seen, Timing())

    crowd, before, after = in_service(engine, work)
    alone = Recommender(home).recommend(["user 1"], k=5)
    with Home(home).log() as log:
        assert log.catalog.ids(crowd[1].found.rows_K.tolist()) == alone["item_id"].to_list()
    assert all(answer.degraded is None for answer in crowd)
    both = set(before.found.rows_K.tolist()) & set(after.found.rows_K.tolist())
    scores = [
        dict(zip(answer.found.rows_K.tolist(), answer.found.scores_K.tolist(), strict=True))
        for answer in (before, after)
    ]
    assert any(scores[0][row] != scores[1][row] for row in both) or not both


def test_a_broken_graph_costs_the_order_and_no_answer(home: Path, tmp_path: Path) -> None:
    shutil.copytree(home, tmp_path / "served")
    engine = open_home(tmp_path / "served", state_bytes=1 << 20)
    (stage,) = (s for s in engine.answers.pipeline.stages if isinstance(s, RankCandidates))

    def broken(asking, candidates_BK):
        raise RuntimeError("planted")

    stage.ranker.logits = broken  # type: ignore[method-assign]

    async def work():
        return await engine.answers.answer(RecommendRequest(user_id="user 1", n=5), Timing())

    answer = in_service(engine, work)
    assert answer.degraded == "ranker" and len(answer.found) == 5


def test_a_home_of_the_benchmark_has_the_fields_of_its_model(home: Path) -> None:
    bundle = Home(home).current()
    tables = {"inputs": {"table": np.ones((2, 2), np.float32)}, "ctr": bundle.tensors("ctr")}
    there = SimpleNamespace(
        manifest=bundle.manifest, digest="d", graph=bundle.graph, tensors=tables.get
    )
    origin = trained_origin(there)
    assert origin.ctr is not None and len(origin.ctr["items"]) == bundle.manifest.num_rows
    assert origin.ranker is None and set(origin.graphs) == {"ctr"}


def test_a_reader_has_the_same_ranker(home: Path) -> None:
    ranker = FieldRanker.of(Home(home).current())
    assert ranker is not None
    stage = RankCandidates(ranker, weights={"like": 2.0}).over(None)  # it reads no states
    assert stage.ranker is ranker and stage._weights_A.tolist() == [0.0, 2.0]


def test_a_damaged_description_is_refused(home: Path) -> None:
    bundle = Home(home).current()
    told, tensors = bundle.manifest.features["ctr"], bundle.tensors("ctr")
    graph = FieldsGraph(bundle.graph("ctr"))
    with pytest.raises(ValueError, match="damaged"):
        FieldRanker.from_told({**told, "fields": [{"name": "x"}]}, graph, tensors)
    with pytest.raises(ValueError, match="not that of the fields"):
        FieldRanker.from_told(told, graph, {"items": np.zeros((3, 9), np.int32)})


def test_the_newest_known_events_are_read(home: Path) -> None:
    ranker = FieldRanker.of(Home(home).current())
    assert ranker is not None
    rows = np.array([1, 2, *range(3, 33), 9_999], np.int32)
    histories = [History(rows, np.arange(len(rows))), no_history()]
    rows_BL, length_B = ranker._newest(histories)
    assert rows_BL[0].tolist() == list(range(13, 33)) and length_B.tolist() == [20, 0]


def test_examples_are_events_beside_items_at_random() -> None:
    users = np.repeat(np.arange(20), 6)
    rows = (1 + np.arange(120) % 11).astype(np.int32)
    values = np.where(np.arange(120) % 3 == 0, np.nan, np.arange(120) % 5).astype(np.float32)
    x = group_by_user(users, rows, np.arange(120) * 1000, values, num_rows=14)
    split = leave_one_out(x)
    found = fielded({"kind": ["", *"abcabcabcabcd"]}, split, seed=0)
    assert found.actions == ("interact", "like")
    drawn = found.draw(np.random.default_rng(0))
    assert drawn.rows_EK.shape == (len(split.train), 1 + NEGATIVES)
    assert drawn.rows_EK.max() <= 11  # what never happened in training is not drawn
    same = drawn.rows_EK[:, 1:] == drawn.rows_EK[:, :1]
    interact, like = drawn.labels_EKA[..., 0], drawn.labels_EKA[..., 1]
    assert (interact[:, 0] == 1).all()
    assert np.isnan(interact[:, 1:][same]).all() and (interact[:, 1:][~same] == 0).all()
    assert np.isnan(like[:, 1:]).all()
    np.testing.assert_array_equal(np.isnan(like[:, 0]), np.isnan(split.train.values_E))
    histories, lengths = drawn.past.newest(np.arange(len(drawn)), 5)
    assert (lengths < 4).all() and lengths[split.train.offsets_U1[:-1]].tolist() == [0] * 20
    assert histories[1, 0] == split.train.rows_E[0]
    assert found.validation is not None and len(found.validation) == len(split.validation)
    again = found.draw(np.random.default_rng(1))
    assert (again.rows_EK[:, 0] == drawn.rows_EK[:, 0]).all()
    assert not np.array_equal(again.rows_EK, drawn.rows_EK)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"ctr": "deepmf"}, "did you mean 'deepfm'"),
        ({"ctr": "deepfm", "ranker": True}, "not both"),
        ({"ctr": "deepfm", "refit": True}, "leave one of them out"),
    ],
)
def test_what_cannot_be_done_is_refused(wrong, message) -> None:
    with pytest.raises(ValueError, match=message):
        TrainOptions(**wrong)
