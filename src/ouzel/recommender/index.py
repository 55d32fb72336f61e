"""How well the items of a home are found: every engine measured here, and the cheapest chosen.

What is asked are the vectors of this home's own users, and what they have seen is left out, as in
service. Users who tune an engine measure none.

Shape legend: B = users, D = dimensions, N = catalogue rows.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ouzel.bundle.bundle import Bundle
from ouzel.bundle.index import RECALL_KS, ChosenIndex, ChosenIndexes
from ouzel.bundle.manifest import IndexRecord
from ouzel.events.interactions import History, Interactions
from ouzel.inference.encoding import HistoryEncoder
from ouzel.inference.history_fold import HistoryFold, fold_in_of
from ouzel.inference.onnxruntime import CTR, Graphs
from ouzel.ranking.assembly import automatic_engine, reads_values, sample_histories
from ouzel.ranking.blending import BlendSources
from ouzel.ranking.scoring import BREADTH
from ouzel.recommender.home import Home
from ouzel.retrieval.engines import ENGINES
from ouzel.retrieval.exact import ExactIndex
from ouzel.retrieval.index import Engine
from ouzel.retrieval.scan_lists import ScanListsIndex
from ouzel.retrieval.tuning import recall_at
from ouzel.retrieval.types import distinct_rows

NUM_USERS = 400
"""Half of them tune where that is called for, the others measure."""

TRIES = 3
"""A query counts with the best of so many times: what other processes take is no engine's."""

FEWEST_TIMED = 50
TIMED_SECONDS = 2.0
"""After so long a try ends, if that many users were asked."""

TOO_SLOW = 4.0
"""An engine that misses the time so many times over is not asked to look harder."""

Row = dict[str, Any]
Told = Callable[[str], None]


@dataclass(frozen=True)
class Asked:
    """Vectors (B, D) of users, and for each the rows that it has seen, sorted."""

    queries_BD: NDArray[np.float32]
    seen: Sequence[NDArray[np.int32]]

    def __len__(self) -> int:
        return len(self.seen)

    def part(self, first: int) -> Asked:
        """Return every second user, from `first` on: 0 tunes, 1 measures."""
        return Asked(self.queries_BD[first::2], self.seen[first::2])


@dataclass(frozen=True)
class Target:
    """What is wanted: `recall`@`k` of at least so much, `p99_ms` of at most so much.

    Raises:
        ValueError: a number is out of range.
    """

    recall: float
    p99_ms: float
    k: int = 10

    def __post_init__(self) -> None:
        if not 0 < self.recall <= 1:
            raise ValueError(f"recall is {self.recall}: give a share above 0, up to 1")
        if not self.p99_ms > 0:
            raise ValueError(f"p99-ms is {self.p99_ms}: give a time above 0")
        if self.k not in RECALL_KS:
            known = " or ".join(map(str, RECALL_KS))
            raise ValueError(f"k is {self.k}: recall is measured at {known}")


def spread_histories(interactions: Interactions) -> list[History]:
    """Return the histories of up to `NUM_USERS` users, spread over all there are.

    >>> from ouzel.events.interactions import from_histories
    >>> spread_histories(from_histories([], num_rows=3))
    []
    """
    users = np.unique(np.linspace(0, max(0, interactions.num_users - 1), NUM_USERS).astype(int))
    return [interactions.history(user) for user in users[: interactions.num_users].tolist()]


def asked_by(histories: Sequence[History], model: Graphs | HistoryFold) -> Asked:
    """Return what the users with these histories ask, at the time of their last event.

    >>> from types import SimpleNamespace
    >>> from ouzel.features.states import StateShape
    >>> graphs = SimpleNamespace(shape=StateShape(1, 1, 2, 4), num_rows=3)
    >>> len(asked_by([History(np.array([7], np.int32), np.array([10]))], graphs))
    0
    """
    histories = [history for history in histories if len(history)]
    now_B = np.array([history.times_ms[-1] for history in histories], np.int64)
    if isinstance(model, HistoryFold):
        asking = zip(histories, now_B.tolist(), strict=True)
        folded = [model.query_session(history, now_ms) for history, now_ms in asking]
        known_B = np.array([vector is not None for vector in folded], np.bool_)
        nothing = np.zeros(model.dim, np.float32)
        queries_BD = np.array([nothing if one is None else one for one in folded], np.float32)
    else:
        queries_BD, known_B = HistoryEncoder(model)(histories, now_B)
    seen = [distinct_rows(history.rows) for history in histories]
    return Asked(queries_BD[known_B], [seen[at] for at in np.flatnonzero(known_B)])


def measured_recall(
    engine: Engine, expected_BK: NDArray[np.int32], asked: Asked
) -> dict[str, float]:
    """Return recall@10 and recall@100 of an engine; `expected_BK` are the 100 found exactly.

    >>> exact = ExactIndex(np.eye(4, dtype=np.float32))
    >>> asked = Asked(np.ones((1, 4), np.float32), [np.array([1], np.int32)])
    >>> measured_recall(exact, np.array([[2, 3, 0]], np.int32), asked)
    {'recall@10': 1.0, 'recall@100': 1.0}
    """
    return {
        f"recall@{k}": recall_at(k, engine, asked.queries_BD, expected_BK, exclude=asked.seen)
        for k in RECALL_KS
    }


@dataclass(frozen=True)
class AutomaticIndex:
    """How a model's items are searched where nothing is chosen, and lists if they were built."""

    record: IndexRecord
    lists: Mapping[str, NDArray[np.generic]] | None


def automatic_index(vectors_ND: NDArray[np.float32], asked: Asked) -> AutomaticIndex | None:
    """Return the engine taken where none is chosen, and its recall; None without users to ask.

    >>> asked = Asked(np.ones((2, 4), np.float32), [np.array([1], np.int32)] * 2)
    >>> automatic_index(np.eye(4, dtype=np.float32), asked).record.engine
    'exact'
    """
    tuning, measuring = asked.part(0), asked.part(1)
    if not len(measuring):
        return None
    engine = automatic_engine(vectors_ND, tuning.queries_BD, tuning.seen)
    recall = measured_recall(engine, _exact_best(vectors_ND, measuring), measuring)
    record = IndexRecord(
        engine=engine.name, effort=engine.effort, recall=recall, num_queries=len(measuring)
    )
    lists = engine.to_tensors() if isinstance(engine, ScanListsIndex) else None
    return AutomaticIndex(record, lists)


def index_of(
    vectors_ND: NDArray[np.float32], graphs: Graphs, interactions: Interactions
) -> AutomaticIndex | None:
    """Return `automatic_index` of a model's items, measured on users spread over all.

    >>> from types import SimpleNamespace
    >>> from ouzel.events.interactions import from_histories
    >>> from ouzel.features.states import StateShape
    >>> graphs = SimpleNamespace(shape=StateShape(1, 1, 2, 4), num_rows=3)
    >>> index_of(np.eye(3, dtype=np.float32), graphs, from_histories([], num_rows=3)) is None
    True
    """
    return automatic_index(vectors_ND, asked_by(spread_histories(interactions), graphs))


def measure_engines(
    vectors_ND: NDArray[np.float32],
    asked: Asked,
    target: Target,
    told: Told,
    *,
    breadth: int | None = None,
) -> Iterator[tuple[Row, Engine]]:
    """Yield a row for every engine and effort that was measured, and the engine as it was.

    Each engine looks harder until it finds enough, or is far too slow. Engines that cannot search
    these vectors here are told of and left out. A search that is timed finds `breadth` items, or
    the k of the target.

    >>> asked = Asked(np.ones((2, 4), np.float32), [np.array([1], np.int32)] * 2)
    >>> rows = measure_engines(np.eye(4, dtype=np.float32), asked, Target(0.9, 50), lambda _: None)
    >>> row, engine = next(rows)
    >>> row["engine"], row["recall@10"]
    ('exact', 1.0)
    """
    expected_BK = _exact_best(vectors_ND, asked)
    breadth = breadth or target.k
    for kind in ENGINES:
        if reason := kind.why_not(*vectors_ND.shape):
            told(f"{kind.name}: left out, {reason}")
            continue
        told(f"{kind.name}: building")
        began = time.perf_counter()
        engine = kind(vectors_ND)
        seconds = time.perf_counter() - began
        size = vectors_ND.nbytes + sum(tensor.nbytes for tensor in engine.to_tensors().values())
        while True:
            recall = measured_recall(engine, expected_BK, asked)
            p50_ms, p99_ms = _timed_ms(engine, asked, breadth)
            yield (
                {
                    "engine": engine.name,
                    "parameters": f"{engine.effort_name}={engine.effort}" if engine.effort else "",
                    **recall,
                    "items_timed": breadth,
                    "p50_ms": p50_ms,
                    "p99_ms": p99_ms,
                    "bytes": size,
                    "build_seconds": seconds,
                },
                engine,
            )
            enough = recall[f"recall@{target.k}"] >= target.recall
            wider = 2 * engine.effort
            if enough or not 0 < wider <= engine.most_effort or p99_ms > TOO_SLOW * target.p99_ms:
                break
            engine.effort = wider


def cheapest(rows: Sequence[Row], target: Target) -> Row | None:
    """Return the row of the least median time of those that reach the target, None if none does.

    >>> slow = {"recall@10": 1.0, "p50_ms": 2.0, "p99_ms": 2.5}
    >>> quick = {"recall@10": 0.992, "p50_ms": 0.3, "p99_ms": 0.4}
    >>> cheapest([slow, quick], Target(0.99, 3))["p50_ms"]
    0.3
    """
    reaching = [
        row
        for row in rows
        if row[f"recall@{target.k}"] >= target.recall and row["p99_ms"] <= target.p99_ms
    ]
    return min(reaching, key=lambda row: float(row["p50_ms"]), default=None)


def nearest(rows: Sequence[Row], target: Target) -> str:
    """Return in words what comes nearest to a target that no row reaches.

    >>> slow = {"engine": "exact", "parameters": "", "recall@10": 1.0, "p99_ms": 2.5}
    >>> nearest([slow], Target(0.99, 1))
    'the quickest with that recall is exact (recall@10 1.0000, p99 2.50 ms)'
    """
    name = f"recall@{target.k}"

    def told(row: Row) -> str:
        parameters = f" {row['parameters']}" if row["parameters"] else ""
        figures = f"({name} {row[name]:.4f}, p99 {row['p99_ms']:.2f} ms)"
        return f"{row['engine']}{parameters} {figures}"

    enough = [row for row in rows if row[name] >= target.recall]
    in_time = [row for row in rows if row["p99_ms"] <= target.p99_ms]
    words = []
    if enough:
        quickest = min(enough, key=lambda row: float(row["p99_ms"]))
        words.append(f"the quickest with that recall is {told(quickest)}")
    if in_time:
        best = max(in_time, key=lambda row: float(row[name]))
        words.append(f"the best recall in that time has {told(best)}")
    return "; ".join(words) or f"of {len(rows)} measured none has either"


def choose_index(home: Home, target: Target, told: Told) -> tuple[list[Row], Row | None]:
    """Return all that was measured, and the row that `home` is searched with from now on.

    Where nothing reaches the target there is none, and what was chosen before stays.

    Raises:
        ValueError: there is no trained model, or no user to measure with.

    >>> from pathlib import Path
    >>> choose_index(Home(Path("no-such-home")), Target(0.99, 3), print)
    Traceback (most recent call last):
    ...
    ValueError: no-such-home has no model yet: run `ouzel train --data PATH --out no-such-home`
    """
    bundle = home.current()
    with home.log() as log:
        histories = sample_histories(log, NUM_USERS, valued=reads_values(bundle))
    # Its users choose: who is asked took no part in building.
    asked = asked_by(histories, _asking(bundle)).part(1)
    if not len(asked):
        raise ValueError(f"{home.root} has too few users with known events to measure with")
    rows: list[Row] = []
    best: tuple[Row, ChosenIndex, dict[str, NDArray[np.generic]]] | None = None
    vectors_ND = bundle.tensors("items")["vectors"]
    # A request of a home with a ranker searches for what the ranker orders, however short its list.
    breadth = BREADTH if {"ranker", CTR} & bundle.manifest.features.keys() else None
    if "blend" in bundle.manifest.features:
        breadth = BlendSources.breadth
    for row, engine in measure_engines(vectors_ND, asked, target, told, breadth=breadth):
        rows.append(row)
        told(f"{row['engine']} {row['parameters']}: p50 {row['p50_ms']:.2f} ms")
        if cheapest(rows, target) is row:
            # Only the best so far is kept: an engine may take gigabytes.
            best = row, _choice(bundle, row, engine, target, len(asked)), engine.to_tensors()
    for row in rows:
        row["chosen"] = best is not None and row is best[0]
    if best is None:
        return rows, None
    ChosenIndexes(home.root).write(best[1], best[2])
    return rows, best[0]


def _asking(bundle: Bundle) -> Graphs | HistoryFold:
    """Return what makes the vectors of users that the index of a Bundle is asked for."""
    if bundle.manifest.kind == "closed_form":
        raise ValueError(
            f"{bundle.manifest.model} adds up weights from item to item: it has no index to choose"
        )
    if bundle.manifest.kind == "encoder":
        return fold_in_of(bundle.tensors("fold_in"), bundle.tensors("items")["vectors"])
    return Graphs.of(bundle)


def _exact_best(vectors_ND: NDArray[np.float32], asked: Asked) -> NDArray[np.int32]:
    exact = ExactIndex(vectors_ND)
    return exact.search(asked.queries_BD, max(RECALL_KS), exclude=asked.seen)[0]


def _choice(bundle: Bundle, row: Row, engine: Engine, target: Target, count: int) -> ChosenIndex:
    recall = {f"recall@{k}": row[f"recall@{k}"] for k in RECALL_KS}
    return ChosenIndex(
        digest=bundle.digest,
        record=IndexRecord(
            engine=engine.name, effort=engine.effort, recall=recall, num_queries=count
        ),
        p50_ms=row["p50_ms"],
        p99_ms=row["p99_ms"],
        wanted_recall=target.recall,
        wanted_p99_ms=target.p99_ms,
        k=target.k,
        codes_sha256=None,
    )


def _timed_ms(engine: Engine, asked: Asked, k: int) -> tuple[float, float]:
    """Return p50 and p99 in ms over users who ask one at a time, each the best of its tries."""
    best_ms: dict[int, float] = {}
    for _ in range(TRIES):
        ends = time.perf_counter() + TIMED_SECONDS
        for user in range(len(asked)):
            alone = slice(user, user + 1)
            began = time.perf_counter()
            engine.search(asked.queries_BD[alone], k, exclude=asked.seen[alone])
            ended = time.perf_counter()
            best_ms[user] = min(best_ms.get(user, math.inf), 1000 * (ended - began))
            if user >= FEWEST_TIMED and ended > ends:
                break
    times_ms = list(best_ms.values())
    return float(np.percentile(times_ms, 50)), float(np.percentile(times_ms, 99))
