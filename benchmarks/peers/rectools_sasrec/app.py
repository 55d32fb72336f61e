"""SASRec of RecTools: the seconds of an epoch, and how many events it read.

Reads users.npy, rows.npy and times.npy of a folder, in the order of time.
"""

from __future__ import annotations

import argparse
import json
import time
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from pytorch_lightning import Trainer
from rectools import Columns
from rectools.dataset import Dataset
from rectools.models import SASRecModel


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--dim", type=int, required=True)
    parser.add_argument("--layers", type=int, required=True)
    parser.add_argument("--window", type=int, required=True)
    parser.add_argument("--batch", type=int, required=True)
    parser.add_argument("--threads", type=int, required=True)
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(arguments.threads)
    users, rows, times = (
        np.load(arguments.data / f"{name}.npy") for name in ("users", "rows", "times")
    )
    frame = pd.DataFrame(
        {
            Columns.User: users,
            Columns.Item: rows,
            Columns.Weight: 1.0,
            Columns.Datetime: pd.to_datetime(times, unit="ms"),
        }
    )
    model = SASRecModel(
        n_factors=arguments.dim,
        n_blocks=arguments.layers,
        n_heads=2,
        session_max_len=arguments.window,
        batch_size=arguments.batch,
        loss="softmax",
        epochs=1,
        get_trainer_func=lambda: Trainer(
            max_epochs=1,
            accelerator="cpu",
            enable_progress_bar=False,
            enable_model_summary=False,
            enable_checkpointing=False,
            logger=False,
        ),
    )
    dataset = Dataset.construct(frame)
    start, cpu = time.perf_counter(), time.process_time()
    model.fit(dataset)
    seconds, cpu_seconds = time.perf_counter() - start, time.process_time() - cpu
    lengths = np.bincount(users)
    read = int(np.minimum(np.maximum(lengths - 1, 0), arguments.window).sum())
    print(json.dumps([{"seconds": seconds, "cpu_seconds": cpu_seconds, "tokens": read}]))


if __name__ == "__main__":
    main()
