"""A ranker for the model of a home, and what it is worth: ranked, by retrieval alone, baselines.

ouzel train --data PATH --out HOME --preset S --split leave-one-out
python benchmarks/ranker.py HOME --case ml-1m --minutes 15 --json FILE

The first row says by how much the ranked lists lead the best of the others, paired by target. Of a
home that has a ranker, the figures are those that were taken when it was made.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from ouzel.cli.machine import record
from ouzel.cli.printing.output import emit
from ouzel.cli.printing.training_progress import TrainingProgress
from ouzel.recommender.home import Home
from ouzel.recommender.options import TrainOptions
from ouzel.recommender.ranker import add_ranker


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("home", type=Path)
    parser.add_argument("--case", required=True, help="name of the data set")
    parser.add_argument("--minutes", type=float, help="train for at most this long")
    parser.add_argument("--json")
    arguments = parser.parse_args()
    home = Home(arguments.home)
    if "ranker" not in home.measured().manifest.features:
        with TrainingProgress() as progress:
            add_ranker(home, TrainOptions(minutes=arguments.minutes), progress)
    manifest = home.measured().manifest
    rows = [dict(row) for row in manifest.metrics]
    for row in rows:
        row["system"], row["case"] = row["model"], arguments.case
    command = " ".join(["python benchmarks/ranker.py HOME", *sys.argv[2:]])
    emit(record(rows, command=command, seed=manifest.seed), arguments.json, title="Ranker")


if __name__ == "__main__":
    main()
