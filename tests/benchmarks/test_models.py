"""The table of models is what the code and the results say today."""

from __future__ import annotations

import json
from pathlib import Path

from benchmarks import models

PAGE = Path(models.ROOT, "docs", "models.md")


def test_the_page_is_up_to_date():
    assert PAGE.read_text() == models.page(), "run `python benchmarks/models.py`"


def test_of_ratings_the_mean_over_folds_is_told(tmp_path, monkeypatch):
    monkeypatch.setattr(models, "ROOT", tmp_path)
    folder = tmp_path / "benchmarks/results/accuracy"
    folder.mkdir(parents=True)
    row = {"model": "svd", "case": "shop", "split": "5-fold", "rmse": 0.9, "mae": 0.7}
    row |= {"settings": {"dim": "8"}, "seconds": 2.4}
    means = {**row, "folds": 5, "rmse": 0.91, "seeds": [0]}
    baseline = {**row, "model": "damped_means", "folds": 5, "split": "given"}
    del baseline["seconds"], baseline["settings"]
    rows = [{**row, "fold": 1}, means, baseline]
    (folder / "shop.json").write_text(json.dumps({"rows": rows}))
    assert list(models.ratings()) == [
        ("shop", "5", "`svd`", "dim=8", "0.9100", "0.7000", "2", "shop.json"),
        ("shop", "5, given", "`damped_means`", "", "0.9000", "0.7000", "-", "shop.json"),
    ]
    assert not list(models.accuracies()) and "| `svd` | dim=8 | 0.9100 |" in models.page()


def test_of_several_seeds_the_mean_is_told(tmp_path, monkeypatch):
    monkeypatch.setattr(models, "ROOT", tmp_path)
    folder = tmp_path / "benchmarks/results/accuracy"
    folder.mkdir(parents=True)
    row = {"model": "ease", "case": "shop", "split": "leave-one-out", "seconds": 2.0}
    row |= {"recall@10": 0.2, "ndcg@10": 0.1, "coverage@10": 0.5}
    other = {**row, "model": "ials", "settings": {"dim": "8"}}
    given = {**row, "model": "item_knn", "split": "given"}
    popular = {**row, "model": "popular"}
    of_one = [{**row, "seed": seed} for seed in (0, 1)]
    ranked = {**row, "model": "ease + ranker", "seed": 5}  # not one of those
    rows = [*of_one, {**row, "ndcg@10": 0.3, "seeds": [0, 1]}, ranked, other, given, popular]
    (folder / "shop.json").write_text(json.dumps({"rows": rows}))
    assert list(models.accuracies()) == [
        ("shop", "leave-one-out", "`ease`", "", "0.2000", "0.3000", "0.5000", "2", "shop.json"),
        (
            "shop",
            "leave-one-out",
            "`ease + ranker`",
            "",
            "0.2000",
            "0.1000",
            "0.5000",
            "2",
            "shop.json",
        ),
        (
            "shop",
            "leave-one-out",
            "`ials`",
            "dim=8",
            "0.2000",
            "0.1000",
            "0.5000",
            "2",
            "shop.json",
        ),
    ]


def test_models_of_fields_are_told_by_auc(tmp_path, monkeypatch):
    monkeypatch.setattr(models, "ROOT", tmp_path)
    folder = tmp_path / "benchmarks/results/accuracy"
    folder.mkdir(parents=True)
    row = {"model": "mlp", "case": "shop", "split": "random", "seconds": 20.4, "epochs": 3}
    row |= {"auc": 0.8, "logloss": 0.4, "settings": {}}
    other = {**row, "model": "din", "auc": 0.9, "settings": {"without": "user"}}
    (folder / "shop.json").write_text(json.dumps({"rows": [row, other]}))
    assert list(models.likes()) == [
        ("shop", "`din`", "without=user", "0.9000", "0.4000", "3", "20", "shop.json"),
        ("shop", "`mlp`", "", "0.8000", "0.4000", "3", "20", "shop.json"),
    ]
    assert list(models.accuracies()) == []
