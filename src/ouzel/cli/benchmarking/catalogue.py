"""What an epoch over a million items takes in memory, with sampled negatives.

It runs in a process of its own, whose peak is then that of the training and of what it loads.
"""

from __future__ import annotations

import multiprocessing
import resource
import tempfile
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np

from ouzel.cli.benchmarking.fitting import QUICK_SHARE, THREADS, Row, Run, Watch

NUM_ITEMS, NUM_USERS, EVENTS_A_USER = 1_000_000, 50_000, 20
ITEMS_OF_A_TASTE = 1000
KIB_A_GIB = 2**20
"""Linux tells the peak of a process in KiB."""


def catalogue_rows(run: Run) -> Iterator[Row]:
    """Yield an epoch of the default sequence model over a million items: its peak in GiB, and more.

    >>> from unittest.mock import patch
    >>> with patch("ouzel.cli.benchmarking.catalogue._alone", return_value={"peak_gib": 2.0}):
    ...     print(list(catalogue_rows(Run(0, True, False, lambda words: None))))
    [{'system': 'ouzel esasrec', 'loss': 'sampled_softmax', 'peak_gib': 2.0}]
    """
    run.told("catalogue: an epoch over a million items")
    share = QUICK_SHARE if run.quick else 1
    told = _alone(NUM_ITEMS // share, NUM_USERS // share, run.seed)
    yield {"system": "ouzel esasrec", "loss": "sampled_softmax", **told}


def _alone(num_items: int, num_users: int, seed: int) -> Row:
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(epoch_over, num_items, num_users, seed).result()


def epoch_over(num_items: int, num_users: int, seed: int) -> Row:
    """Return what an epoch takes here: events a second, and the peak of this process so far.

    >>> epoch_over(50, 40, 0)["items"]
    50
    """
    import torch

    from ouzel.events.interactions import group_by_user
    from ouzel.models.sequence.esasrec import ESASRec
    from ouzel.training.fit import FitSettings, fit

    torch.set_num_threads(THREADS)
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    users_E = np.repeat(np.arange(num_users), EVENTS_A_USER)
    # Everybody keeps to a stretch of the catalogue, so that there is something to learn.
    first_E = np.repeat(rng.integers(0, num_items, num_users), EVENTS_A_USER)
    rows_E = (first_E + rng.integers(0, ITEMS_OF_A_TASTE, len(users_E))) % num_items + 1
    times_E = np.tile(np.arange(EVENTS_A_USER) * 60_000, num_users)
    values_E = np.full(len(users_E), np.nan, np.float32)
    interactions = group_by_user(
        users_E, rows_E.astype(np.int32), times_E, values_E, num_rows=num_items + 1
    )
    model = ESASRec.build("S", interactions.num_rows)
    settings = FitSettings(epochs=1, loss="sampled_softmax", seed=seed)
    with tempfile.TemporaryDirectory() as folder, Watch() as watch:
        fit(
            model,
            interactions,
            settings,
            max_length=model.config.window,
            validate=None,
            directory=Path(folder),
        )
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / KIB_A_GIB
    events_per_s = round(len(users_E) / watch.seconds)
    told = {"items": num_items, "events": len(users_E), "tokens_per_s": events_per_s}
    return {**told, "peak_gib": round(peak, 2), **watch.row()}
