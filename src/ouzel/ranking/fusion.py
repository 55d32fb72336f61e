"""Lists of several sources as one: who proposed what, and an order without a common score.

Shape legend: K = candidates of the union, S = sources.

References:
    Cormack, Clarke, Büttcher: Reciprocal Rank Fusion outperforms Condorcet and individual Rank
    Learning Methods, SIGIR 2009.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from ouzel.retrieval.types import Candidates

RANK_OFFSET = 60
"""What the paper adds to every rank, so that no first place outweighs agreement."""


def unite(found: Candidates, more: Candidates) -> Candidates:
    """Return the candidates of both, each item once, with the rank that each source gave it.

    What is in both keeps the score and the place that it has in `found`; the rest follows.

    >>> one = Candidates.of("a", np.array([7, 3]), np.array([2.0, 1.0]))
    >>> both = unite(one, Candidates.of("b", np.array([3, 9]), np.array([5.0, 4.0])))
    >>> both.rows_K.tolist(), both.names, both.ranks_KS.tolist()
    ([7, 3, 9], ('a', 'b'), [[1, 0], [2, 1], [0, 2]])
    """
    first_KS, second_KS = ranks(found), ranks(more)
    order = np.argsort(found.rows_K, kind="stable")
    places = found.rows_K.searchsorted(more.rows_K, sorter=order)
    # One past the end stands for "not there".
    at = np.append(order, len(found))[places]
    known = np.append(found.rows_K, -1)[at] == more.rows_K
    fresh = np.flatnonzero(~known)
    ranks_KS = np.zeros((len(found) + len(fresh), len(found.names) + len(more.names)), np.int16)
    ranks_KS[: len(found), : len(found.names)] = first_KS
    ranks_KS[at[known], len(found.names) :] = second_KS[known]
    ranks_KS[len(found) :, len(found.names) :] = second_KS[fresh]
    shift = np.int8(len(found.names))
    return Candidates(
        np.concatenate([found.rows_K, more.rows_K[fresh]]),
        np.concatenate([found.scores_K, more.scores_K[fresh]]),
        np.concatenate([found.sources_K, more.sources_K[fresh] + shift]),
        found.names + more.names,
        ranks_KS,
    )


def fused_scores(ranks_KS: NDArray[np.int16], weights_S: Sequence[float]) -> NDArray[np.float32]:
    """Return the weighted reciprocal rank of each item, (K,): sum of w / (60 + rank).

    >>> fused_scores(np.array([[1, 0], [2, 1]], np.int16), [1.0, 0.5]).round(4)
    array([0.0164, 0.0243], dtype=float32)
    """
    reciprocal_KS = np.where(ranks_KS > 0, 1.0 / (RANK_OFFSET + ranks_KS), 0.0)
    return (reciprocal_KS @ np.asarray(weights_S, np.float64)).astype(np.float32)


def proposers(found: Candidates) -> list[list[str]]:
    """Return the names of the sources that proposed each item.

    >>> one = Candidates.of("a", np.array([7, 3]), np.array([2.0, 1.0]))
    >>> proposers(unite(one, Candidates.of("b", np.array([3]), np.array([5.0]))))
    [['a'], ['a', 'b']]
    """
    pairs = (zip(found.names, given, strict=True) for given in ranks(found).tolist())
    return [list(dict.fromkeys(name for name, rank in each if rank > 0)) for each in pairs]


def ranks(found: Candidates) -> NDArray[np.int16]:
    """Return the ranks (K, S) that sources gave; without a union, the places in the list.

    >>> ranks(Candidates.of("a", np.array([7, 3]), np.array([2.0, 1.0])))
    array([[1],
           [2]], dtype=int16)
    """
    if found.ranks_KS is not None:
        return found.ranks_KS
    ranks_KS = np.zeros((len(found), len(found.names)), np.int16)
    ranks_KS[np.arange(len(found)), found.sources_K] = np.arange(1, len(found) + 1)
    return ranks_KS
