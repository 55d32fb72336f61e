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
from ouzel.inference.fields import FieldRanker
from ouzel.inference.onnxruntime import Graphs
from ouzel.inference.pool import StatePool, slot_bytes
from ouzel.inference.ranking import AT_ONCE, NO_VECTOR, Asking
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
        for scores_N, rows, ranked_K in zip(scores_BN, best, logits_BKA @ weights_A, strict=True):
            _put_first(scores_N, rows, ranked_K)
        return scores_BN

    def score(histories: list[History], now_ms: NDArray[np.int64]) -> NDArray[np.float32]:
        scores_BN = np.zeros((len(histories), len(vectors_ND)), np.float32)
        chosen = np.flatnonzero([len(known_events(graphs, history)) > 0 for history in histories])
        for start in range(0, len(chosen), ENCODE_BATCH):
            part = chosen[start : start + ENCODE_BATCH]
            scores_BN[part] = ranked([histories[at] for at in part.tolist()], now_ms[part])
        return scores_BN

    return score


def reordered_scorer(
    score: Scorer, ranker: FieldRanker, *, weights_A: NDArray[np.float32], breadth: int
) -> Scorer:
    """Return the scorer that puts the best `breadth` unseen items of another in a ranker's order.

    Who has no history, or of whom the other knows nothing, keeps the scores that there are.

    >>> from types import SimpleNamespace
    >>> backwards = lambda asking, rows_BK: (-rows_BK[:, :, None].astype(np.float32), [True])
    >>> plain = lambda histories, now_ms: np.array([[0, 1, 5, 9]], np.float32)
    >>> told = {"weights_A": np.ones(1, np.float32), "breadth": 2}
    >>> score = reordered_scorer(plain, SimpleNamespace(logits=backwards, num_rows=4), **told)
    >>> visit = History(np.array([1], np.int32), np.array([10], np.int64))
    >>> int(score([visit], np.array([20])).argmax())
    2
    """

    def reordered(histories: list[History], now_ms: NDArray[np.int64]) -> NDArray[np.float32]:
        scores_BN = np.array(score(histories, now_ms), np.float32)
        known_BN = scores_BN[:, 1 : ranker.num_rows]
        told_B = known_BN.max(axis=1) > known_BN.min(axis=1)
        lines = [at for at, history in enumerate(histories) if len(history) and told_B[at]]
        for start in range(0, len(lines), AT_ONCE):
            part = lines[start : start + AT_ONCE]
            asking = [Asking(None, histories[at], NO_VECTOR, int(now_ms[at])) for at in part]
            seen = [histories[at].rows for at in part]
            unseen_BN = unseen_scores(scores_BN[part, : ranker.num_rows], seen)
            best = [top_k(scores_N, breadth) for scores_N in unseen_BN]
            logits_BKA, _ = ranker.logits(asking, _padded(best))
            for at, rows, ranked_K in zip(part, best, logits_BKA @ weights_A, strict=True):
                _put_first(scores_BN[at], rows, ranked_K)
        return scores_BN

    return reordered


def _put_first(
    scores_N: NDArray[np.float32], rows: NDArray[np.integer], ranked_K: NDArray[np.float32]
) -> None:
    """Give some rows their ranked scores, and all others lower ones in the order they had."""
    if len(rows):
        ours_K = ranked_K[: len(rows)]
        scores_N += ours_K.min() - scores_N.max() - 1
        scores_N[rows] = ours_K


def _padded(rows: Sequence[NDArray[np.integer]]) -> NDArray[np.int64]:
    """Return rows as lines (B, K), padded with 0."""
    rows_BK = np.zeros((len(rows), max(map(len, rows))), np.int64)
    for line_K, of_one in zip(rows_BK, rows, strict=True):
        line_K[: len(of_one)] = of_one
    return rows_BK
