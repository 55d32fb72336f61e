"""A blend is learned, judged, written, served and measured as one thing, or left out."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from ouzel import Recommender
from ouzel.data.split import leave_one_out
from ouzel.evaluation.baselines import vmis_scorer
from ouzel.evaluation.blended import blended_scorer, parts_with, unions_of
from ouzel.evaluation.protocol import evaluate
from ouzel.events.interactions import History, from_histories
from ouzel.ranking.blending import BLENDED, Blender
from ouzel.recommender.blend import learned_blend
from ouzel.recommender.evaluate import ITEM_FILES, history_scorer
from ouzel.recommender.home import Home
from ouzel.recommender.options import Silent, TrainOptions
from ouzel.retrieval.vmis import VMISkNN
from tests.recommender.conftest import walks

NUM_ROWS = 31
SMALL = {"dim": 8, "epochs": 3}


class Told(Silent):
    def __init__(self) -> None:
        self.texts: list[str] = []

    def say(self, text: str) -> None:
        self.texts.append(text)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("blend") / "home"
    options = {"split": "leave-one-out", "settings": SMALL}
    Recommender(home, model="ials").fit(walks(), **options)
    return home


@pytest.fixture
def home(made: Path, tmp_path: Path) -> Home:
    return Home(shutil.copytree(made, tmp_path / "home"))


def split_of_walks() -> object:
    """Return users who go round circles of ten, from anywhere."""
    visits = [
        History((1 + 10 * (user % 3) + (user + np.arange(6)) % 10).astype(np.int32), np.arange(6))
        for user in range(60)
    ]
    return leave_one_out(from_histories(visits, num_rows=NUM_ROWS))


def constant(histories: list[History], now_ms: np.ndarray) -> np.ndarray:
    return np.tile(np.arange(NUM_ROWS, dtype=np.float32), (len(histories), 1))


def test_a_blend_leans_on_the_source_that_knows() -> None:
    told, split = Told(), split_of_walks()
    blender = learned_blend(constant, split, seed=0, progress=told)
    assert blender is not None and told.texts[-1].startswith("The blend is better and is served")
    both = blended_scorer(parts_with(constant, split.train), blender)
    found = {
        name: evaluate(scorer, split.full, split.test, model=name).row()["ndcg@10"]
        for name, scorer in (("both", both), ("alone", constant))
    }
    assert found["both"] > found["alone"] + 0.2


def test_a_blend_that_is_no_better_is_left_out_and_it_is_said() -> None:
    split, told = split_of_walks(), Told()

    def oracle(histories: list[History], now_ms: np.ndarray) -> np.ndarray:
        scores_BN = constant(histories, now_ms).copy()
        for line, history in enumerate(histories):
            after = 1 + 10 * ((history.rows[-1] - 1) // 10) + (history.rows[-1] - 1 + 1) % 10
            scores_BN[line, after] = 99
        return scores_BN

    assert learned_blend(oracle, split, seed=0, progress=told) is None
    assert "not better and is left out: NDCG@10" in told.texts[-1]


def test_a_list_that_all_share_is_that_of_each() -> None:
    """What is popular is sorted once and not for every history: with the same outcome."""
    rng = np.random.default_rng(0)
    scores = rng.integers(-3, 9, 400).astype(np.float32)
    scores[scores < 0] = -np.inf
    histories = [
        History(rng.integers(1, 400, length).astype(np.int32), np.arange(length))
        for length in (1, 7, 150, 1500)
    ]
    shared = np.broadcast_to(scores, (len(histories), len(scores)))
    once, each = (list(unions_of([array], histories)) for array in (shared, shared.copy()))
    for ours, theirs in zip(once, each, strict=True):
        for array, other in zip(ours, theirs, strict=True):
            np.testing.assert_array_equal(array, other)
    assert len(once[0][0]) == 100 > len(once[-1][0])


def test_a_blend_that_hardly_gains_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """Four lists cost more than one in every answer: the constant is beaten, but not by so much."""
    split, told = split_of_walks(), Told()
    monkeypatch.setattr("ouzel.recommender.blend.WORTHWHILE", 1e9)
    assert learned_blend(constant, split, seed=0, progress=told) is None
    assert "not better and is left out: NDCG@10" in told.texts[-1]


def test_without_a_validation_part_it_is_said_that_there_is_nothing_to_learn_from() -> None:
    told = Told()
    split = leave_one_out(from_histories([History(np.array([1]), np.arange(1))], num_rows=3))
    assert learned_blend(constant, split, seed=0, progress=told) is None
    assert told.texts == [
        "Nothing to learn a blend from: no user has events in the validation part"
    ]


def test_the_rows_are_the_whole_then_its_parts(home: Home) -> None:
    bundle = home.current()
    rows = bundle.manifest.metrics
    names = [row["model"] for row in rows]
    assert names[:3] == ["ials + blend", "ials", "ials + fusion"]
    assert set(names[3:]) == {"popular", "recent_popular", "vmis"}
    assert rows[0]["ndcg@10"] > rows[1]["ndcg@10"]
    assert Recommender.load(home.root).evaluate() == rows


def test_what_is_served_is_what_was_measured(home: Home) -> None:
    bundle, recommender = home.current(), Recommender.load(home.root)
    tensors = {name: bundle.tensors(name) for name in ITEM_FILES["encoder"]}
    popular = bundle.tensors("popular")
    parts = dict(
        zip(
            BLENDED,
            (
                history_scorer("encoder", tensors),
                vmis_scorer(VMISkNN.from_tensors(bundle.tensors("vmis"))),
                lambda histories, now_ms: popular["scores"][None],
                lambda histories, now_ms: popular["recent"][None],
            ),
            strict=True,
        )
    )
    scorer = blended_scorer(parts, Blender.from_manifest(bundle.manifest.features["blend"]))
    with home.log() as log:
        for user in ("user 1", "user 6"):
            history = log.history(log.user_row(user))
            scores = scorer([history], np.array([0]))[0]
            scores[[0, *history.rows]] = -np.inf
            best = np.argsort(-scores, kind="stable")[:8]
            found = recommender.recommend([user], k=8)
            assert found["item_id"].to_list() == log.catalog.ids(best.tolist())
            np.testing.assert_allclose(found["score"].to_list(), scores[best], rtol=1e-4)
    assert set(recommender.recommend(["nobody"], k=3)["source"]) == {"popular"}


def test_a_refit_keeps_the_blend_and_training_without_one_has_none(tmp_path: Path) -> None:
    options = {"split": "leave-one-out", "settings": SMALL}
    refitted = Recommender(tmp_path / "refit", model="ials")
    refitted.fit(walks(), **options, blend=True, refit=True)
    features = Home(tmp_path / "refit").current().manifest.features
    assert features["refit"] and Blender.from_manifest(features["blend"])
    Recommender(tmp_path / "plain", model="ials").fit(walks(), **options, blend=False)
    assert "blend" not in Home(tmp_path / "plain").current().manifest.features


@pytest.mark.parametrize(
    ("wrong", "told"),
    [({"ranker": True}, "leave blend or ranker out"), ({"split": "none"}, "take another split")],
)
def test_what_a_blend_cannot_be_is_refused(wrong: dict, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        TrainOptions(blend=True, **wrong)
