"""The benchmark of likes: a row for each model and seed, their mean, and its refusals."""

from __future__ import annotations

import json

import pytest

from ouzel.cli import main
from ouzel.recommender import rated


@pytest.fixture
def events(tmp_path):
    path = tmp_path / "ratings.csv"
    lines = [f"u{n % 3},i{n % 4},rate,{n},{1 + n % 5}" for n in range(60)]
    path.write_text("\n".join(["user_id,item_id,event,timestamp,value", *lines]))
    return path


def run(*words):
    with pytest.raises(SystemExit) as leaving:
        main(["benchmark", "accuracy", *map(str, words)])
    return leaving.value.code


def test_every_seed_has_a_row_then_their_mean(events, tmp_path, monkeypatch) -> None:
    asked = []

    def fit_rated(model, data, *, settings, seed, minutes, progress):
        asked.append((model, settings, seed, minutes, len(data.train)))
        row = {"model": model, "split": "random", "auc": 0.8 + seed / 10, "logloss": 0.4}
        return {**row, "seed": seed, "settings": settings, "seconds": 1.0}

    monkeypatch.setattr(rated, "fit_rated", fit_rated)
    file = tmp_path / "result.json"
    words = ("--split", "random", "--models", "deepfm", "--seeds", "0,1", "--minutes", "2")
    assert (
        run("--data", events, *words, "--set", "l2=0.1", "--set", "without=user", "--json", file)
        == 0
    )
    rows = json.loads(file.read_text())["rows"]
    assert [(row["system"], row.get("seed"), row["case"]) for row in rows] == [
        ("deepfm", 0, "ratings"),
        ("deepfm", 1, "ratings"),
        ("deepfm", None, "ratings"),
    ]
    assert rows[2]["auc"] == pytest.approx(0.85) and rows[2]["seeds"] == [0, 1]
    assert {tuple(row["settings"].items()) for row in rows} == {
        (("l2", "0.1"), ("without", "user"))
    }
    assert rows[2]["fields"] == ["hour", "weekday", "item"]
    assert asked == [("deepfm", {"l2": "0.1"}, seed, 2, 38) for seed in (0, 1)]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--split", "random", "--models", "deepmf"), "did you mean 'deepfm'"),
        (("--models", "deepfm"), "it orders what a model has found"),
    ],
)
def test_what_cannot_be_measured_is_refused(events, capsys, words, message) -> None:
    assert run("--data", events, *words) == 1
    assert message in capsys.readouterr().err
