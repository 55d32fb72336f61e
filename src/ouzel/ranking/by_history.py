"""The stages of models that keep no state: what they need is made of the history in the query.

The history of a query has every acknowledged event in it, so every click counts at once.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from ouzel.events.interactions import History
from ouzel.ranking.pipeline import Kind, Stage, Work
from ouzel.ranking.stages import SEQUENCE, SESSION, join
from ouzel.retrieval.item_item import ItemItem
from ouzel.retrieval.types import Candidates, Query


class HistoryVectors(Protocol):
    """What makes a vector of a history (`ouzel.inference.fold_in`)."""

    def query_session(self, history: History, now_ms: int) -> NDArray[np.float32] | None:
        """Return the vector (D,) of a history, None if nothing in it is known."""
        ...


class FoldInUser(Stage):
    """Gives each query the vector of its history; one that came with a vector keeps it."""

    name = "state"
    kind: Kind = "hydrate"
    optional = True

    def __init__(self, vectors: HistoryVectors) -> None:
        self._vectors = vectors

    def run(self, work: Work) -> Work:
        """Return the work with vectors in its queries."""
        queries = tuple(self._with_vector(query) for query in work.queries)
        return Work(queries, work.found)

    def _with_vector(self, query: Query) -> Query:
        if query.vector is not None or not len(query.history):
            return query
        vector = self._vectors.query_session(query.history, query.now_ms)
        if vector is not None and not np.isfinite(vector).all():
            raise ValueError("the model gave a vector with NaN or infinity: train again")
        return query.with_vector(vector)


class AddWeights(Stage):
    """Finds the items that those of the history give most weight."""

    name = "search"
    kind: Kind = "source"
    optional = True

    def __init__(self, item_item: ItemItem) -> None:
        self._item_item = item_item

    def run(self, work: Work) -> Work:
        """Return the work with candidates for each query that has a history."""
        pairs = zip(work.queries, work.found, strict=True)
        return work.with_found([self._found(query, found) for query, found in pairs])

    def scores(self, query: Query, rows_K: NDArray[np.int32]) -> NDArray[np.float32] | None:
        """Return the score (K,) of given rows, -inf of those the model knows nothing of.

        None for a query without a history.
        """
        if not len(query.history):
            return None
        scores_N = self._item_item.scores(query.history.rows)
        within_K = rows_K < len(scores_N)
        return np.where(within_K, scores_N.take(rows_K, mode="clip"), np.float32(-np.inf))

    def _found(self, query: Query, found: Candidates) -> Candidates:
        if not len(query.history):
            return found
        rows_K, scores_K = self._item_item.search(
            query.history.rows, query.gathered, forbidden=query.forbidden, hidden=query.hidden
        )
        name = query.source or (SESSION if query.user is None else SEQUENCE)
        return join(found, Candidates.of(name, rows_K, scores_K))
