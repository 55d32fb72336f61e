"""Retrieval and ranker together as a scorer: what serving runs, over the whole catalogue.

Shape legend: B = targets of a batch, K = candidates, A = actions, N = catalogue rows with padding,
D = vector size, F = a line of the ranker's item table.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from ouzel.evaluation.metrics import unseen_scores
from ouzel.evaluation.protocol import Scorer
from ouzel.events.interactions import History
from ouzel.inference.encoding import ENCODE_BATCH, ask, encode_into, known_events
from ouzel.inference.onnxruntime import Graphs
from ouzel.inference.pool import StatePool, slot_bytes
from ouzel.retrieval.topk import top_k


def ranked_scorer(
    graphs: Graphs,
    tables: tuple[NDArray[np.float32], NDArray[np.float32]],
    *,
    weights_A: NDArray[np.float32],
    breadth: int,
) -> Scorer:
    """Return the scorer that puts the best `breadth` unseen items by retrieval in ranked order.

    `tables` are the output-side item vectors (N, D) and the ranker's own lines (N, F). Items that
    are no candidates come after those that are, in the order of retrieval. A user without known
    events gets the same score for every item, which ranks as a miss.

    >>> from types import SimpleNamespace
    >>> from ouzel.features.states import StateShape
    >>> graphs = SimpleNamespace(shape=StateShape(1, 1, 2, 4), num_rows=3)
    >>> tables = np.ones((3, 2), np.float32), np.ones((3, 5), np.float32)
    >>> score = ranked_scorer(graphs, tables, weights_A=np.ones(1, np.float32), breadth=2)
    >>> unknown = History(np.array([7], np.int32), np.array([10], np.int64))
    >>> score([unknown], np.array([20])).tolist()
    [[0.0, 0.0, 0.0]]
    """
    scratch = StatePool(graphs.shape, max_bytes=ENCODE_BATCH * slot_bytes(graphs.shape))
    vectors_ND = tables[0]

    def ranked(histories: list[History], now_B: NDArray[np.int64]) -> NDArray[np.float32]:
        slot_B = np.arange(len(histories))
        known = [known_events(graphs, history) for history in histories]
        encode_into(graphs, scratch, slot_B.tolist(), known)
        query_BD = ask(graphs, scratch, slot_B, now_B)
        scores_BN = np.asarray(query_BD @ vectors_ND.T, np.float32)
        unseen_BN = unseen_scores(scores_BN, [history.rows for history in histories])
        best = [top_k(scores_N, breadth) for scores_N in unseen_BN]
        logits_BKA = graphs.rank(
            query_BD=query_BD,
            now_B=now_B,
            candidates_BK=_padded(best),
            tables=tables,
            length_B=scratch.length_S[slot_B],
            slot_B=slot_B,
            cache=scratch.cache,
        )
        for line, (rows, ranked_K) in enumerate(zip(best, logits_BKA @ weights_A, strict=True)):
            if len(rows):
                ours_K = ranked_K[: len(rows)]
                scores_BN[line] += ours_K.min() - scores_BN[line].max() - 1
                scores_BN[line, rows] = ours_K
        return scores_BN

    def score(histories: list[History], now_ms: NDArray[np.int64]) -> NDArray[np.float32]:
        scores_BN = np.zeros((len(histories), len(vectors_ND)), np.float32)
        chosen = np.flatnonzero([len(known_events(graphs, history)) > 0 for history in histories])
        for start in range(0, len(chosen), ENCODE_BATCH):
            part = chosen[start : start + ENCODE_BATCH]
            scores_BN[part] = ranked([histories[at] for at in part.tolist()], now_ms[part])
        return scores_BN

    return score


def _padded(rows: Sequence[NDArray[np.integer]]) -> NDArray[np.int64]:
    """Return rows as lines (B, K), padded with 0."""
    rows_BK = np.zeros((len(rows), max(map(len, rows))), np.int64)
    for line_K, of_one in zip(rows_BK, rows, strict=True):
        line_K[: len(of_one)] = of_one
    return rows_BK
