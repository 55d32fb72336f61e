"""What it takes to learn one event at a time, and what it is good for: predict, then learn.

Ratings are learned as River does it, by one step of gradient descent for each, and by the same from
what running means leave over; the models of positive feedback follow the stream from nothing.

Shape legend: E = events, D = dim.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ouzel.cli.benchmarking.fitting import Row, Run, Watch, missing_row, peer_rows
from ouzel.cli.benchmarking.training_data import Stream
from ouzel.evaluation.prequential import prequential_hits
from ouzel.retrieval.topk import top_k

FACTORS = 10
RATES = (0.01, 0.02, 0.05)
"""Of River, which goes down the gradient of the whole squared error; Ouzel's is that of half of it,
so twice the rate is the same step."""

L2 = 0.02
BATCH = 1024
"""Events that Ouzel reads from a log at once; River takes one at a time."""

EVENTS, QUICK_EVENTS = 100_000, 20_000
RANKED, LISTED = 10_000, 10
"""Items that are put in order for one user, and of which the best are found."""

FOLLOWED = {"isgd": 200_000, "bpr": 200_000, "eals": 10_000}
"""How many events each model of positive feedback follows."""

ASKED = 2_000
DAMPING = 5.0
"""Events that a running mean is thought to have had at the mean of all."""

Model = Any


def rating_rows(stream: Stream, run: Run) -> Iterator[Row]:
    """Yield events a second and prequential error of ratings, of the best of `RATES` for each.

    >>> from ouzel.cli.benchmarking.training_data import made_up
    >>> run = Run(0, True, False, lambda words: None)
    >>> raw, left_over = rating_rows(made_up(30, seed=0), run)
    >>> 0 < left_over["rmse"] < raw["rmse"]
    True
    """
    stream = stream.first(QUICK_EVENTS if run.quick else EVENTS)
    run.told(f"online: ratings, {len(stream):,} events")
    ours = [_best(stream, run.seed, means=means) for means in (False, True)]
    ours[0] |= _ranked(run.seed)
    yield from ours
    if not run.peer:
        return
    run.told("online: ratings, River")
    columns: dict[str, NDArray[Any]] = {
        "users": stream.users_E,
        "rows": stream.rows_E,
        "values": stream.values_E,
    }
    options = {"--dim": FACTORS, "--rates": ",".join(map(str, RATES)), "--l2": L2}
    options |= {"--ranked": RANKED}
    try:
        with tempfile.TemporaryDirectory() as folder:
            told = peer_rows("river_mf", columns, options, Path(folder))
    except ValueError as error:
        yield missing_row("river", error)
        return
    # The plain model beside the plain one, that with biases beside the one over running means.
    for own, name in zip(ours, ("FunkMF", "BiasedMF"), strict=True):
        of_model = [row for row in told if row["model"] == name]
        for row in of_model:
            row["rmse"] = row["rmse"] if math.isfinite(row["rmse"]) else None
        (row,) = (row for row in of_model if "cpu_seconds" in row)
        events_per_cpu_s = len(stream) / row["cpu_seconds"]
        yield {
            "system": f"river {name}",
            **row,
            "events": len(stream),
            "rmse_by_rate": {str(one["rate"]): one["rmse"] for one in of_model},
            "events_per_cpu_s": round(events_per_cpu_s),
            "ouzel_times": own["events_per_cpu_s"] / events_per_cpu_s,
            "ouzel_times_ranking": row["rank_cpu_ms"] / ours[0]["rank_cpu_ms"],
            "ouzel_times_listing": row["rank_cpu_ms"] / ours[0]["list_cpu_ms"],
        }


def _best(stream: Stream, seed: int, *, means: bool) -> Row:
    """Return the row of the rate with the least error."""
    rows = [_rated(stream, seed, 2 * rate, means=means) for rate in RATES]
    best = min(rows, key=lambda row: float(row["rmse"]))
    return {**best, "rmse_by_rate": {str(row["rate"]): row["rmse"] for row in rows}}


def _rated(stream: Stream, seed: int, rate: float, *, means: bool) -> Row:
    # The rate is twice that of River, whose steps are those of twice the loss: its ridge is not.
    model = _built("isgd", seed, dim=FACTORS, rate=rate, l2=L2 / 2)
    users_E, rows_E, values_E = stream.users_E, stream.rows_E, stream.values_E
    scores = []
    with Watch() as watch:
        foretold_E = running_means(users_E, rows_E, values_E) if means else np.zeros(len(values_E))
        targets_E = (values_E - foretold_E).astype(np.float32)
        for first in range(0, len(stream), BATCH):
            part = slice(first, first + BATCH)
            scores.append(model.partial_fit(users_E[part], rows_E[part], targets_E[part]))
    errors_E = targets_E - np.concatenate(scores)
    return {
        "system": f"ouzel isgd, ratings{' less running means' if means else ''}",
        "events": len(stream),
        "rate": rate,
        "rmse": float(np.sqrt(np.square(errors_E.astype(np.float64)).mean())),
        "events_per_s": round(len(stream) / watch.seconds),
        "events_per_cpu_s": round(len(stream) / watch.cpu_seconds),
    }


def running_means(
    users_E: NDArray[np.int64], rows_E: NDArray[np.int32], values_E: NDArray[np.float32]
) -> NDArray[np.float64]:
    """Return for each event what means of the events before it foretell: of all, item and user.

    >>> told = running_means(np.array([0, 1, 0]), np.array([1, 1, 2]), np.array([4.0, 4.0, 3.0]))
    >>> told.round(2).tolist()
    [0.0, 4.67, 4.67]
    """
    values = values_E.astype(np.float64)
    before = np.cumsum(values) - values
    mean_E = before / np.maximum(np.arange(len(values)), 1)
    item_E = _mean_before(rows_E, values - mean_E)
    user_E = _mean_before(users_E, values - mean_E - item_E)
    foretold_E: NDArray[np.float64] = mean_E + item_E + user_E
    return foretold_E


def _mean_before(keys_E: NDArray[Any], values_E: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the damped mean (E,) of the earlier events of the same key."""
    order = np.argsort(keys_E, kind="stable")
    sorted_E, sums_E = keys_E[order], np.cumsum(values_E[order])
    first_E = np.searchsorted(sorted_E, sorted_E)
    before_E = sums_E - values_E[order]
    means_E = np.empty(len(keys_E))
    count_E = np.arange(len(keys_E)) - first_E
    means_E[order] = (before_E - before_E[first_E]) / (count_E + DAMPING)
    return means_E


def _ranked(seed: int) -> Row:
    """Return the milliseconds that it takes to put all items in order for one user, and to find
    the best `LISTED` of them, which is all that a list needs.
    """
    model = _built("isgd", seed, dim=FACTORS)
    model.admit(np.zeros(RANKED, np.int64), np.arange(1, RANKED + 1))
    users_UD, items_ND = model.arrays()
    ways: dict[str, Callable[[], object]] = {
        "rank_cpu_ms": lambda: np.argsort(-(items_ND[1:] @ users_UD[0]), kind="stable"),
        "list_cpu_ms": lambda: top_k(items_ND[1:] @ users_UD[0], LISTED),
    }
    return {name: _cpu_ms(way) for name, way in ways.items()}


def _cpu_ms(work: Callable[[], object]) -> float:
    spent_ms = []
    for _ in range(20):
        with Watch() as watch:
            work()
        spent_ms.append(1000 * watch.cpu_seconds)
    return float(np.median(spent_ms))


def following_rows(stream: Stream, run: Run) -> Iterator[Row]:
    """Yield recall@10 of models that follow the stream, and of the same that stop half way.

    `recall@10` and `recall@10_stopped` are over the second half, of events that their users had not
    done before; all items are ranked.

    >>> from unittest.mock import patch
    >>> from ouzel.cli.benchmarking.training_data import made_up
    >>> run = Run(0, True, False, lambda words: None)
    >>> with patch.dict("ouzel.cli.benchmarking.learning.FOLLOWED", {"eals": 500}, clear=True):
    ...     (row,) = following_rows(made_up(30, seed=0), run)
    >>> row["events"], 0 <= row["recall@10_stopped"] <= 1
    (500, True)
    """
    for name, events in FOLLOWED.items():
        part = stream.first(min(events, QUICK_EVENTS) if run.quick else events)
        run.told(f"online: {name} follows {len(part):,} events")
        with Watch() as watch:
            model = _built(name, run.seed)
            for first in range(0, len(part), BATCH):
                span = slice(first, first + BATCH)
                model.partial_fit(part.users_E[span], part.rows_E[span])
        recall = [_recall(name, part, run.seed, stop=stop) for stop in (None, len(part) // 2)]
        yield {
            "system": f"ouzel {name}",
            "events": len(part),
            "recall@10": recall[0],
            "recall@10_stopped": recall[1],
            "events_per_s": round(len(part) / watch.seconds),
            "events_per_cpu_s": round(len(part) / watch.cpu_seconds),
        }


def _recall(name: str, part: Stream, seed: int, *, stop: int | None) -> float:
    every = max(1, len(part) // ASKED)
    model = _built(name, seed)
    asked, hits = prequential_hits(model, part.users_E, part.rows_E, every=every, stop=stop)
    return float(hits[asked >= len(part) // 2].mean())


def _built(name: str, seed: int, **settings: object) -> Model:
    """Return a model with nothing learned, whose tables grow as it learns."""
    from dataclasses import replace

    import torch

    from ouzel.models.registry import model_named

    torch.set_num_threads(1)
    torch.manual_seed(seed)
    kind: Any = model_named(name)
    return kind.build(replace(kind.presets["S"], **settings), num_users=1, num_rows=2)
