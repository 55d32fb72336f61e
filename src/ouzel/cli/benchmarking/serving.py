"""`ouzel benchmark serving`: what this machine does, measured through the real HTTP path."""

from __future__ import annotations

import math
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from ouzel.bundle.bundle import load_bundle
from ouzel.bundle.manifest import FORMAT_VERSION
from ouzel.bundle.store import BundleStore
from ouzel.cli.benchmarking.home import (
    HOME_VERSION,
    Scale,
    make_home,
    random_origin,
    trained_origin,
)
from ouzel.cli.benchmarking.peer import BENCH, RIVALS, TUNINGS, Peer, Rival, Tuning
from ouzel.cli.benchmarking.served import home_row
from ouzel.cli.printing.benchmark import emit_rows, tell
from ouzel.cli.printing.output import progress
from ouzel.evaluation.ingestion import measure_ingestion
from ouzel.evaluation.load import held
from ouzel.evaluation.load_result import LoadResult
from ouzel.evaluation.server_process import running
from ouzel.evaluation.serving_case import (
    FULL,
    QUICK,
    TUNING,
    Effort,
    Row,
    gauge,
    load_spec,
    rate_rows,
    server_row,
    sustained_row,
    unloaded_ms,
    visible_row,
    warm,
)
from ouzel.evaluation.workload import Workload
from ouzel.events import log_schema
from ouzel.features.states import Precision
from ouzel.inference.onnxruntime import Graphs
from ouzel.inference.pool import slot_bytes

EXAMPLE = "ouzel benchmark serving --case 100k --peer --json -"

Case = Literal["10k", "100k", "1m", "10m", "visible", "events"]

SCALES = {
    "10k": Scale(num_items=10_000, num_live=10_000, num_cold=5_000),
    "100k": Scale(num_items=100_000, num_live=10_000, num_cold=5_000),
    "1m": Scale(num_items=1_000_000, num_live=10_000, num_cold=5_000),
    "10m": Scale(num_items=10_000_000, num_live=10_000, num_cold=5_000),
}
VISIBLE_SCALE = "100k"
QUICK_SHARE = 20
"""A quick run has this many times fewer users."""

RATIO_MARK_MS = 50.0
MARKS_MS = {
    "10k": (4.0, RATIO_MARK_MS),
    "100k": (5.0, 10.0, RATIO_MARK_MS),
    "1m": (15.0, RATIO_MARK_MS),
    "10m": (RATIO_MARK_MS,),
}
"""In how many milliseconds 99.9 % are to be answered, by case."""

RANKED_MARKS_MS = (15.0, RATIO_MARK_MS)
"""The same where the model has a ranker, which looks at 500 candidates again."""

WITHOUT_RATES = ("visible", "events")
START_RATE = 400.0
START_RATES = {"10m": 50.0}
VISIBLE_RATE = 1000.0
MOST_RATE = 100_000.0
KEEPING_UP = 0.9
"""A system that answers less than this share of what it is asked will not answer more."""

SHOWN = (
    "system", "case", "workers", "tuning", "p99_mark_ms", "rate", "requests_per_s", "times_peer",
    "times_ray_serve",
    "p50_ms", "p99_ms", "stolen_share", "unloaded_p50_ms", "index_recall@10", "index_recall@100",
    "next_answer_share", "degraded", "events_per_s", "states_behind_s", "start_to_ready_s",
    "rss_mb", "server_cpu_ms_per_request", "states",
)  # fmt: skip
"""The columns that people compare; the JSON has them all."""


def command(
    case: Annotated[
        Case | None, typer.Option(help="One case; all but 1m and 10m if it is left out.")
    ] = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="Seconds instead of minutes; the figures are rough.")
    ] = False,
    peer: Annotated[
        bool, typer.Option("--peer", help="Measure eager torch under FastAPI and Ray Serve too.")
    ] = False,
    rates: Annotated[
        str | None,
        typer.Option(
            help="Measure at these requests per second, such as 500,1000, and search for none."
        ),
    ] = None,
    model_from: Annotated[
        Path | None,
        typer.Option(help="A trained home whose model is served; random weights if left out."),
    ] = None,
    workers: Annotated[
        int, typer.Option(min=1, help="Processes of Ouzel's server, as of `ouzel serve`.")
    ] = 1,
    state_precision: Annotated[
        Precision | None,
        typer.Option(
            help="Of the states of random weights, int8 if left out; a trained home has its own."
        ),
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of catalogue, histories and arrivals.")] = 0,
    json: Annotated[
        str | None, typer.Option(help="Write JSON to this file, or to stdout with '-'.")
    ] = None,
) -> None:
    """Measure how many requests per second are answered in time, and how soon a click shows."""
    if model_from is not None and state_precision is not None:
        raise typer.BadParameter("--model-from has states of its own: leave --state-precision out")
    given = None if rates is None else _rates(rates)
    rows: list[Row] = []
    if given is not None and case in WITHOUT_RATES:
        raise typer.BadParameter("--rates is for 10k, 100k, 1m and 10m: leave one of both out")
    every = ("10k", "100k") if given is not None else ("10k", "100k", *WITHOUT_RATES)
    for name in every if case is None else (case,):
        run = Run(QUICK if quick else FULL, model_from, state_precision, seed, workers, given)
        rows += _case(name, run, peer=peer)
    emit_rows(rows, "serving", shown=SHOWN, seed=seed, json=json)


def _tell_run(result: LoadResult) -> None:
    """Say what one run of a search came to."""
    took = result.latency["all"]
    words = f"p50 {took.p50_ms:.1f} ms, p99 {took.p99_ms:.1f} ms, in time {result.within_mark:.2%}"
    if held(result) is None:
        words += f"; not counted: {result.stolen_share:.1%} stolen"
        words += f", sent {result.send_lag_p99_ms:.1f} ms late"
    tell(f"  {result.rate:7.0f} requests/s for {result.duration_s:g} s: {words}")


def _rates(text: str) -> list[float]:
    try:
        rates = sorted(float(part) for part in text.split(","))
    except ValueError:
        rates = []
    if not rates or not all(1 <= rate <= MOST_RATE for rate in rates):
        raise typer.BadParameter(f"--rates is {text!r}: give numbers such as 500,1000,2000")
    return rates


@dataclass(frozen=True)
class Run:
    """How all cases of one command are measured."""

    effort: Effort
    model_from: Path | None
    states: Precision | None
    seed: int
    workers: int
    rates: Sequence[float] | None


def _case(name: str, run: Run, *, peer: bool) -> Iterator[Row]:
    scale = SCALES.get(name, SCALES[VISIBLE_SCALE])
    if run.effort is QUICK:
        scale = Scale(scale.num_items, scale.num_live // QUICK_SHARE, scale.num_cold // QUICK_SHARE)
    folder, work = _home(scale, run)
    about = {"case": name, "num_items": work.num_items, "num_users": work.num_live}
    if name in WITHOUT_RATES:
        measured = _visible if name == "visible" else _events
        yield {"system": "ouzel", **about, "workers": run.workers, **measured(folder, work, run)}
        return
    ouzel = list(_ouzel(name, folder, work, run))
    peers: list[Row] = []
    for rival in RIVALS if peer else ():
        if run.rates is not None:
            peers += _peer_at_rates(rival, folder, work, run)
            continue
        best, tried = _peer(rival, folder, work, run)
        for row in ouzel:
            if row["p99_mark_ms"] == RATIO_MARK_MS and best["requests_per_s"]:
                row[rival.ratio] = row["requests_per_s"] / best["requests_per_s"]
        peers += [best, *tried]
    for row in ouzel + peers:
        yield {"system": row.pop("system", "ouzel"), **about, **row}


def _home(scale: Scale, run: Run) -> tuple[Path, Workload]:
    """Return the home of a scale and its workload, from `.bench/homes` if it was made before."""
    seed, states = run.seed, run.states or "int8"
    origin, model = partial(random_origin, seed=seed, states=states), f"random-{states}"
    if run.model_from is not None:
        bundle = load_bundle(BundleStore(run.model_from).current())
        origin, model = partial(trained_origin, bundle), bundle.digest[:16]
    # What an older Ouzel made would be brought up to date in every run, and lacks what is new.
    formats = f"{log_schema.SCHEMA_VERSION}.{FORMAT_VERSION}.{HOME_VERSION}"
    name = f"{scale.num_items}-{scale.num_live}-{scale.num_cold}-{model}-{seed}-{formats}"
    folder = BENCH / "homes" / name
    with progress("Making the benchmark's home") as report:
        return folder, make_home(folder, scale, origin, seed=seed, report=report)


@contextmanager
def _fresh(folder: Path) -> Iterator[Path]:
    """Yield a copy of a home that is gone afterwards: every run meets the same histories."""
    with tempfile.TemporaryDirectory(prefix="run-", dir=BENCH) as scratch:
        home = Path(scratch, "home")
        home.mkdir()
        for name in ("events.db", "store.db", "current"):
            shutil.copy2(folder / name, home / name)
        for name in ("bundles", "index"):
            if (folder / name).is_dir():
                shutil.copytree(folder / name, home / name, copy_function=os.link)
        yield home


def _serve(folder: Path, work: Workload, workers: int = 1) -> Callable[[Path], Sequence[str]]:
    """Return the command that serves a home with room for the states of its live users."""
    shape = Graphs.of(load_bundle(BundleStore(folder).current())).shape
    megabytes = math.ceil(1.02 * work.num_live * slot_bytes(shape) / 2**20)
    words = [sys.executable, "-m", "ouzel.cli", "serve", str(folder)]
    words += ["--port", "0", "--state-megabytes", str(megabytes)]
    words += ["--workers", str(workers), "--port-file"]
    return lambda port_file: [*words, str(port_file)]


def _ouzel(name: str, folder: Path, work: Workload, run: Run) -> Iterator[Row]:
    live = work.user_ids()[: work.num_live]
    tell("ouzel: measuring what its index finds")
    about = home_row(folder, work)
    tell("ouzel: starting, then asking once for every live user")
    with _fresh(folder) as home, running(_serve(home, work, run.workers)) as server:
        warm(server.port, live)
        p50_ms, p99_ms = unloaded_ms(server.port, live)
        alone = {
            "workers": run.workers,
            "unloaded_p50_ms": p50_ms,
            "unloaded_p99_ms": p99_ms,
            **about,
        }
        rate = START_RATES.get(name, START_RATE)
        spec = load_spec(server, work, rate=rate, seed=run.seed)
        if run.rates is not None:
            for row in rate_rows(spec, run.rates, run.effort, told=_tell_run):
                yield {**row, **alone, **server_row(server)}
            return
        for mark_ms in RANKED_MARKS_MS if about["ranked"] else MARKS_MS[name]:
            tell(f"ouzel: searching the rate held with p99 <= {mark_ms:g} ms")
            row = sustained_row(spec, run.effort, p99_ms=mark_ms, told=_tell_run)
            yield {**row, **alone, **server_row(server)}


def _visible(folder: Path, work: Workload, run: Run) -> dict[str, Any]:
    tell(f"ouzel: clicking and asking, beside a load of {VISIBLE_RATE:g} requests per second")
    with _fresh(folder) as home, running(_serve(home, work, run.workers)) as server:
        warm(server.port, work.user_ids()[: work.num_live])
        spec = load_spec(server, work, rate=VISIBLE_RATE, seed=run.seed)
        return {**visible_row(spec, run.effort), **server_row(server)}


def _events(folder: Path, work: Workload, run: Run) -> dict[str, Any]:
    tell("ouzel: sending events in batches of 100, as fast as they are taken")
    live = work.user_ids()[: work.num_live]
    with _fresh(folder) as home, running(_serve(home, work, run.workers)) as server:
        warm(server.port, live)
        row = measure_ingestion(
            server.port,
            live,
            work.item_ids(),
            seconds=run.effort.rate_s,
            behind=lambda: gauge(server.port, "ouzel_now", "states_behind"),
            seed=run.seed,
        )
        return {**row, **server_row(server)}


def _peer_at_rates(rival: Rival, folder: Path, work: Workload, run: Run) -> Iterator[Row]:
    """Yield a row for each tuning and rate, up to the first rate that it does not keep up with."""
    peer = Peer(rival.folder)
    for tuning in TUNINGS:
        tell(f"{rival.system} ({tuning}): measuring at given rates")
        with running(partial(peer.command, folder, tuning=tuning)) as server:
            warm(server.port, work.user_ids()[:64])
            spec = load_spec(server, work, rate=START_RATE / 4, seed=run.seed)
            for row in rate_rows(spec, run.rates or (), run.effort, told=_tell_run):
                named = {"system": rival.system, "tuning": str(tuning)}
                yield {**named, **row, **server_row(server)}
                if row["requests_per_s"] < KEEPING_UP * row["rate"]:
                    break


def _peer(rival: Rival, folder: Path, work: Workload, run: Run) -> tuple[Row, list[Row]]:
    """Return a peer's row at its best tuning, and a row for each that was tried.

    Those that short runs cannot tell from the best are all measured in full.
    """
    peer = Peer(rival.folder)

    def measure(tuning: Tuning, spent: Effort) -> Row:
        tell(f"{rival.system} ({tuning}): searching the rate held with p99 <= {RATIO_MARK_MS:g} ms")
        with running(partial(peer.command, folder, tuning=tuning)) as server:
            warm(server.port, work.user_ids()[:64])
            spec = load_spec(server, work, rate=START_RATE / 4, seed=run.seed)
            row = sustained_row(spec, spent, p99_ms=RATIO_MARK_MS, told=_tell_run)
            row |= server_row(server)
        return {"system": rival.system, "tuning": str(tuning), **row}

    tuning_effort = QUICK if run.effort is QUICK else TUNING
    tried = [measure(tuning, tuning_effort) for tuning in TUNINGS]
    rates = [row["requests_per_s"] for row in tried]
    places = _likely_best(rates, tuning_effort.precision)
    finals = [measure(TUNINGS[place], run.effort) for place in places]
    best = max(finals, key=lambda row: row["requests_per_s"])
    others = [row for row in finals if row is not best]
    for row in tried + others:
        row["system"] += " (tuning)"
    return best, tried + others


def _likely_best(rates: Sequence[float], precision: float) -> list[int]:
    """Return the places of the rates that a search of this precision cannot tell from the best."""
    return [at for at, rate in enumerate(rates) if rate * (1 + precision) >= max(rates)]
