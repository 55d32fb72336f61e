"""From a request to a `Query`: who asks and what is known of them, ids to rows."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from ouzel.events.catalog import Catalog
from ouzel.events.interactions import History
from ouzel.ranking.pipeline import Pipeline
from ouzel.ranking.similar import query_like
from ouzel.retrieval.arrangement import Arrangement
from ouzel.retrieval.types import Query, distinct_rows, no_history
from ouzel.serving.arranging import breadth_of
from ouzel.serving.timing import Timing
from ouzel.serving.visitors import Visitor, Visitors
from ouzel.serving.wire import RankRequest, RecommendRequest, SimilarRequest

logger = logging.getLogger(__name__)

ListRequest = RecommendRequest | SimilarRequest | RankRequest

_NO_ROWS: NDArray[np.int32] = np.empty(0, np.int32)


class Held(Protocol):
    """Whoever knows which user states are at hand (see `UserStates`)."""

    def contains(self, user: int) -> bool:
        """Return whether the user's state is."""
        ...


@dataclass(slots=True)
class Asked:
    """A request, its stop-watch, what it may not show, and how its list is put together."""

    request: ListRequest
    timing: Timing
    hidden: NDArray[np.bool_] | None
    arranged: Arrangement | None


class Queries:
    """Makes queries of requests; items like an item are found by the index of `pipeline`."""

    def __init__(
        self,
        visitors: Visitors,
        catalog: Catalog,
        pipeline: Pipeline,
        *,
        states: Held,
        num_rows: int,
    ) -> None:
        self._visitors = visitors
        self._catalog = catalog
        self._pipeline = pipeline
        self._states = states
        self._num_rows = num_rows

    def of(self, asked: Asked, now_ms: int, deadline_ms: float) -> tuple[Query, str | None]:
        """Return the query of a request, and the name of what failed on the way to it."""
        request = asked.request
        if isinstance(request, SimilarRequest):
            return self._like(request, asked.hidden, now_ms, deadline_ms)
        visitor, trouble = self._visitor(request)
        known = visitor.known if visitor is not None else no_history()
        user = visitor.user if visitor is not None else None
        forbidden = visitor.seen if visitor is not None and request.exclude_seen else _NO_ROWS
        if not isinstance(request, RankRequest):
            context, exclude = self._rows(request.items), self._rows(request.exclude_items)
            if len(exclude) or (len(context) and request.exclude_seen):
                shown = context if request.exclude_seen else _NO_ROWS
                forbidden = distinct_rows(forbidden, shown, exclude)
            if len(context):
                # What was just looked at is newer than all that is stored, and stored nowhere.
                known = _followed_by(known, context, now_ms)
                user = None
        arranged = asked.arranged
        query = Query(
            k=request.n or len(request.items),
            now_ms=now_ms,
            user=user,
            history=known,
            forbidden=forbidden,
            hidden=asked.hidden,
            deadline_ms=deadline_ms,
            breadth=0 if arranged is None else breadth_of(request, request.n or 0),
            arrangement=arranged,
        )
        return query, trouble

    def absent(self, request: ListRequest) -> int | None:
        """Return the user whose state this request needs and nobody holds, if there is one."""
        if isinstance(request, SimilarRequest):
            return None
        alone = isinstance(request, RecommendRequest) and bool(request.items)
        visitor, _ = (None, None) if alone else self._visitor(request)
        if visitor is None or not len(visitor.known) or self._states.contains(visitor.user):
            return None
        return visitor.user

    def _like(
        self,
        request: SimilarRequest,
        hidden: NDArray[np.bool_] | None,
        now_ms: int,
        deadline_ms: float,
    ) -> tuple[Query, str | None]:
        visitor, trouble = self._visitor(request) if request.exclude_seen else (None, None)
        itself = self._rows([request.item_id])
        seen = _NO_ROWS if visitor is None else visitor.seen
        query = query_like(
            int(itself[0]) if len(itself) else 0,
            self._pipeline,
            k=request.n,
            now_ms=now_ms,
            forbidden=distinct_rows(seen, self._rows(request.exclude_items)),
            hidden=hidden,
            deadline_ms=deadline_ms,
        )
        return query, trouble

    def _visitor(self, request: ListRequest) -> tuple[Visitor | None, str | None]:
        if request.user_id is None and request.session_id is None:
            return None, None
        try:
            return self._visitors.find(request.user_id, request.session_id), None
        except Exception:
            # A log that cannot be read costs the history, not the answer.
            logger.exception("the history of a visitor could not be read")
            return None, "history"

    def _rows(self, item_ids: list[str]) -> NDArray[np.int32]:
        if not item_ids:
            return _NO_ROWS
        rows = self._catalog.rows(item_ids)
        return rows[(rows > 0) & (rows < self._num_rows)]


def _followed_by(history: History, rows: NDArray[np.int32], now_ms: int) -> History:
    times_ms = np.full(len(rows), now_ms, np.int64)
    return history.followed_by(History(rows, times_ms))
