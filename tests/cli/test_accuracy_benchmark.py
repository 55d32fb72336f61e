"""The benchmark of accuracy: each model and seed is trained on the same events, and has its row."""

from __future__ import annotations

import json

import pytest

from ouzel.cli import main
from ouzel.cli.benchmarking import answering
from ouzel.recommender import given_split, train
from ouzel.training.fit import FitResult

METRICS = ("recall@10", "mrr@10", "hit_rate@10", "coverage@10")


@pytest.fixture
def trained(monkeypatch):
    """Return what was trained: (options, events in the log); a seed decides the figures."""
    asked = []

    def train_home(home, options, progress):
        with home.log() as log:
            asked.append((options, len(log.interactions(until_offset=log.last_offset()))))
        found = 0.1 * (1 + options.seed)
        row = {"model": options.model, "split": options.split, "ndcg@10": found}
        row |= {"ndcg@10_low": found, "ndcg@10_high": found} | dict.fromkeys(METRICS, found)
        result = FitResult(epochs=3, best_epoch=2, best_score=0.0, seconds=1.5)
        baseline = {**row, "model": "popular", "ndcg@10": 0.05}
        home.training.mkdir(exist_ok=True)
        epochs = [{"epoch": 1, "loss": 2.0}, {"epoch": 2, "loss": 1.0, "ndcg@10": found}]
        (home.training / "metrics.jsonl").write_text("\n".join(map(json.dumps, epochs)))
        return train.Trained(bundle=None, rows=[row, baseline], result=result)

    monkeypatch.setattr(train, "train_home", train_home)
    costs = {"click_to_list_ms": 2.0, "state_bytes": 9}
    monkeypatch.setattr(answering, "answer_costs", lambda home, seed: costs)
    return asked


@pytest.fixture
def events(tmp_path):
    path = tmp_path / "clicks.csv"
    lines = [f"u{n % 3},i{n % 4},click,{n}" for n in range(12)]
    path.write_text("\n".join(["user_id,item_id,event,timestamp", *lines]))
    return path


def rows_of(*words, tmp_path):
    file = tmp_path / "result.json"
    with pytest.raises(SystemExit) as leaving:
        main(["benchmark", "accuracy", *map(str, words), "--json", str(file)])
    assert leaving.value.code == 0
    return json.loads(file.read_text())["rows"]


def test_every_seed_has_a_row_then_their_mean_then_the_baselines(trained, events, tmp_path):
    rows = rows_of("--data", events, "--seeds", "0,2", tmp_path=tmp_path)
    assert [(row["system"], row.get("seed")) for row in rows] == [
        ("esasrec", 0),
        ("esasrec", 2),
        ("esasrec", None),
        ("popular", None),
    ]
    assert rows[2]["ndcg@10"] == pytest.approx(0.2) and rows[2]["seeds"] == [0, 2]
    assert rows[2]["ndcg@10_sd"] == pytest.approx(0.2 / 2**0.5)
    assert rows[1]["curve"] == [[2, pytest.approx(0.3)]]
    assert [row.get("state_bytes") for row in rows] == [9, 9, 9, None]
    assert rows[2]["click_to_list_ms"] == 2.0
    assert {row["case"] for row in rows} == {"clicks"}
    assert [rows[0][name] for name in ("epochs", "best_epoch", "seconds")] == [3, 2, 1.5]
    assert [(options.seed, events) for options, events in trained] == [(0, 12), (2, 12)]


def test_all_trainings_are_told_the_same(trained, events, tmp_path):
    words = ("--split", "temporal", "--minutes", "3", "--case", "shop", "--preset", "M")
    (row, _) = rows_of("--data", events, *words, tmp_path=tmp_path)
    ((options, _),) = trained
    assert (options.split, options.minutes, options.preset) == ("temporal", 3, "M")
    assert (row["case"], row["preset"]) == ("shop", "M")


def test_settings_are_those_of_one_model(trained, events, tmp_path, capsys):
    rows = rows_of("--data", events, "--set", "dim=32", "--set", "loss=gbce", tmp_path=tmp_path)
    assert rows[0]["settings"] == {"dim": "32", "loss": "gbce"}
    assert trained[0][0].checked_settings == {"dim": 32}
    words = ["--data", str(events), "--models", "ease,esasrec", "--set", "dim=32"]
    with pytest.raises(SystemExit) as leaving:
        main(["benchmark", "accuracy", *words])
    assert leaving.value.code == 1
    assert "--set is for one model" in capsys.readouterr().err


def test_the_table_shows_the_interval_and_the_mean(trained, events, capsys):
    with pytest.raises(SystemExit):
        main(["benchmark", "accuracy", "--data", str(events), "--seeds", "0,1"])
    shown = capsys.readouterr().out
    assert "0.1000 .. 0.1000" in shown and "mean of 2" in shown


@pytest.mark.parametrize("seeds", ["", "one", "-1", "0,0"])
def test_seeds_that_are_none_are_refused(seeds, events, capsys):
    with pytest.raises(SystemExit) as leaving:
        main(["benchmark", "accuracy", "--data", str(events), f"--seeds={seeds}"])
    assert leaving.value.code == 1
    assert "give different numbers from 0 on" in capsys.readouterr().err


def test_a_model_that_is_none_is_told_before_anything_is_trained(trained, events, capsys):
    words = ["benchmark", "accuracy", "--data", str(events), "--models", "esasrec,esasrek"]
    with pytest.raises(SystemExit) as leaving:
        main(words)
    assert leaving.value.code == 1
    assert "did you mean 'esasrec'?" in capsys.readouterr().err
    assert not trained


def test_with_a_test_file_models_learn_from_all_and_its_figures_are_told(
    trained, events, tmp_path, monkeypatch
):
    told = [{"model": "served", "split": "given", "recall@20": 0.4}, {"model": "popular"}]

    class Given:
        def __init__(self, home, dataset):
            self.events = len(dataset.frame)

        def rows(self, progress, *, threads):
            return [{**row, "events": self.events} for row in told]

    monkeypatch.setattr(given_split, "GivenTest", Given)
    held_out = tmp_path / "held_out.csv"
    held_out.write_text("user_id,item_id\nu1,i1\nu2,i2\n")
    words = ("--data", events, "--test", held_out, "--models", "ials,ease")
    rows = rows_of(*words, tmp_path=tmp_path)
    assert [(row["model"], row["events"]) for row in rows] == [
        ("served", 2),
        ("served", 2),
        ("popular", 2),
    ]
    told_to = [(options.model, options.split, options.refit) for options, _ in trained]
    assert told_to == [("ials", "leave-one-out", True), ("ease", "leave-one-out", True)]
    trained.clear()
    rows_of(*words, "--no-blend", tmp_path=tmp_path)  # nothing is to be learned on validation
    told_to = [(options.model, options.split, options.refit) for options, _ in trained]
    assert told_to == [("ials", "leave-one-out", True), ("ease", "none", False)]
    trained.clear()
    rows_of(*words[:4], "--models", "ials", "--split", "none", tmp_path=tmp_path)
    assert [(options.split, options.refit) for options, _ in trained] == [("none", False)]
