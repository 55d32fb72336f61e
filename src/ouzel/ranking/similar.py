"""Items like an item, on the request path of all lists."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from ouzel.events.interactions import History
from ouzel.ranking.pipeline import Pipeline
from ouzel.ranking.stages import SearchIndex
from ouzel.retrieval.types import Query, distinct_rows

SIMILAR = "similar"
"""Source name of items found with the vector of another item."""


def query_like(
    row: int,
    pipeline: Pipeline,
    *,
    k: int,
    now_ms: int,
    forbidden: NDArray[np.int32],
    hidden: NDArray[np.bool_] | None = None,
    deadline_ms: float = math.inf,
) -> Query:
    """Return the query for items like that of `row`, which may be hidden itself; 0: like none.

    They are found by its vector in the pipeline's index; what that leaves short is filled as in a
    session in which it alone was seen.

    >>> from ouzel.retrieval.exact import ExactIndex
    >>> pipeline = Pipeline([SearchIndex(ExactIndex(np.eye(4, dtype=np.float32)))])
    >>> query = query_like(2, pipeline, k=1, now_ms=0, forbidden=np.array([3], np.int32))
    >>> query.vector, query.forbidden
    (array([0., 0., 1., 0.], dtype=float32), array([2, 3], dtype=int32))
    """
    indexes = [stage.index for stage in pipeline.stages if isinstance(stage, SearchIndex)]
    itself = np.array([row][: row > 0], np.int32)
    return Query(
        k=k,
        now_ms=now_ms,
        history=History(itself, np.full(len(itself), now_ms, np.int64)),
        vector=indexes[0].vector(row) if indexes else None,
        source=SIMILAR,
        forbidden=distinct_rows(itself, forbidden),
        hidden=hidden,
        deadline_ms=deadline_ms,
    )
