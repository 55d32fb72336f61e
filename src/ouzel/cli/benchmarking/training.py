"""`ouzel benchmark training`: epochs, sweeps and events a second, beside other libraries.

Needs the `train` extra.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Literal

import typer

from ouzel.cli.benchmarking.catalogue import catalogue_rows
from ouzel.cli.benchmarking.fitting import Row, Run, backbone_rows, ease_rows, ials_rows
from ouzel.cli.benchmarking.learning import following_rows, rating_rows
from ouzel.cli.benchmarking.training_data import stream_of
from ouzel.cli.printing.benchmark import emit_rows, tell

EXAMPLE = "ouzel benchmark training --data ml-1m --case online --peer --json -"

Case = Literal["backbone", "catalogue", "ials", "online", "ease"]
CASES: tuple[Case, ...] = ("backbone", "catalogue", "ials", "online", "ease")
MADE_UP = ("catalogue", "ease")
"""The cases that make their own data."""

SHOWN = (
    "system", "case", "loss", "tokens_per_s", "tokens_per_cpu_s", "padding_share",
    "seconds_a_sweep", "cpu_seconds_to_loss", "sweeps_to_loss", "events_per_cpu_s", "rmse",
    "rank_cpu_ms", "list_cpu_ms", "recall@10", "recall@10_stopped", "items", "peak_gib",
    "seconds", "cpu_seconds", "ouzel_times", "ouzel_times_ranking", "ouzel_times_listing",
    "missing",
)  # fmt: skip


def command(
    case: Annotated[
        Case | None, typer.Option(help="What to measure; all of them if it is left out.")
    ] = None,
    data: Annotated[
        Path | None,
        typer.Option(help="A file or folder of events; made up ones of ML-1M's size if left out."),
    ] = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="Seconds instead of minutes; the figures are rough.")
    ] = False,
    peer: Annotated[
        bool, typer.Option("--peer", help="Measure implicit, River and RecTools too.")
    ] = False,
    seed: Annotated[int, typer.Option(help="Seed of events, weights and batches.")] = 0,
    json: Annotated[
        str | None, typer.Option(help="Write JSON to this file, or to stdout with '-'.")
    ] = None,
) -> None:
    """Measure epochs, sweeps and events a second here, with two threads, beside other libraries."""
    rows = list(training_rows(case, data, Run(seed, quick, peer, tell)))
    emit_rows(rows, "training", shown=SHOWN, seed=seed, json=json)


def training_rows(case: Case | None, data: Path | None, run: Run) -> Iterator[Row]:
    """Yield the rows of one case, or of all.

    `load` is how many processes ran or waited on this machine as a case began, ours not counted.

    >>> from unittest.mock import patch
    >>> row = {"system": "ouzel ease"}
    >>> with patch("ouzel.cli.benchmarking.training.ease_rows", return_value=[row]):
    ...     (found,) = training_rows("ease", None, Run(0, True, False, print))
    >>> found["case"], found["data"]
    ('ease', 'made up')
    """
    if case in MADE_UP and data is not None:
        raise ValueError(f"the case {case} makes its own data: leave --data out")
    for name in CASES if case is None else (case,):
        load = round(os.getloadavg()[0], 2)
        named = "made up" if data is None or name in MADE_UP else data.name.partition(".")[0]
        for row in _rows(name, data, run):
            yield {"system": row["system"], "case": name, "data": named, **row, "load": load}


def _rows(case: Case, data: Path | None, run: Run) -> Iterator[Row]:
    if case in MADE_UP:
        yield from (ease_rows(run) if case == "ease" else catalogue_rows(run))
        return
    stream = stream_of(data, seed=run.seed, quick=run.quick)
    if case == "backbone":
        yield from backbone_rows(stream, run)
    elif case == "ials":
        yield from ials_rows(stream, run)
    else:
        yield from rating_rows(stream, run)
        yield from following_rows(stream, run)
