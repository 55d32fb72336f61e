"""The same model with and without time, on one data set: what the clock is worth.

    python benchmarks/time_ablation.py --data PATH --split leave-one-out --epochs 12 --json FILE

Both variants train for the same number of epochs on the same windows with the same seed, and are
measured on the test part of the split.
"""

from __future__ import annotations

import argparse
import tempfile
from dataclasses import replace
from pathlib import Path

import torch

from ouzel.cli.machine import record
from ouzel.cli.printing.output import emit
from ouzel.data.encode import encode
from ouzel.data.read import read
from ouzel.evaluation.protocol import evaluate
from ouzel.models.sequence.esasrec import PRESETS, ESASRec
from ouzel.recommender.evaluate import split_of
from ouzel.recommender.options import TrainOptions
from ouzel.recommender.train import dropout_for, settings_for
from ouzel.training.fit import fit
from ouzel.training.validation import torch_scorer


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--split", default="temporal")
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json")
    arguments = parser.parse_args()
    interactions = encode(read(arguments.data).frame).interactions
    split = split_of(interactions, arguments.split)
    rows = []
    for timed in (False, True):
        config = replace(PRESETS["S"], timed=timed, dropout=dropout_for(split.train))
        torch.manual_seed(arguments.seed)
        model = ESASRec(config, interactions.num_rows)
        settings = replace(
            settings_for(split.train, TrainOptions(seed=arguments.seed)), epochs=arguments.epochs
        )
        with tempfile.TemporaryDirectory() as folder:
            result = fit(
                model,
                split.train,
                settings,
                max_length=config.window,
                validate=None,
                directory=Path(folder),
                on_epoch=print,
            )
        scorer = torch_scorer(model, max_length=config.receptive_field)
        name = "esasrec with time" if timed else "esasrec without time"
        report = evaluate(scorer, split.full, split.test, model=name, split=arguments.split)
        rows.append({**report.row(), "epochs": result.epochs, "seconds": round(result.seconds)})
    command = (
        f"python benchmarks/time_ablation.py --data {arguments.data.name} "
        f"--split {arguments.split} --epochs {arguments.epochs}"
    )
    result_file = record(rows, command=command, seed=arguments.seed)
    emit(result_file, arguments.json, title="With and without time")


if __name__ == "__main__":
    main()
