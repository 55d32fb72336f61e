"""How far what serves is from what was trained, measured on real histories before a Bundle is kept.

Three promises of a Bundle: its graphs give the vectors of the torch model, appending events one by
one gives what encoding the whole history gives, and the score graph gives the torch model's inner
products. All within `PARITY_BOUND` in float32.

States in float16 or int8 round what they keep, and a difference in the last bit of a float32 now
and then rounds an entry to the next step. So what appending and exporting may cost there is
measured against what rounding costs: on the worst history no more than on its worst, on the median
one no more than a fraction of its median.

Shape legend: B = histories, K = candidates, D = vector size.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from ouzel.events.interactions import History
from ouzel.features.batches import pad_histories
from ouzel.features.examples import Examples
from ouzel.inference.encoding import HistoryEncoder, ask, encode_into
from ouzel.inference.onnxruntime import FieldsGraph, Graphs
from ouzel.inference.pool import StatePool, rings, slot_bytes
from ouzel.inference.states import UserStates
from ouzel.models.ctr.base import CTRModel
from ouzel.models.protocols import Ranker, SequenceEncoder

PARITY_BOUND = 1e-4
"""Largest absolute difference of a user vector's entries, and of a score."""

ROUNDING_SHARE = 0.25
"""Of what rounding does to the median history, what the graphs may do in addition."""

APPENDED_EVENTS = 32
"""How many of its newest events each history of the append check receives one by one."""

FIELDS_READ = 2
"""Of the longest histories, as many events are checked as this many receptive fields."""

CHECKED_EXAMPLES = 256
"""How many examples a model of fields and its graph are compared on."""

SCORED_ITEMS = 100
REQUEST_DELAY_MS = 3_600_000
POOL_BYTES = 256 << 20


def measure_parity(
    model: SequenceEncoder, graphs: Graphs, histories: Sequence[History]
) -> dict[str, float]:
    """Return the largest differences: `export` (graphs to torch), `append` (chain to encode),
    `score` (graph to inner product).

    `model` rounds as the states of `graphs` do.

    Raises:
        ValueError: one is above its bound: such graphs must not be served.

    >>> from types import SimpleNamespace
    >>> from ouzel.features.states import StateShape
    >>> class Constant(torch.nn.Module):
    ...     precision = "fp32"
    ...     def user_vectors(self, rows_BL, times_BL, length_B, now_B):
    ...         return torch.ones(len(rows_BL), 1)
    ...     def item_vectors(self):
    ...         return torch.ones(2, 1)
    >>> ring = np.ones((1, 1, 1, 1), np.float32)
    >>> graphs = SimpleNamespace(
    ...     shape=StateShape(1, 1, 1, 1), num_rows=2, counts_from_start=True,
    ...     encode=lambda *_: [ring, ring, np.ones((1, 1), np.float32)],
    ...     query=lambda **state: np.full((1, 1), 1.5, np.float32),
    ...     item=lambda rows: np.ones((2, 1), np.float32),
    ...     score=lambda *, query_BD, **read: query_BD[:, :, None])
    >>> visit = History(np.array([1], np.int32), np.array([10], np.int64))
    >>> measure_parity(Constant(), graphs, [visit])  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    ...
    ValueError: the exported graphs are off by 0.5 (export), more than 0.0001; train again, ...
    """
    most_events = FIELDS_READ * graphs.shape.receptive_field
    histories = [history.last(most_events) for history in histories if len(history)]
    expected = np.array([_torch_vector(model, history) for history in histories])
    rounding_B = _by_history(expected, _unrounded(model, histories))
    encoder = HistoryEncoder(graphs)
    encoded, _ = encoder(histories, np.array([_request_ms(history) for history in histories]))
    appended = np.array([_appended(graphs, history) for history in histories])
    found = {"export": _by_history(encoded, expected), "append": _by_history(appended, encoded)}
    most = PARITY_BOUND + rounding_B.max(initial=0.0)
    usual = PARITY_BOUND + ROUNDING_SHARE * float(np.median(rounding_B))
    for name, off_B in found.items():
        _check(name, float(off_B.max(initial=0.0)), most)
        _check(name, float(np.median(off_B)), usual)
    score = _score_difference(model, graphs, encoded)
    _check("score", score, PARITY_BOUND)
    return {name: float(off_B.max(initial=0.0)) for name, off_B in found.items()} | {"score": score}


def measure_ranker_parity(
    ranker: Ranker,
    graphs: Graphs,
    tables: tuple[NDArray[np.float32], NDArray[np.float32]],
    histories: Sequence[History],
) -> dict[str, float]:
    """Return the largest difference `rank` of the ranker's graph to the ranker, on real states.

    `tables` are the output-side item vectors (N, D) and the ranker's lines (N, F) of all rows.

    Raises:
        ValueError: it is above `PARITY_BOUND`: such a graph must not be served.

    >>> from types import SimpleNamespace
    >>> nothing = (np.ones((2, 1), np.float32), np.ones((2, 1), np.float32))
    >>> measure_ranker_parity(SimpleNamespace(), SimpleNamespace(), nothing, [])
    {'rank': 0.0}
    """
    differences = [0.0]
    for history in histories:
        if not len(history):
            continue
        pool = StatePool(graphs.shape, max_bytes=slot_bytes(graphs.shape))
        encode_into(graphs, pool, [0], [history])
        slot_B, now_B = np.zeros(1, np.int64), np.array([_request_ms(history)])
        asked = {
            "query_BD": ask(graphs, pool, slot_B, now_B),
            "now_B": now_B,
            "length_B": pool.length_S[slot_B],
            "slot_B": slot_B,
            "candidates_BK": _spread_rows(len(tables[0]))[None],
        }
        logits_BKA = graphs.rank(**asked, tables=tables, cache=pool.cache)
        inputs = {name: torch.from_numpy(array) for name, array in asked.items()}
        vectors_ND, items_NF, *cache = map(
            torch.from_numpy, (*tables, *pool.cache[-len(rings(graphs.shape)) :])
        )
        with torch.no_grad():
            expected = ranker.rank(*inputs.values(), vectors_ND, items_NF, *cache)
        differences.append(float(np.abs(logits_BKA - expected.numpy()).max(initial=0.0)))
    worst = max(differences)
    _check("rank", worst, PARITY_BOUND)
    return {"rank": worst}


def measure_ctr_parity(
    model: CTRModel, graph: FieldsGraph, examples: Examples, items_NS: NDArray[np.integer]
) -> float:
    """Return the largest difference of the graph of a model of fields to the model, on examples.

    Raises:
        ValueError: it is above `PARITY_BOUND`: such a graph must not be served.

    >>> from types import SimpleNamespace
    >>> from ouzel.features.examples import Past
    >>> nothing = Past(np.zeros(0, np.int32), np.zeros(1, np.int64), np.zeros(1, np.int64))
    >>> one = Examples(np.ones((1, 1), np.int32), np.array([[1]]), np.ones((1, 1, 1)), nothing)
    >>> model = lambda requests, history, length, rows, items: rows.float().unsqueeze(-1)
    >>> model.layout = SimpleNamespace(history=0)
    >>> graph = lambda *, candidates_BK, **others: 2.0 * candidates_BK[:, :, None]
    >>> measure_ctr_parity(model, graph, one, np.ones((2, 1)))  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    ...
    ValueError: the exported graphs are off by 1 (ctr), more than 0.0001; train again, ...
    """
    chosen_B = np.linspace(0, len(examples) - 1, CHECKED_EXAMPLES).astype(np.int64)
    history_BL, length_B = examples.past.newest(chosen_B, max(1, model.layout.history))
    asked = {
        "requests_BS": examples.requests_ES[chosen_B].astype(np.int64),
        "history_BL": history_BL,
        "length_B": length_B,
        "candidates_BK": examples.rows_EK[chosen_B].astype(np.int64),
        "items_NS": np.asarray(items_NS, np.int64),
    }
    with torch.no_grad():
        expected = model(*map(torch.from_numpy, asked.values())).numpy()
    worst = float(np.abs(graph(**asked) - expected).max(initial=0.0))
    _check("ctr", worst, PARITY_BOUND)
    return worst


def _check(name: str, off: float, bound: float) -> None:
    if not off <= bound:
        raise ValueError(
            f"the exported graphs are off by {off:.2g} ({name}), more than {bound:g}; "
            "train again, and report this with the versions that `ouzel doctor` prints"
        )


def _unrounded(model: SequenceEncoder, histories: Sequence[History]) -> NDArray[np.float32]:
    """Return the vectors of a model that keeps its states in float32."""
    precision, model.precision = model.precision, "fp32"
    try:
        return np.array([_torch_vector(model, history) for history in histories])
    finally:
        model.precision = precision


def _by_history(found: NDArray[np.float32], expected: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the largest difference (B,) of two sets of vectors (B, D)."""
    off_B: NDArray[np.float32] = np.abs(found - expected).max(axis=1)
    return off_B


def _spread_rows(num_rows: int) -> NDArray[np.int64]:
    """Return a few rows spread over the catalogue."""
    return np.unique(np.linspace(1, num_rows - 1, SCORED_ITEMS).astype(np.int64))


def _torch_vector(model: SequenceEncoder, history: History) -> NDArray[np.float32]:
    # All of it: positions decide how keys are rounded, and here they count from the first event.
    padded = pad_histories([history])
    now_B = np.array([_request_ms(history)])
    with torch.no_grad():
        inputs = (padded.rows_BL, padded.times_BL, padded.length_B, now_B)
        return np.asarray(model.user_vectors(*map(torch.from_numpy, inputs))[0].numpy(), np.float32)


def _appended(graphs: Graphs, history: History) -> NDArray[np.float32]:
    """Return the vector after the newest events came in one by one."""
    first = max(1, len(history) - APPENDED_EVENTS)
    start = History(history.rows[:first], history.times_ms[:first])
    states = UserStates(
        graphs, max_bytes=POOL_BYTES, load_history=lambda user: start, version="parity"
    )
    vectors, _ = states.query([0], _request_ms(history))
    for row, time_ms in zip(
        history.rows[first:].tolist(), history.times_ms[first:].tolist(), strict=True
    ):
        states.observe(0, row, time_ms)
        vectors, _ = states.query([0], _request_ms(history))
    vector: NDArray[np.float32] = vectors[0]
    return vector


def _score_difference(
    model: SequenceEncoder, graphs: Graphs, queries_BD: NDArray[np.float32]
) -> float:
    """Return the difference of scores of a few items spread over the catalogue."""
    candidates_K = _spread_rows(graphs.num_rows)
    each_B = np.zeros(len(queries_BD), np.int64)
    states = StatePool(graphs.shape, max_bytes=slot_bytes(graphs.shape))
    logits = graphs.score(
        query_BD=queries_BD,
        length_B=each_B,
        slot_B=each_B,
        candidates_BK=np.tile(candidates_K, (len(queries_BD), 1)),
        vectors_ND=graphs.item(np.arange(graphs.num_rows)),
        cache=states.cache,
    )
    with torch.no_grad():
        expected = queries_BD @ model.item_vectors().numpy()[candidates_K].T
    return float(np.abs(logits[:, :, 0] - expected).max(initial=0.0))


def _request_ms(history: History) -> int:
    return int(history.times_ms[-1]) + REQUEST_DELAY_MS
