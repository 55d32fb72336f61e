"""The accuracy of a trained home as a result file: its model beside every baseline.

ouzel train --data PATH --out HOME --preset S --split leave-one-out
ouzel train --data PATH --out HOME --model ease --split leave-one-out
python benchmarks/accuracy.py HOME --case ml-1m --json FILE
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import msgspec

from ouzel.bundle.manifest import Manifest
from ouzel.cli.machine import record
from ouzel.cli.printing.output import emit
from ouzel.cli.printing.training_progress import TrainingProgress
from ouzel.models.registry import model_named
from ouzel.recommender.cores import usable_threads
from ouzel.recommender.evaluate import evaluate_home
from ouzel.recommender.home import Home


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("home", type=Path)
    parser.add_argument("--case", required=True, help="name of the data set")
    parser.add_argument(
        "--recorded", action="store_true", help="take the rows that training measured"
    )
    parser.add_argument("--json")
    arguments = parser.parse_args()
    home = Home(arguments.home)
    manifest = home.measured().manifest
    rows = list(manifest.metrics)
    if not arguments.recorded:
        with TrainingProgress() as progress:
            rows = evaluate_home(home, progress, threads=usable_threads())
    for row in rows:
        row["system"], row["case"] = row["model"], arguments.case
    rows[0] |= training_of(home)
    command = f"ouzel train --data {arguments.case} --out HOME {options_of(manifest)}"
    emit(record(rows, command=command, seed=manifest.seed), arguments.json, title="Accuracy")


def options_of(manifest: Manifest) -> str:
    """Return the options of `ouzel train` that made a model."""
    preset = manifest.features["preset"]
    options = f"--preset {preset} --split {manifest.features['split']}"
    if manifest.kind == "sequence":
        return options
    usual = msgspec.to_builtins(model_named(manifest.model).presets[preset])
    own = [f"--set {k}={v}" for k, v in manifest.config.items() if v != usual[k]]
    return " ".join([f"--model {manifest.model}", options, *own])


def training_of(home: Home) -> dict[str, float]:
    """Return epochs and seconds of the home's last training, as its log tells them."""
    lines = (home.training / "metrics.jsonl").read_text().splitlines()
    epochs = [json.loads(line) for line in lines]
    best = max(epochs, key=lambda row: row.get("ndcg@10", -1))
    return {
        "epochs": len(epochs),
        "best_epoch": best["epoch"],
        "seconds": round(sum(row["seconds"] for row in epochs)),
    }


if __name__ == "__main__":
    main()
