"""Which precision the states of a model are kept in: the smallest that costs next to nothing.

What a precision costs is measured on held-out events before anything is exported: how far user
vectors move from those of the model in float64, which of its ten best items stay in the list, and
NDCG@10.

Shape legend: B = histories, N = catalogue rows, D = vector size.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray

from ouzel.bundle.manifest import MeasuredPrecision, StatePrecision
from ouzel.evaluation.metrics import ndcg, rank_and_top
from ouzel.events.interactions import History
from ouzel.features.batches import pad_histories
from ouzel.features.states import Precision
from ouzel.inference.pool import slot_bytes
from ouzel.models.layers.precision import PRECISIONS
from ouzel.models.protocols import SequenceEncoder

LEAST_OVERLAP = 0.98
"""A precision is good enough if it keeps this share of the ten best items."""

LEAST_NDCG = 0.99
"""A precision is good enough if it keeps this share of NDCG@10."""

K = 10
BATCH_EVENTS = 1 << 22
"""Most squared events of a batch, which is what attention takes memory for."""


def choose_precision(
    model: SequenceEncoder, histories: Sequence[History], *, asked: str = "auto"
) -> StatePrecision:
    """Return the precision that `asked` names, and for every precision what it costs.

    The newest event of each of `histories` is the one to predict. "auto" takes the smallest
    precision within `LEAST_OVERLAP` and `LEAST_NDCG`, and float32 if there is nothing to measure.

    Raises:
        ValueError: vectors in the precision asked for are not finite, or there is nothing to round.

    >>> from ouzel.models.sequence.esasrec import ESASRec, ESASRecConfig
    >>> _ = torch.manual_seed(0)
    >>> model = ESASRec(ESASRecConfig(dim=16, window=4), num_rows=9).eval()
    >>> visit = History(np.array([3, 1, 4, 1, 5], np.int32), np.arange(5) * 10**7)
    >>> chosen = choose_precision(model, [visit])
    >>> chosen.chosen, [row.state_bytes for row in chosen.measured]
    ('int8', [1121, 609, 481])
    """
    histories = [history for history in histories if len(history) > 1]
    measured = _measure(model, histories) if histories else []
    finite = {row.precision: row for row in measured}
    if asked == "auto":
        good = [name for name, row in finite.items() if _good(row, finite["fp32"])]
        return StatePrecision(chosen=good[-1] if good else "fp32", measured=measured)
    if asked not in finite and (histories or asked not in _possible(model)):
        reason = "user vectors are not finite"
        if asked not in _possible(model):
            reason = f"those of {model.name} hold no keys and values"
        raise ValueError(f"states cannot be kept in {asked}: {reason}; choose auto")
    (chosen,) = (precision for precision in PRECISIONS if precision == asked)
    return StatePrecision(chosen=chosen, measured=measured)


def _possible(model: SequenceEncoder) -> tuple[Precision, ...]:
    return PRECISIONS if model.state.num_layers else PRECISIONS[:1]


def _good(row: MeasuredPrecision, reference: MeasuredPrecision) -> bool:
    return row.overlap_at_10 >= LEAST_OVERLAP and (
        row.ndcg_at_10 >= LEAST_NDCG * reference.ndcg_at_10
    )


def _measure(model: SequenceEncoder, histories: Sequence[History]) -> list[MeasuredPrecision]:
    """Return a row for each precision in which all vectors are finite."""
    items_ND = model.item_vectors().detach().numpy().astype(np.float64)
    exact = copy.deepcopy(model).double()
    truth_BD = user_vectors(exact, histories, "fp32")
    best = _best(truth_BD, items_ND, histories)[1]
    rows = []
    for precision in _possible(model):
        vectors_BD = user_vectors(model, histories, precision)
        if not np.isfinite(vectors_BD).all():
            continue
        gain, lists = _best(vectors_BD, items_ND, histories)
        kept = [len(one & other) / len(one) for one, other in zip(best, lists, strict=True) if one]
        rows.append(
            MeasuredPrecision(
                precision=precision,
                state_bytes=slot_bytes(replace(model.state, precision=precision)),
                vector_error=float(np.abs(vectors_BD - truth_BD).max()),
                overlap_at_10=float(np.mean(kept)) if kept else 1.0,
                ndcg_at_10=gain,
            )
        )
    return rows


def user_vectors(
    model: SequenceEncoder, histories: Sequence[History], precision: Precision
) -> NDArray[np.float64]:
    """Return the vectors (B, D) after all but the newest event, asked at the time of that one.

    >>> from ouzel.models.sequence.esasrec import ESASRec, ESASRecConfig
    >>> model = ESASRec(ESASRecConfig(dim=16, window=4), num_rows=9)
    >>> visit = History(np.array([3, 1], np.int32), np.array([10, 20]))
    >>> user_vectors(model, [visit], "int8").shape
    (1, 16)
    """
    before, model.precision = model.precision, precision
    field = model.config.receptive_field
    vectors_BD = np.zeros((len(histories), model.config.dim))
    order = np.argsort([len(history) for history in histories], kind="stable")
    start = 0
    while start < len(order):
        # The longest is the last one: cut off what would be too much.
        longest = min(field, len(histories[order[min(start + 15, len(order) - 1)]]))
        chosen = order[start : start + min(16, max(1, BATCH_EVENTS // longest**2))]
        vectors_BD[chosen] = _batch(model, [histories[at] for at in chosen], field)
        start += len(chosen)
    model.precision = before
    return vectors_BD


def _batch(model: SequenceEncoder, histories: Sequence[History], field: int) -> NDArray[np.float64]:
    read = [History(one.rows[:-1], one.times_ms[:-1]).last(field) for one in histories]
    padded = pad_histories(read)
    now_B = np.array([one.times_ms[-1] for one in histories], np.int64)
    with torch.no_grad():
        inputs = (padded.rows_BL, padded.times_BL, padded.length_B, now_B)
        return np.asarray(model.user_vectors(*map(torch.from_numpy, inputs)).numpy(), np.float64)


def _best(
    vectors_BD: NDArray[np.float64], items_ND: NDArray[np.float64], histories: Sequence[History]
) -> tuple[float, list[set[int]]]:
    """Return NDCG@10 and the ten best unseen items of each history."""
    gains, lists = [], []
    for vector_D, history in zip(vectors_BD, histories, strict=True):
        scores_1N = (items_ND @ vector_D).astype(np.float32)[None]
        rank_1, shown = rank_and_top(scores_1N, history.rows[-1:], [history.rows[:-1]], k=K)
        gains.append(ndcg(rank_1, K)[0])
        lists.append(set(shown.tolist()))
    return float(np.mean(gains)), lists
