"""`ouzel benchmark states`: one event against a full re-encode of a large model's user state.

Weights are random, which changes nothing about the time. All variants of weights and states are
measured in turns in one process on one thread, over users whose states do not fit in a cache.
Needs the `train` extra.

Shape legend: D = vector size.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
import typer
from numpy.typing import NDArray

from ouzel.cli.printing.benchmark import emit_rows, tell
from ouzel.events.interactions import History
from ouzel.features.batches import pad_histories
from ouzel.features.states import Precision
from ouzel.inference.encoding import ask, encode_into
from ouzel.inference.onnxruntime import Graphs
from ouzel.inference.pool import StatePool, slot_bytes

if TYPE_CHECKING:
    from ouzel.models.sequence.esasrec import ESASRecConfig

EXAMPLE = "ouzel benchmark states --case append-xl"

CASES = {"append-s": "S", "append-l": "L", "append-xl": "XL"}
"""The preset that each case measures."""

SHOWN = (
    "case", "weights", "states", "p50_ms", "p99_ms", "query_p50_ms", "encode_p50_ms", "state_bytes",
    "vector_cosine",
)  # fmt: skip

NUM_ROWS = 10_000
NUM_USERS = 8
ROUNDS = 400
QUICK_ROUNDS = 40
ROUNDS_A_ENCODE = 20
"""A full re-encode is measured once in so many rounds."""

EVENT_MS = 60_000
VARIANTS: tuple[tuple[str, Precision], ...] = (
    ("fp32", "fp32"),
    ("fp32", "int8"),
    ("int8", "fp32"),
    ("int8", "int8"),
)
"""Weights and states."""

Row = dict[str, Any]


def command(
    case: Annotated[
        Literal["append-s", "append-l", "append-xl"] | None,
        typer.Option(help="The preset to measure; all three if it is left out."),
    ] = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="Seconds instead of minutes; the figures are rough.")
    ] = False,
    seed: Annotated[int, typer.Option(help="Seed of weights and events.")] = 0,
    json: Annotated[
        str | None, typer.Option(help="Write JSON to this file, or to stdout with '-'.")
    ] = None,
) -> None:
    """Measure what one event costs a user's state, on one thread, against encoding it anew."""
    from ouzel.models.sequence.esasrec import PRESETS

    rows: list[Row] = []
    for name in CASES if case is None else (case,):
        rows += state_rows(PRESETS[CASES[name]], case=name, quick=quick, seed=seed, told=tell)
    emit_rows(rows, "states", shown=SHOWN, seed=seed, json=json)


@dataclass
class Variant:
    """The graphs of one kind of weights and states, its pool, and what was measured, in ms."""

    weights: str
    states: Precision
    graphs: Graphs
    pool: StatePool
    append_ms: list[float] = field(default_factory=list)
    query_ms: list[float] = field(default_factory=list)
    encode_ms: list[float] = field(default_factory=list)


def state_rows(
    config: ESASRecConfig, *, case: str, quick: bool, seed: int, told: Callable[[str], None]
) -> Iterator[Row]:
    """Yield a row for each variant: the time of an event (`p50_ms`, `p99_ms`), of a request's
    query and of a full re-encode of a window of events.

    `vector_cosine` is the least cosine of a user vector with that of float32 throughout.

    >>> from types import SimpleNamespace
    >>> from unittest.mock import patch
    >>> variant = SimpleNamespace(weights="fp32", states="fp32", append_ms=[2.0], query_ms=[1.0],
    ...     encode_ms=[9.0], pool=SimpleNamespace(shape=None))
    >>> names = {"variants": lambda *_: [variant], "measure": lambda *_: [np.ones((2, 4))]}
    >>> with patch.multiple("ouzel.cli.benchmarking.states", slot_bytes=lambda _: 7, **names):
    ...     (row,) = state_rows(None, case="append-l", quick=True, seed=0, told=print)
    append-l: measuring
    >>> row["p50_ms"], row["encode_p50_ms"], round(row["vector_cosine"], 6)
    (2.0, 9.0, 1.0)
    """
    made = variants(config, seed, told)
    told(f"{case}: measuring")
    vectors = measure(made, QUICK_ROUNDS if quick else ROUNDS, seed)
    for variant, vectors_UD in zip(made, vectors, strict=True):
        yield {
            "system": "ouzel",
            "case": case,
            "weights": variant.weights,
            "states": variant.states,
            "p50_ms": float(np.median(variant.append_ms)),
            "p99_ms": float(np.quantile(variant.append_ms, 0.99)),
            "query_p50_ms": float(np.median(variant.query_ms)),
            "encode_p50_ms": float(np.median(variant.encode_ms)),
            "events": len(variant.append_ms),
            "state_bytes": slot_bytes(variant.pool.shape),
            "vector_cosine": _least_cosine(vectors_UD, vectors[0]),
        }


def variants(config: ESASRecConfig, seed: int, told: Callable[[str], None]) -> list[Variant]:
    """Return a model of `config` with random weights in every one of `VARIANTS`.

    >>> from unittest.mock import DEFAULT, patch
    >>> from ouzel.models.sequence.esasrec import ESASRecConfig
    >>> slow = {"Graphs": DEFAULT, "StatePool": DEFAULT, "slot_bytes": lambda shape: 1}
    >>> with patch.multiple("ouzel.cli.benchmarking.states", **slow), patch(
    ...         "ouzel.compression.export.export_graphs", return_value={}):
    ...     made = variants(ESASRecConfig(dim=8, window=4), 0, lambda words: None)
    >>> [(variant.weights, variant.states) for variant in made] == list(VARIANTS)
    True
    """
    import torch

    from ouzel.compression.export import export_graphs
    from ouzel.compression.onnxruntime import with_int8_weights
    from ouzel.models.sequence.esasrec import ESASRec

    torch.manual_seed(seed)
    model = ESASRec(config, NUM_ROWS)
    table_ND = model.items.weight.detach().numpy().copy()
    exported: dict[Precision, dict[str, bytes]] = {}
    for states in dict.fromkeys(states for _, states in VARIANTS):
        told(f"exporting the graphs, states in {states}")
        exported[states] = export_graphs(model, states)
    made = []
    for weights, states in VARIANTS:
        files = exported[states]
        if weights == "int8":
            told(f"quantising the weights, states in {states}")
            files = {name: with_int8_weights(graph) for name, graph in files.items()}
        graphs = Graphs(files, table_ND)
        pool = StatePool(graphs.shape, max_bytes=NUM_USERS * slot_bytes(graphs.shape))
        made.append(Variant(weights, states, graphs, pool))
    return made


def measure(made: Sequence[Variant], rounds: int, seed: int) -> list[NDArray[np.float32]]:
    """Return the user vectors (users, D) of each variant after `rounds` of measured events.

    >>> measure([], 3, seed=0)
    []
    """
    if not made:
        return []
    rng = np.random.default_rng(seed)
    window = made[0].pool.shape.window
    histories = [_history(rng, window) for _ in range(NUM_USERS)]
    for variant in made:
        for user, history in enumerate(histories):
            encode_into(variant.graphs, variant.pool, [user], [history])
    for number in range(rounds):
        row = np.array([rng.integers(1, NUM_ROWS)])
        slot = np.array([number % NUM_USERS])
        for variant in made:
            _append(variant, slot, row)
            if number % ROUNDS_A_ENCODE == 0:
                with _Watch(variant.encode_ms):
                    variant.graphs.encode(
                        pad_histories([histories[number % NUM_USERS]]), np.zeros(1, np.int64)
                    )
    slots = np.arange(NUM_USERS)
    return [ask(v.graphs, v.pool, slots, v.pool.last_time_S[slots]) for v in made]


def _append(variant: Variant, slot: NDArray[np.int64], row: NDArray[np.int64]) -> None:
    """Take in one event and ask once for the user vector, as a server does."""
    pool = variant.pool
    time_ms = pool.last_time_S[slot] + EVENT_MS
    with _Watch(variant.append_ms):
        fresh = variant.graphs.append(
            row_B=row, time_B=time_ms, length_B=pool.length_S[slot], slot_B=slot, cache=pool.cache
        )
        pool.extend(slot, fresh, row, time_ms)
    with _Watch(variant.query_ms):
        ask(variant.graphs, pool, slot, time_ms)


class _Watch:
    """Adds the milliseconds that a block takes to a list."""

    def __init__(self, spent_ms: list[float]) -> None:
        self._spent_ms = spent_ms

    def __enter__(self) -> None:
        self._start = time.perf_counter()

    def __exit__(self, *_: object) -> None:
        self._spent_ms.append(1000 * (time.perf_counter() - self._start))


def _history(rng: np.random.Generator, count: int) -> History:
    rows = rng.integers(1, NUM_ROWS, count).astype(np.int32)
    return History(rows, np.arange(count, dtype=np.int64) * EVENT_MS)


def _least_cosine(ours_UD: NDArray[np.float32], theirs_UD: NDArray[np.float32]) -> float:
    norms_U = np.linalg.norm(ours_UD, axis=1) * np.linalg.norm(theirs_UD, axis=1)
    return float(((ours_UD * theirs_UD).sum(axis=1) / norms_U).min())
