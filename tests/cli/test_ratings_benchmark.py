"""The benchmark of ratings: a row for each fold, their mean, and the baseline beside them."""

from __future__ import annotations

import json

import numpy as np
import pytest

from ouzel.cli import main


def run(*words: object) -> int:
    with pytest.raises(SystemExit) as leaving:
        main(["benchmark", "accuracy", *map(str, words)])
    return int(leaving.value.code or 0)


@pytest.fixture
def ratings(tmp_path):
    """Return a file of users who rate their own half of the items 5 and the other 1."""
    rng = np.random.default_rng(0)
    lines = ["user_id,item_id,timestamp,value"]
    for user in range(30):
        for item in rng.permutation(10)[:7]:
            lines.append(f"u{user},i{item},{len(lines)},{5 if item % 2 == user % 2 else 1}")
    path = tmp_path / "stars.csv"
    path.write_text("\n".join(lines))
    return path


SMALL = ("--set", "dim=2", "--set", "epochs=20", "--set", "samples=4")


def test_each_fold_has_a_row_then_their_mean_then_the_baseline(ratings, tmp_path) -> None:
    file = tmp_path / "result.json"
    words = ("--models", "svd", "--split", "3-fold", "--seeds", "0,1", *SMALL, "--json", file)
    assert run("--data", ratings, *words) == 0
    rows = json.loads(file.read_text())["rows"]
    assert [(row.get("seed"), row.get("fold")) for row in rows[:6]] == [
        (seed, fold) for seed in (0, 1) for fold in (1, 2, 3)
    ]
    mean, baseline = rows[6:]
    assert mean["rmse"] == pytest.approx(np.mean([row["rmse"] for row in rows[:6]]))
    assert (mean["seeds"], mean["folds"], mean["epochs"]) == ([0, 1], 3, 20)
    assert mean["settings"] == {"dim": "2", "epochs": "20", "samples": "4"}
    assert {row["split"] for row in rows} == {"3-fold"} and {row["case"] for row in rows} == {
        "stars"
    }
    assert sum(row["num_ratings"] for row in rows[:3]) == 210
    assert baseline["system"] == "damped_means" and mean["rmse"] < 0.5 < baseline["rmse"]
    assert all(row["mae"] <= row["rmse"] and row["seconds"] >= 0 for row in rows[:6])


def test_given_folds_are_taken_as_they_are(tmp_path, capsys) -> None:
    lines = [f"{u}\t{i}\t{1 + (u + i) % 5}\t{u * 9 + i}\n" for u in range(6) for i in range(5)]
    for fold in (1, 2):
        (tmp_path / f"u{fold}.base").write_text("".join(lines[fold:]))
        (tmp_path / f"u{fold}.test").write_text("".join(lines[:fold]))
    words = ("--models", "svdpp", "--split", "given", *SMALL)
    assert run("--data", tmp_path, *words) == 0
    shown = capsys.readouterr().out
    assert "rmse" in shown and "given" in shown and "damped_means" in shown


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--models", "svd,ials"], "ials predicts no ratings: take one of svd, svdpp"),
        (["--models", "svd", "--split", "1-fold"], "cannot make 1 folds"),
        (["--models", "svd", "--split", "given"], "has no folds: put u1.base"),
        (["--models", "svd", "--set", "dims=2"], "did you mean 'dim'?"),
    ],
)
def test_what_cannot_be_measured_is_told(words, told, ratings, capsys) -> None:
    split = [] if "--split" in words else ["--split", "5-fold"]
    assert run("--data", ratings, *words, *split) == 1
    assert told in capsys.readouterr().err


def test_events_without_values_are_told(tmp_path, capsys) -> None:
    path = tmp_path / "clicks.csv"
    path.write_text("user_id,item_id,timestamp\n" + "".join(f"u{n},i{n},{n}\n" for n in range(9)))
    assert run("--data", path, "--models", "svd", "--split", "5-fold") == 1
    assert "0 events with a value cannot make 5 folds" in capsys.readouterr().err
    home = tmp_path / "home"
    with pytest.raises(SystemExit):
        main(["train", "--data", str(path), "--out", str(home), "--model", "svd"])
    assert "none of 7 events has a value: add a column `value`" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("split", "given"),
    [("random", ["--test", "x.csv"]), ("random", ["--blend"]), ("5-fold", ["--blend"])],
)
def test_what_ranks_nothing_takes_no_option_of_lists(split, given, capsys) -> None:
    told = ["benchmark", "accuracy", "--data", "x.csv", "--split", split, *given]
    with pytest.raises(SystemExit) as ended:
        main(told)
    assert ended.value.code == 1
    assert f"--split {split} ranks nothing: leave {given[0]} out" in capsys.readouterr().err
