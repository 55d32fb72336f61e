"""Evaluation of one list for each user against a set of items: splits that know no order.

Where a share of each user's items was held out at random, a user has one list of k unseen items,
and all that was held out is looked for in it. Recall@k is the share found of a user's items, NDCG@k
the discounted sum of the places of those found, as a share of the same sum for an ideal list; both
are means over users. Two ideals are in use: `ndcg@20` takes the list that begins with all that was
held out, `ndcg@20_kgat` one that begins with those of them that are among the first 100, as the
code of KGAT and its followers does. The second is never less, and is for comparison with them.

Shape legend: U = users with items held out, B = users of a batch, E = items held out, K = list.

References:
    Järvelin and Kekäläinen, "Cumulated Gain-Based Evaluation of IR Techniques", TOIS 2002. Wang et
    al., "KGAT: Knowledge Graph Attention Network for Recommendation", KDD 2019.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ouzel.evaluation.metrics import coverage, unseen_scores
from ouzel.evaluation.protocol import Scorer
from ouzel.evaluation.statistics import bootstrap
from ouzel.events.interactions import Interactions
from ouzel.retrieval.topk import top_k

REACH = 100
"""How far KGAT's code looks for what it calls ideal."""


@dataclass(frozen=True)
class HeldOut:
    """Of the user at position `users_U[u]` of the training part these rows were held out:
    `rows_E[offsets_U1[u]:offsets_U1[u + 1]]`, each once. A row of 0 is an item that nobody knows.
    """

    users_U: NDArray[np.int64]
    offsets_U1: NDArray[np.int64]
    rows_E: NDArray[np.int32]

    def lengths_U(self) -> NDArray[np.int64]:
        """Return how many items of each user were held out."""
        return np.diff(self.offsets_U1)


@dataclass(frozen=True)
class ListReport:
    """What lists of k had in them: `values_UM` are those of `METRICS`, `found_E` each item."""

    model: str
    k: int
    users_U: NDArray[np.int64]
    values_UM: NDArray[np.float64]
    found_E: NDArray[np.bool_]
    coverage: float

    def row(
        self, parts: Mapping[str, NDArray[np.bool_]], *, seed: int = 0
    ) -> dict[str, str | int | float]:
        """Return the table row: means with 95% interval ends, and recall in each of the parts.

        The recall of a part, (E,) of the items held out, is the share found of its items.
        """
        row: dict[str, str | int | float] = {"model": self.model, "split": "given"}
        intervals = bootstrap(self.values_UM, self.users_U, seed=seed)
        for name, interval in zip(METRICS, intervals, strict=True):
            key = name.format(k=self.k)
            row |= {key: interval.mean, f"{key}_low": interval.low, f"{key}_high": interval.high}
        row[f"coverage@{self.k}"] = self.coverage
        row["num_users"] = len(self.users_U)
        row["num_targets"] = len(self.found_E)
        for part, chosen_E in parts.items():
            row[f"num_{part}"] = int(chosen_E.sum())
            if chosen_E.any():
                row[f"recall@{self.k}_{part}"] = float(self.found_E[chosen_E].mean())
        return row


METRICS = ("recall@{k}", "ndcg@{k}", "ndcg@{k}_kgat", "hit_rate@{k}")


def evaluate_lists(
    scorer: Scorer,
    train: Interactions,
    held_out: HeldOut,
    *,
    model: str,
    k: int = 20,
    batch_size: int = 256,
    progress: Callable[[int, int], None] | None = None,
) -> ListReport:
    """Return the report of `scorer`, asked once about each user after the last event of `train`.

    Raises:
        ValueError: nothing was held out, or scores are of a wrong shape or NaN.

    >>> from ouzel.events.interactions import History, from_histories
    >>> train = from_histories([History(np.array([1], np.int32), np.array([10]))], num_rows=6)
    >>> held_out = HeldOut(np.array([0]), np.array([0, 2]), np.array([3, 5], np.int32))
    >>> scores = lambda histories, now_ms: np.array([[0, 9, 8, 7, 6, 5]], np.float32)
    >>> report = evaluate_lists(scores, train, held_out, model="fixed", k=2)
    >>> report.row({})["recall@2"]
    0.5
    """
    if not len(held_out.users_U):
        raise ValueError("nothing was held out of any known user: the test part is of other users")
    now_ms = int(train.times_ms_E.max(initial=0)) + 1
    values_UM = np.zeros((len(held_out.users_U), len(METRICS)))
    found_E = np.zeros(len(held_out.rows_E), np.bool_)
    shown_N = np.zeros(train.num_rows, np.bool_)
    for start in range(0, len(values_UM), batch_size):
        stop = min(start + batch_size, len(values_UM))
        users_B = held_out.users_U[start:stop]
        histories = [train.history(user) for user in users_B.tolist()]
        scores_BN = scorer(histories, np.full(len(users_B), now_ms))
        masked_BN = unseen_scores(scores_BN, [history.rows for history in histories])
        for user, scores_N in enumerate(masked_BN, start):
            span = slice(held_out.offsets_U1[user], held_out.offsets_U1[user + 1])
            best_K = top_k(scores_N, max(k, REACH))
            shown_N[best_K[:k]] = True
            wanted = held_out.rows_E[span]
            values_UM[user] = _values(np.isin(best_K, wanted), len(wanted), k)
            found_E[span] = np.isin(wanted, best_K[:k])
        if progress is not None:
            progress(stop, len(values_UM))
    return ListReport(model, k, held_out.users_U, values_UM, found_E, coverage(shown_N))


def _values(hits_K: NDArray[np.bool_], wanted: int, k: int) -> tuple[float, ...]:
    """Return the value of each of `METRICS` for a list that hits where `hits_K` says."""
    gains = 1 / np.log2(2.0 + np.arange(k))
    first = np.flatnonzero(hits_K[:k])
    gained = float(gains[first].sum())
    reached = min(k, int(hits_K.sum()))
    of_reached = gained / float(gains[:reached].sum()) if reached else 0.0
    ideal = float(gains[: min(k, wanted)].sum())
    return len(first) / wanted, gained / ideal, of_reached, float(len(first) > 0)
