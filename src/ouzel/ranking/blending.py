"""Stacking: the lists of several sources as one, weighed as was learned from what people took.

What a source says of an item is three numbers: that it proposes it at all, -log of the rank it has
in the list, and its score as a share of the way from the last to the first of that list; all are 0
where it does not. With x (S, F) these numbers, the score of an item is

    sum_sf (a_sf + b_sf / sqrt(n)) x_sf,

n the events of the history, so that what is trusted in a short history need not be in a long one.
Reciprocal-rank fusion (`ouzel.ranking.fusion`) is what serves where nothing was learned: a request
that gives weights of its own to sources is answered by that.

Cost: one list of each source, and 2 S F multiply-adds for each item of their union.

References:
    Wolpert, "Stacked Generalization", Neural Networks 1992. Burges, "From RankNet to LambdaRank to
    LambdaMART", 2010, for learning from ranks.

Shape legend: S = sources, F = numbers of an item from a source, K = items of the union.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from ouzel.ranking.blend_kernel import BLENDED_WITH, BREADTH, LONGEST_LIST, BlendKernel
from ouzel.ranking.pipeline import Kind, Stage, Work
from ouzel.retrieval.types import Candidates, Query, Source

NUM_FEATURES = 3

BLENDED = ("model", *BLENDED_WITH)
"""What is blended: the model of a Bundle, then session neighbours, then what is popular."""

Ordered = tuple[NDArray[np.integer], NDArray[np.floating]]
"""Rows and scores of a list, best first."""


def union_of(lists: Sequence[Ordered]) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    """Return the rows (K,) that are in any of S lists, ascending, and the numbers (K, S, F).

    >>> best, alike = np.array([7, 3]), np.array([3])
    >>> rows, numbers = union_of([(best, np.array([2.0, 1.0])), (alike, np.array([5.0]))])
    >>> rows.tolist(), numbers[:, :, 0].tolist(), numbers[0, 0].round(2).tolist()
    ([3, 7], [[1.0, 1.0], [1.0, 0.0]], [1.0, -0.6899999976158142, 0.0])
    """
    parts = [np.asarray(rows, np.int32) for rows, _ in lists]
    rows_K = np.unique(np.concatenate([*parts, np.empty(0, np.int32)]))
    numbers_KSF = np.zeros((len(rows_K), len(lists), NUM_FEATURES), np.float32)
    for source, (rows, (_, scores)) in enumerate(zip(parts, lists, strict=True)):
        if not len(rows):
            continue
        places = rows_K.searchsorted(rows)
        width = float(scores[0] - scores[-1])
        numbers_KSF[places, source, 0] = 1
        numbers_KSF[places, source, 1] = -np.log(np.arange(1.0, len(rows) + 1))
        numbers_KSF[places, source, 2] = (scores - scores[-1]) / width if width > 0 else 0.0
    return rows_K, numbers_KSF


def ranks_of(numbers_KSF: NDArray[np.float32]) -> NDArray[np.int16]:
    """Return the rank (K, S) that each source gave an item, from 1; 0: it did not propose it.

    >>> ranks_of(union_of([(np.array([7, 3]), np.array([2.0, 1.0]))])[1]).tolist()
    [[2], [1]]
    """
    ranks_KS = np.rint(np.exp(-numbers_KSF[:, :, 1])) * (numbers_KSF[:, :, 0] > 0)
    return np.asarray(ranks_KS, np.int16)


@dataclass(frozen=True)
class Blender:
    """What was learned: `weights_2SF`, those of every history and those of short ones.

    Raises:
        ValueError: they do not fit the sources.

    >>> one = Blender(np.ones((2, 4, 3)))
    >>> Blender.from_manifest(one.to_manifest()).weights_2SF.shape
    (2, 4, 3)
    """

    weights_2SF: NDArray[np.float64]

    def __post_init__(self) -> None:
        wanted = (2, len(BLENDED), NUM_FEATURES)
        if self.weights_2SF.shape != wanted or not np.isfinite(self.weights_2SF).all():
            raise ValueError(
                f"weights of a blender have shape {self.weights_2SF.shape}: give numbers of shape "
                f"{wanted}, or train again"
            )

    def scores(self, numbers_KSF: NDArray[np.float32], num_events: int) -> NDArray[np.float32]:
        """Return the scores (K,) of a union for a history of so many events."""
        weights_SF = self.weights_2SF[0] + self.weights_2SF[1] / np.sqrt(max(1, num_events))
        scores_K = np.zeros(len(numbers_KSF))
        # One after the other, so that the order of the sum is known: the kernel has the same.
        for source, feature in np.ndindex(weights_SF.shape):
            scores_K += numbers_KSF[:, source, feature] * weights_SF[source, feature]
        return scores_K.astype(np.float32)

    def to_manifest(self) -> dict[str, Any]:
        """Return what a manifest says of it."""
        return {"sources": list(BLENDED), "weights": self.weights_2SF.tolist()}

    @classmethod
    def from_manifest(cls, told: Mapping[str, Any]) -> Self:
        """Return what a manifest told.

        Raises:
            ValueError: it was made of other sources.
        """
        if tuple(told["sources"]) != BLENDED:
            raise ValueError(
                f"this model blends {', '.join(told['sources'])}, and here there are "
                f"{', '.join(BLENDED)}: train again"
            )
        return cls(np.array(told["weights"], np.float64))


class BlendSources(Stage):
    """Puts what the model found, and what the other sources propose, into one order.

    What was asked for by the vector of an item, a history of which the model knows nothing, and
    what a request with weights of its own for sources is to be made of, stay as they are.
    """

    name = "blend"
    kind: Kind = "source"
    optional = True
    breadth = BREADTH

    def __init__(self, blender: Blender, others: Sequence[Source]) -> None:
        """Make the stage; `others` are the sources `BLENDED` after the model.

        Raises:
            ValueError: they are not those.
        """
        names = tuple(source.name for source in others)
        if names != BLENDED[1:]:
            raise ValueError(f"sources {names}: give {BLENDED[1:]}")
        self._blender = blender
        self._others = tuple(others)
        self.kernel = BlendKernel.of(blender.weights_2SF, self._others)

    def run(self, work: Work) -> Work:
        """Return the work with the lists blended."""
        pairs = zip(work.queries, work.found, strict=True)
        return work.with_found([self.blended(query, found) for query, found in pairs])

    def blended(self, query: Query, found: Candidates) -> Candidates:
        """Return what the model found for a query, blended with what the others propose."""
        # A search that runs out of items gives what is forbidden too, with a score of -inf.
        # A longer list than that reaches as far into the model's own.
        known = np.flatnonzero(np.isfinite(found.scores_K))[: max(BREADTH, query.k)]
        if not len(known) or not len(query.history) or query.source or _weighs(query):
            return found
        told = found if len(known) == len(found) else found.take(known)
        if self.kernel is not None and len(told) <= LONGEST_LIST:
            columns = self.kernel.blend(query, told.rows_K, told.scores_K)
            if columns is not None:
                return Candidates(*columns[:3], (found.names[0], *BLENDED[1:]), columns[3])
        return self._by_arrays(query, told)

    def _by_arrays(self, query: Query, told: Candidates) -> Candidates:
        lists = [told, *(source.candidates(query, BREADTH) for source in self._others)]
        rows_K, numbers_KSF = union_of([(one.rows_K, one.scores_K) for one in lists])
        scores_K = self._blender.scores(numbers_KSF, len(query.history))
        blended = Candidates(
            rows_K,
            scores_K,
            (numbers_KSF[:, :, 0] > 0).argmax(axis=1).astype(np.int8),
            (told.names[0], *BLENDED[1:]),
            ranks_of(numbers_KSF),
        )
        return blended.take(np.argsort(-scores_K, kind="stable"))


def _weighs(query: Query) -> bool:
    return query.arrangement is not None and query.arrangement.weights is not None


def blended(found: Candidates) -> NDArray[np.bool_] | None:
    """Return which candidates (K,) were blended, None if none were: others may have come after it.

    >>> blended(Candidates.of("popular", np.array([7]), np.array([1.0]))) is None
    True
    """
    if found.ranks_KS is None or found.names[1 : len(BLENDED)] != BLENDED[1:]:
        return None
    return np.asarray(found.ranks_KS[:, : len(BLENDED)].any(axis=1), np.bool_)
