"""Stages of a request that asks for more than the list of scores: gather widely, score alike.

Here every score is the logarithm of a weight: what the model gives, or that of a fused rank, or of
a count. So a factor is a sum, and weights divided by their sum are chances.
Shape legend: K = candidates of one query, D = dimensions of a vector, N = catalogue rows.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from msgspec.structs import replace
from numpy.typing import NDArray

from ouzel.ranking.arranging import VectorOf
from ouzel.ranking.blending import blended
from ouzel.ranking.fusion import RANK_OFFSET, fused_scores, ranks, unite
from ouzel.ranking.pipeline import Kind, Stage, Work
from ouzel.ranking.stages import SEQUENCE, SESSION
from ouzel.retrieval.arrangement import Boost
from ouzel.retrieval.types import Candidates, Query, Source, among, visible

PINNED = "pinned"
"""Source name of items that have a place of their own and that nobody else proposed."""

CALLER = "caller"
"""Source name of items that came with the request, until something scores them."""

UNSCORED = "unscored"
"""Source name of items that the model has no vector for: they come last, as they were sent."""


class Propose(Stage):
    """Adds what one source proposes, each item once and with all who proposed it.

    With weights of sources in the request it is asked if it has one; without, if the list is
    short of its breadth, but not at all if it is `extra`.
    """

    kind: Kind = "source"

    def __init__(
        self,
        source: Source,
        *,
        needs_history: bool = False,
        optional: bool = True,
        extra: bool = False,
    ) -> None:
        self.name = source.name
        self._source = source
        self.optional = optional
        self._needs_history = needs_history
        self._extra = extra

    def run(self, work: Work) -> Work:
        """Return the work with the proposals of this source."""
        pairs = zip(work.queries, work.found, strict=True)
        return work.with_found([self._proposed(query, found) for query, found in pairs])

    def _proposed(self, query: Query, found: Candidates) -> Candidates:
        weights = None if query.arrangement is None else query.arrangement.weights
        if weights is not None:
            asked = weights.get(self.name, 0.0) > 0
        else:
            asked = not self._extra and len(found) < query.gathered
        if not asked or (self._needs_history and not len(query.history)):
            return found
        return unite(found, self._source.candidates(query, query.gathered))


class Fuse(Stage):
    """Orders a union by weighted reciprocal ranks, and cuts it to its breadth; pins stay."""

    name = "fuse"
    kind: Kind = "score"

    def run(self, work: Work) -> Work:
        """Return the work with the best of each union, the order and scores those of ranks."""
        pairs = zip(work.queries, work.found, strict=True)
        return work.with_found([self._fused(query, found) for query, found in pairs])

    def _fused(self, query: Query, found: Candidates) -> Candidates:
        if query.arrangement is None or not len(found):
            return found
        pinned_K = np.isin(found.rows_K, list(query.arrangement.pins))
        weights = query.arrangement.weights
        if weights is None:
            return found.take(_widest(np.arange(len(found)), pinned_K, query.gathered))
        named = [weights.get(SEQUENCE if name == SESSION else name, 0.0) for name in found.names]
        # Whoever has no weight proposed nothing, searched for or not.
        ranks_KS = np.where(np.asarray(named) > 0, ranks(found), 0).astype(np.int16)
        fused_K = fused_scores(ranks_KS, named)
        first_K = np.where(ranks_KS.any(axis=1), (ranks_KS > 0).argmax(axis=1), found.sources_K)
        found = replace(found, sources_K=first_K.astype(np.int8), ranks_KS=ranks_KS)
        kept = np.flatnonzero((fused_K > 0) | pinned_K)
        order = kept[np.argsort(-fused_K[kept], kind="stable")]
        lowest = fused_K[fused_K > 0].min(initial=1.0) / 2
        found = scored(found, np.log(np.maximum(fused_K, lowest)))
        return found.take(_widest(order, pinned_K, query.gathered))


class OwnCandidates(Stage):
    """Adds the candidates that the caller sent, in that order."""

    name = CALLER
    kind: Kind = "source"

    def run(self, work: Work) -> Work:
        """Return the work with the caller's rows as candidates."""
        pairs = zip(work.queries, work.found, strict=True)
        return work.with_found([self._with_own(query, found) for query, found in pairs])

    def fallback(self, work: Work) -> Work:
        """Return the same: there is nothing else to answer with."""
        return OwnCandidates.run(self, work)

    def _with_own(self, query: Query, found: Candidates) -> Candidates:
        own_K = None if query.arrangement is None else query.arrangement.own_K
        if own_K is None:
            return found
        return Candidates.of(self.name, own_K, np.zeros(len(own_K), np.float32))


class Pinned(Stage):
    """Adds the items that have a place of their own, so that the filter sees them too."""

    name = "pins"
    kind: Kind = "source"

    def run(self, work: Work) -> Work:
        """Return the work with pinned rows among the candidates."""
        pairs = zip(work.queries, work.found, strict=True)
        return work.with_found([self._with_pins(query, found) for query, found in pairs])

    def _with_pins(self, query: Query, found: Candidates) -> Candidates:
        if query.arrangement is None or not query.arrangement.pins:
            return found
        rows = np.array(list(query.arrangement.pins), np.int32)
        if len(found):
            rows = rows[~among(rows, np.sort(found.rows_K))]
        return unite(found, Candidates.of(PINNED, rows, np.zeros(len(rows), np.float32)))


ScoresOf = Callable[[Query, NDArray[np.int32]], NDArray[np.float32] | None]
"""Scores (K,) of rows for a query by other means than vectors, -inf where there is none; None for a
query that it knows nothing of."""


class Relevance(Stage):
    """Gives all candidates of a query one score: the product of their vectors with the query's.

    A model without vectors has `scores_of`. Whoever has no score comes last as `UNSCORED`. A query
    of which the model knows nothing is ordered by the places its candidates have, and the caller's
    own candidates by `popularity_N`. What was fused or blended stays as it is; who came after a
    blend comes after it.
    """

    name = "relevance"
    kind: Kind = "score"
    optional = True

    def __init__(
        self,
        vector_of: VectorOf,
        popularity_N: NDArray[np.floating],
        *,
        scores_of: ScoresOf | None = None,
    ) -> None:
        self._vector_of = vector_of
        self._scores_of = scores_of
        self._popularity_N = popularity_N

    def run(self, work: Work) -> Work:
        """Return the work with scores that can be compared, best first."""
        pairs = zip(work.queries, work.found, strict=True)
        return work.with_found([self._scored(query, found) for query, found in pairs])

    def _scored(self, query: Query, found: Candidates) -> Candidates:
        arrangement = query.arrangement
        if not len(found) or arrangement is None or arrangement.weights is not None:
            return found
        blended_K = blended(found)
        if blended_K is not None:
            return _blend_first(found, blended_K)
        own = arrangement.own_K is not None
        name = None if not own else SESSION if query.user is None else SEQUENCE
        if query.vector is not None:
            return self._by_vector(query.vector, found, name)
        known_K = None if self._scores_of is None else self._scores_of(query, found.rows_K)
        if known_K is not None:
            return self._by_scores(known_K, np.isfinite(known_K), found, name)
        if own:
            return self._by_popularity(found)
        places_K = np.arange(1, len(found) + 1)
        return scored(found, -np.log(RANK_OFFSET + places_K))

    def _by_vector(
        self, vector: NDArray[np.float32], found: Candidates, name: str | None
    ) -> Candidates:
        """Return the candidates by their product; with a name it becomes that of their source."""
        vectors = [self._vector_of(row) for row in found.rows_K.tolist()]
        has_K = np.array([one is not None for one in vectors], np.bool_)
        known = [one for one in vectors if one is not None]
        scores_K = np.zeros(len(found), np.float32)
        if known:
            scores_K[has_K] = np.stack(known) @ vector
        return self._by_scores(scores_K, has_K, found, name)

    def _by_scores(
        self,
        scores_K: NDArray[np.float32],
        has_K: NDArray[np.bool_],
        found: Candidates,
        name: str | None,
    ) -> Candidates:
        """Return the candidates by their scores, those that have none last."""
        if not has_K.any():
            return self._by_popularity(found)
        scores_K[~has_K] = scores_K[has_K].min() - 1
        if name is not None or not has_K.all():
            found = _named(found, name, unscored_K=~has_K)
        return scored(found, scores_K).take(np.lexsort((-scores_K, ~has_K)))

    def _by_popularity(self, found: Candidates) -> Candidates:
        rows_K = found.rows_K
        known_K = rows_K < len(self._popularity_N)
        counts_K = np.where(known_K, self._popularity_N.take(rows_K, mode="clip"), 0.0)
        scores_K = np.log1p(counts_K).astype(np.float32)
        named = _named(found, "popular", unscored_K=~known_K)
        return scored(named, scores_K).take(np.lexsort((-scores_K, ~known_K)))


class BoostWeights(Stage):
    """Multiplies the weight of rows, exp(score), by the factors that the request gives them."""

    name = "boost"
    kind: Kind = "score"
    optional = True

    def run(self, work: Work) -> Work:
        """Return the work with boosted scores, best first."""
        pairs = zip(work.queries, work.found, strict=True)
        return work.with_found([self._boosted(query, found) for query, found in pairs])

    def _boosted(self, query: Query, found: Candidates) -> Candidates:
        if query.arrangement is None or not query.arrangement.boosts or not len(found):
            return found
        scores_K = found.scores_K.astype(np.float64)
        for boost in query.arrangement.boosts:
            scores_K[_boosted_by(boost, found.rows_K)] += math.log(boost.factor)
        order = np.argsort(-scores_K, kind="stable")
        return scored(found, scores_K).take(order)


def _blend_first(found: Candidates, blended_K: NDArray[np.bool_]) -> Candidates:
    scores_K = found.scores_K.copy()
    scores_K[~blended_K] = scores_K[blended_K].min(initial=0) - 1
    return scored(found, scores_K).take(np.argsort(-scores_K, kind="stable"))


def _boosted_by(boost: Boost, rows_K: NDArray[np.int32]) -> NDArray[np.bool_]:
    if boost.rows_R is not None:
        return among(rows_K, boost.rows_R) if len(boost.rows_R) else np.zeros(len(rows_K), np.bool_)
    if boost.hidden_N is None:
        return np.zeros(len(rows_K), np.bool_)
    # A filter has a mask of the rows that the model knows: of others it says nothing.
    return visible(rows_K, boost.hidden_N) & (rows_K < len(boost.hidden_N))


def scored(found: Candidates, scores_K: NDArray[np.floating]) -> Candidates:
    """Return the same candidates with other scores, in the same order.

    >>> one = Candidates.of("a", np.array([7, 3]), np.array([2.0, 1.0]))
    >>> scored(one, np.array([1.0, 5.0])).scores_K
    array([1., 5.], dtype=float32)
    """
    return replace(found, scores_K=scores_K.astype(np.float32))


def _widest(
    order: NDArray[np.integer], pinned_K: NDArray[np.bool_], most: int
) -> NDArray[np.integer]:
    """Return the first `most` of an order, and the pinned ones wherever they stand."""
    kept: NDArray[np.integer] = order[(np.arange(len(order)) < most) | pinned_K[order]]
    return kept


def _named(found: Candidates, name: str | None, *, unscored_K: NDArray[np.bool_]) -> Candidates:
    """Return the candidates with another source: `UNSCORED`, or `name` if one is given."""
    if name is not None:
        sources_K = unscored_K.astype(np.int8)
        return Candidates(found.rows_K, found.scores_K, sources_K, (name, UNSCORED))
    names = (*found.names, UNSCORED)
    sources_K = np.where(unscored_K, np.int8(len(found.names)), found.sources_K)
    ranks_KS = found.ranks_KS
    if ranks_KS is not None:
        ranks_KS = np.pad(ranks_KS, ((0, 0), (0, 1)))
    return Candidates(found.rows_K, found.scores_K, sources_K.astype(np.int8), names, ranks_KS)
