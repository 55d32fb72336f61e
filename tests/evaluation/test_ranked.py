"""Retrieval and ranker as one scorer."""

from __future__ import annotations

import numpy as np

from ouzel.evaluation.ranked import ranked_scorer
from ouzel.evaluation.sequence import sequence_scorer
from ouzel.inference.pool import slot_bytes
from ouzel.inference.ranking import Asking, StateRanker
from ouzel.inference.states import UserStates
from ouzel.retrieval.topk import top_k
from tests.tiny import ACTIONS, random_history, tiny_ranked_graphs, tiny_tables

HISTORIES = [random_history(np.random.default_rng(n), n) for n in (1, 9, 20)]
NOW = np.array([int(history.times_ms[-1]) + 1000 for history in HISTORIES])
WEIGHTS = np.array([1.0, 0.5], np.float32)
BREADTH = 6


def test_candidates_come_first_in_the_order_that_serves() -> None:
    graphs, tables = tiny_ranked_graphs(), tiny_tables()
    scores_BN = ranked_scorer(graphs, tables, weights_A=WEIGHTS, breadth=BREADTH)(HISTORIES, NOW)
    retrieval_BN = sequence_scorer(graphs, tables[0])(HISTORIES, NOW)
    states = UserStates(
        graphs,
        max_bytes=3 * slot_bytes(graphs.shape),
        load_history=HISTORIES.__getitem__,
        version="test",
    )
    ranker = StateRanker(states, actions=ACTIONS, vectors_ND=tables[0], items_NF=tables[1])
    for user, (history, now_ms) in enumerate(zip(HISTORIES, NOW.tolist(), strict=True)):
        unseen_N = retrieval_BN[user].copy()
        unseen_N[[0, *history.rows]] = -np.inf
        best = top_k(unseen_N, BREADTH)
        vectors, _ = states.query([user], now_ms)
        logits, _ = ranker.logits([Asking(user, history, vectors[0], now_ms)], best[None])
        np.testing.assert_allclose(scores_BN[user, best], logits[0] @ WEIGHTS, atol=1e-4)
        others = np.setdiff1d(np.flatnonzero(unseen_N > -np.inf), best)
        assert scores_BN[user, others].max() < scores_BN[user, best].min()
        by_retrieval = others[np.argsort(-retrieval_BN[user, others], kind="stable")]
        assert (np.diff(scores_BN[user, by_retrieval]) <= 1e-4).all()
