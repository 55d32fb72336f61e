"""The façade, end to end: what a first user does in Python and on the command line."""

from __future__ import annotations

import itertools
import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from ouzel import Recommender
from ouzel.cli import main
from ouzel.events.alone import alone
from ouzel.events.types import ItemUpdate
from ouzel.recommender.home import Home
from ouzel.recommender.index import Target, choose_index
from ouzel.recommender.options import Silent, TrainOptions
from ouzel.recommender.train import train_home
from ouzel.retrieval.types import Query
from tests.recommender.conftest import NUM_USERS, walks

SMALL = """
import sys
from ouzel.cli import main
from tests.recommender.conftest import small_preset
with small_preset():
    main(sys.argv[1:])
"""


def cli(*arguments: object, small: bool = False) -> subprocess.CompletedProcess[str]:
    program = ("-c", SMALL) if small else ("-m", "ouzel.cli")
    command = [sys.executable, *program, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)


@pytest.fixture
def home(trained: Path, tmp_path: Path) -> Path:
    return shutil.copytree(trained, tmp_path / "home")


def test_the_pattern_is_learned_and_beats_popularity(trained: Path) -> None:
    rows = {row["model"]: row for row in Recommender.load(trained).evaluate()}
    assert set(rows) == {"esasrec", "popular", "recent_popular", "vmis"}
    assert rows["esasrec"]["num_users"] == NUM_USERS
    assert rows["esasrec"]["ndcg@10"] > rows["popular"]["ndcg@10"] + 0.1


def test_recommendations_are_a_table_of_unseen_items(trained: Path) -> None:
    found = Recommender.load(trained).recommend(["user 1", "user 2"], k=5)
    assert found.columns == ["user_id", "item_id", "score", "rank", "source"]
    assert found["rank"].to_list() == [1, 2, 3, 4, 5] * 2
    assert set(found["source"]) == {"sequence"}
    seen = walks().filter(pl.col("user_id") == "user 1")["item_id"].to_list()
    ours = found.filter(pl.col("user_id") == "user 1")
    assert not set(ours["item_id"]) & set(seen)
    assert ours["score"].is_sorted(descending=True)


def test_seen_items_may_be_asked_for(trained: Path) -> None:
    seen = set(walks().filter(pl.col("user_id") == "user 1")["item_id"])
    everything = Recommender.load(trained).recommend(["user 1"], k=60, exclude_seen=False)
    assert len(everything) == 60 and seen <= set(everything["item_id"])


def test_an_unknown_user_gets_what_is_popular(trained: Path) -> None:
    found = Recommender.load(trained).recommend(["nobody"], k=4)
    assert found["source"].to_list() == ["popular"] * 4


def test_many_users_at_once_are_all_answered_by_the_model(trained: Path) -> None:
    recommender = Recommender.load(trained)
    answering = recommender._open()
    moments = itertools.count(step=3_600_000)  # every look at the clock is an hour later
    answering._pipeline._monotonic_ms = lambda: float(next(moments))
    users = [f"user {number % NUM_USERS}" for number in range(2000)]
    for _ in range(5):
        found = answering.recommend(users, Query(k=3, now_ms=0), exclude_seen=True)
        assert {one.names for one in found} == {("sequence",)}


def test_sources_are_united_in_python_as_over_http(trained: Path) -> None:
    recommender = Recommender.load(trained)
    found = recommender.recommend(["user 1"], k=20, sources={"vmis": 1, "popular": 0.1})
    assert set(found["source"]) == {"vmis", "popular"}
    plain = recommender.recommend(["user 1"], k=2)
    boosts = [{"items": [plain["item_id"][1]], "factor": 1e3}]
    boosted = recommender.recommend(["user 1"], k=2, boosts=boosts)
    assert boosted["item_id"].to_list() == plain["item_id"].to_list()[::-1]
    assert boosted["score"][0] == pytest.approx(plain["score"][1] + np.log(1e3), abs=1e-3)
    with pytest.raises(ValueError, match=r"source.*Gathering"):
        recommender.recommend(["user 1"], source={"vmis": 1})


def test_lists_are_arranged_in_python_as_over_http(trained: Path) -> None:
    recommender = Recommender.load(trained)
    plain = recommender.recommend(["user 1"], k=5)["item_id"].to_list()
    pins = [{"item_id": "c3-3", "position": 2}]
    assert recommender.recommend(["user 1"], k=5, pins=pins)["item_id"][1] == "c3-3"
    varied = recommender.recommend(["user 1"], k=5, diversity={"method": "dpp", "weight": 0.9})
    assert set(varied["item_id"]) != set(plain)
    drawn = recommender.recommend(["user 1"], k=5, explore={"temperature": 50, "seed": 1})
    assert drawn["item_id"].to_list() != plain
    assert drawn["propensity"].is_between(0, 1).all()
    twice = recommender.recommend(["user 1"] * 2, k=5, explore={"temperature": 50, "seed": 1})
    assert twice["item_id"][:5].to_list() != twice["item_id"][5:].to_list()  # drawn each by itself
    with pytest.raises(ValueError, match="no item has a field 'shop'"):
        recommender.recommend(["user 1"], caps={"shop": 1})


def test_own_items_are_ranked_in_python(trained: Path) -> None:
    recommender = Recommender.load(trained)
    best = recommender.recommend(["user 1"], k=60, exclude_seen=False)["item_id"].to_list()
    ranked = recommender.rank(["user 1", "nobody"], [*sorted(best), "unknown"])
    ours = ranked.filter(pl.col("user_id") == "user 1")
    assert ours["item_id"].to_list() == best
    assert set(ranked.filter(pl.col("user_id") == "nobody")["source"]) == {"popular"}
    assert len(recommender.rank(["user 1"], best, k=3)) == 3
    with pytest.raises(ValueError, match="1 to 1000"):
        recommender.rank(["user 1"], [])


def test_a_home_that_is_served_takes_no_import(home: Path) -> None:
    with alone(home), pytest.raises(ValueError, match="being served, trained or imported"):
        Recommender(home).fit(walks(10))
    with Home(home).log() as log:
        assert len(log.interactions()) == len(walks())


def test_a_home_that_is_trained_takes_no_second_training(home: Path) -> None:
    with alone(home), pytest.raises(ValueError, match="being served, trained or imported"):
        train_home(Home(home), TrainOptions(model="item_knn"), Silent())


def test_any_arrow_table_comes_back_out(trained: Path) -> None:
    found = Recommender.load(trained).recommend(["user 1"])
    assert hasattr(found, "__arrow_c_stream__")


@pytest.mark.parametrize("k", [0, 501])
def test_an_impossible_k_is_refused(trained: Path, k: int) -> None:
    with pytest.raises(ValueError, match="1 to 500"):
        Recommender.load(trained).recommend(["user 1"], k=k)


def test_saving_and_loading_gives_the_same_lists(trained: Path, tmp_path: Path) -> None:
    one = Recommender.load(trained)
    before = one.recommend(["user 5"])
    two = Recommender.load(one.save(tmp_path / "copy"))
    assert two.recommend(["user 5"])["item_id"].to_list() == before["item_id"].to_list()
    with pytest.raises(ValueError, match="not empty"):
        one.save(tmp_path / "copy")


def test_asking_before_fit_says_what_to_do() -> None:
    with pytest.raises(ValueError, match=r"there is no model yet: call fit\(events\) first"):
        Recommender().recommend(["u1"])


def test_loading_nothing_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="ouzel train"):
        Recommender.load(tmp_path)


def test_the_manifest_tells_where_the_model_comes_from(trained: Path) -> None:
    manifest = Home(trained).current().manifest
    assert manifest.model == "esasrec" and manifest.seed == 3
    assert manifest.data.num_users == NUM_USERS and manifest.data.num_events == len(walks())
    assert manifest.num_rows == 61
    assert set(manifest.graphs) == {"encode", "append", "query", "score", "item"}
    assert manifest.states.chosen == "int8"
    (rounded,) = (row for row in manifest.states.measured if row.precision == "int8")
    assert 0 < max(manifest.error_bounds.values()) < 1e-4 + rounded.vector_error
    assert manifest.index is not None and manifest.index.engine == "exact"
    assert manifest.index.recall == {"recall@10": 1.0, "recall@100": 1.0}
    assert {"python", "torch", "onnxruntime", "numpy"} <= set(manifest.versions)
    assert manifest.metrics[0]["model"] == "esasrec"


def test_the_output_side_of_the_item_table_is_a_file_of_its_own(trained: Path) -> None:
    bundle = Home(trained).current()
    assert {"inputs.safetensors", "items.safetensors"} <= bundle.manifest.files.keys()
    assert "items.weight" not in bundle.tensors("weights")


def test_evaluation_refuses_a_log_that_lost_events(home: Path) -> None:
    import sqlite3

    with sqlite3.connect(home / "events.db") as connection:
        connection.execute("DELETE FROM events WHERE offset = 40")
    connection.close()
    found = cli("evaluate", home)
    assert found.returncode == 1 and "train again" in found.stderr


@pytest.mark.usefixtures("small")
def test_refit_serves_all_data_and_still_measures_what_was_left_out(tmp_path: Path) -> None:
    home = Home(tmp_path / "home")
    recommender = Recommender(home.root).fit(
        walks(40),
        split="leave-one-out",
        refit=True,
        blend=False,
        minutes=0.01,
        state_precision="fp32",
    )
    served, measured = home.current(), home.measured()
    assert served.manifest.features["refit"] and not measured.manifest.features["refit"]
    assert served.manifest.parent == measured.digest
    assert recommender.evaluate()[0]["model"] == "esasrec"


def test_the_command_line_from_file_to_list(tmp_path: Path) -> None:
    data, home = tmp_path / "events.csv", tmp_path / "home"
    walks(40).write_csv(data)
    # Whether a blend of what was trained for a second is better is a matter of chance.
    options = ("--minutes", "0.02", "--no-blend", "--json", "-")
    trained = cli("train", "--data", data, "--out", home, *options, small=True)
    assert trained.returncode == 0, trained.stderr
    result = json.loads(trained.stdout)
    assert result["rows"][0]["model"] == "esasrec"
    assert {"version", "best_epoch", "training_seconds"} <= result.keys()
    evaluated = cli("evaluate", home, "--json", "-")
    assert [row["model"] for row in json.loads(evaluated.stdout)] == [
        "esasrec", "popular", "recent_popular", "vmis",
    ]  # fmt: skip
    keys = {"model", "split", "recall@10", "ndcg@10", "coverage@10", "num_users"}
    assert keys <= json.loads(evaluated.stdout)[0].keys()
    listed = cli("recommend", home, "--user", "user 3", "--k", 4, "--json", "-")
    assert [row["rank"] for row in json.loads(listed.stdout)] == [1, 2, 3, 4]


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("train", "--data", "missing.csv", "--out", "home"), 1, "missing.csv"),
        (("train", "--data", "x.csv", "--out", "home", "--model", "esasrek"), 1, "esasrec"),
        (("train", "--data", "x.csv", "--out", "home", "--preset", "XS"), 1, "preset"),
        (("train", "--data", "x.csv", "--out", "home", "--minutes", "0"), 1, "minutes"),
        (("train", "--out", "home"), 2, "--data"),
        (("evaluate", "no-home"), 1, "ouzel train"),
        (("recommend", "no-home", "--user", "1"), 1, "ouzel train"),
        (("train", "--data", "x.csv", "--out", "home", "--map", "user_id"), 1, "NAME=COLUMN"),
    ],
)
def test_bad_calls_get_one_line_and_a_code(
    arguments: tuple[str, ...], code: int, message: str, tmp_path: Path, monkeypatch, capsys
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "x.csv").write_text("whoever reads this complains of it")
    with pytest.raises(SystemExit) as leaving:
        main(list(arguments))
    assert leaving.value.code == code
    told = capsys.readouterr().err
    assert message in told and "Traceback" not in told


@pytest.mark.parametrize(
    "wrong",
    [{"model": "bert"}, {"preset": "XS"}, {"split": "random"}, {"minutes": -1}],
)
def test_options_are_checked_before_anything_happens(wrong: dict) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        TrainOptions(**wrong)


@pytest.mark.filterwarnings("default::UserWarning")  # that is how it says so
@pytest.mark.parametrize(
    "frame",
    [
        pytest.param(pl.DataFrame({"user_id": ["a"], "item_id": ["x"]}), id="one event"),
        pytest.param(
            pl.DataFrame({"user_id": ["a", "b"] * 5, "item_id": ["x"] * 10}), id="one item"
        ),
        pytest.param(
            pl.DataFrame({"user_id": list("abcdefgh"), "item_id": list("ijklmnop")}),
            id="histories of one",
        ),
    ],
)
@pytest.mark.filterwarnings("ignore::UserWarning")  # What is said: test_bad_data.py
def test_data_with_nothing_to_learn_says_so_or_copes(frame: pl.DataFrame, tmp_path: Path) -> None:
    recommender = Recommender(tmp_path)
    try:
        recommender.fit(frame, minutes=0.01)
    except ValueError as error:
        assert any(word in str(error) for word in ("add", "give", "need"))
    else:
        assert len(recommender.recommend(["a"], k=2)) <= 2


def test_cleaning_is_told_and_takes_away_what_it_says() -> None:
    from ouzel.data.read import from_arrow
    from ouzel.recommender.options import Silent
    from ouzel.recommender.train import cleaned

    told = []

    class Telling(Silent):
        def say(self, text: str) -> None:
            told.append(text)

    rows = [("a", "x", 5.0, 1), ("a", "y", 1.0, 2), ("b", "x", 4.0, 1), ("b", "z", None, 2)]
    schema = ["user_id", "item_id", "value", "timestamp"]
    frame = pl.DataFrame(rows, schema=schema, orient="row")
    dataset = from_arrow(frame)
    kept = cleaned(dataset, TrainOptions(min_value=4), Telling()).frame
    assert kept["item_id"].to_list() == ["x", "x", "z"]
    assert told == ["Cleaning leaves 3 of 4 events"]
    with pytest.raises(ValueError, match="lower the thresholds"):
        cleaned(dataset, TrainOptions(k_core=3), Silent())
    rated = from_arrow(frame.head(3))
    with pytest.raises(ValueError, match="lower it"):
        cleaned(rated, TrainOptions(min_value=9), Silent())


@pytest.mark.parametrize("user_ids", ["u1", [1, 2]])
def test_ids_that_are_no_list_of_texts_are_refused(trained: Path, user_ids) -> None:
    with pytest.raises(ValueError, match="list of texts"):
        Recommender.load(trained).recommend(user_ids)


def test_similar_items_are_those_of_the_nearest_vectors(trained):
    recommender = Recommender.load(trained)
    catalog = recommender._open().log.catalog
    row = 5
    found = recommender.similar([catalog.id(row), "nobody knows"], k=4)
    assert found.columns == ["item_id", "similar_item_id", "score", "rank", "source"]
    like, unknown = found.partition_by("item_id", maintain_order=True)
    assert like["source"].to_list() == ["similar"] * 4 and like["rank"].to_list() == [1, 2, 3, 4]
    assert unknown["source"].to_list() == ["popular"] * 4
    vectors = recommender.home.current().tensors("items")["vectors"]
    scores = vectors @ vectors[row]
    scores[[0, row]] = -np.inf
    best = catalog.ids(np.argsort(-scores, kind="stable")[:4].tolist())
    assert like["similar_item_id"].to_list() == best


def test_what_is_not_available_is_in_no_list(trained, tmp_path):
    home = Recommender.load(trained).save(tmp_path / "home")
    before = Recommender.load(home).recommend(["user 1"], k=3)["item_id"].to_list()
    hiding = ItemUpdate(
        event_id="h", timestamp_ms=1, item_id=before[0], columns={"available": "false"}
    )
    with Home(home).log() as log:
        log.append([hiding])
    recommender = Recommender.load(home)
    assert recommender.recommend(["user 1"], k=2)["item_id"].to_list() == before[1:]
    assert before[0] not in recommender.similar([before[1]], k=50)["similar_item_id"].to_list()


def test_a_filter_says_what_may_be_shown(home: Path) -> None:
    with Home(home).log() as log:
        ids = log.catalog.ids(range(1, 9))
        log.append(
            [
                ItemUpdate(
                    event_id=f"p-{item_id}",
                    timestamp_ms=1,
                    item_id=item_id,
                    columns={"price": str(price)},
                )
                for price, item_id in enumerate(ids)
            ]
        )
    recommender = Recommender.load(home)
    cheap = recommender.recommend(["nobody", "user 1"], k=5, filter="price < 3")
    assert set(cheap["item_id"]) <= set(ids[:3])
    like = recommender.similar([ids[0]], filter="price in [5, 6]")
    assert set(like["similar_item_id"]) == set(ids[5:7])
    with pytest.raises(ValueError, match="did you mean price"):
        recommender.recommend(["user 1"], filter="prise < 3")
    shown = cli("recommend", home, "--user", "nobody", "--filter", "price < 2", "--json", "-")
    assert {row["item_id"] for row in json.loads(shown.stdout)} == set(ids[:2])
    assert cli("recommend", home, "--user", "x", "--filter", "price <").returncode == 1


@pytest.mark.parametrize("wrong", [{"k": 2.5}, {"k": "5"}, {"k": 0}, {"filter": 5}])
def test_what_is_no_setting_is_refused_with_its_name(trained: Path, wrong: dict) -> None:
    recommender = Recommender.load(trained)
    (name,) = wrong
    for ask in (recommender.recommend, recommender.similar):
        with pytest.raises(ValueError, match=f"{name} is"):
            ask(["user 1"], **wrong)
        with pytest.raises(ValueError, match="ids is None"):
            ask(None)


def test_a_model_is_named_when_the_recommender_is_made(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="there is no model 'eese': did you mean 'ease'"):
        Recommender(model="eese")
    recommender = Recommender(tmp_path / "home", model="item_knn")
    recommender.fit(walks(), settings={"keep": 5}, refit=True, blend=False)
    manifest = Home(tmp_path / "home").current().manifest
    assert (manifest.model, manifest.kind, manifest.config["keep"]) == (
        "item_knn",
        "closed_form",
        5,
    )
    assert manifest.features["refit"] and manifest.parent is not None
    assert recommender.recommend(["user 1"], k=3)["source"][0] == "sequence"
    assert recommender.evaluate()[0]["model"] == "item_knn"
    with pytest.raises(ValueError, match="no index to choose"):
        choose_index(Home(tmp_path / "home"), Target(0.9, 50), print)
    with pytest.raises(ValueError, match="this model has no ranker"):
        Recommender.load(tmp_path / "home", weights={"like": 1.0})


def test_the_index_of_a_factor_model_is_chosen_with_its_own_users(tmp_path: Path) -> None:
    home = Home(tmp_path / "home")
    Recommender(home.root, model="ials").fit(walks(), settings={"dim": 8})
    assert home.current().manifest.index is not None
    rows, chosen = choose_index(home, Target(0.9, 1e6), lambda words: None)
    assert chosen is not None and rows
    assert Recommender.load(home.root).recommend(["user 1"], k=3)["source"][0] == "sequence"
