"""Lists for users whose state is at hand, without a task, a future or a turn of stages.

Nearly every request is `{"user_id": "..."}` of a user who was here a moment ago. Those that came in
one turn of the event loop share one pass of `DirectSearch`, and their replies are written from
there. Everybody else, and whoever finds no full list here, takes the way of all routes, which gives
the same answer at three times the cost.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache
from itertools import chain
from typing import Annotated, Protocol

import msgspec
import numpy as np
from msgspec import Meta
from numpy.typing import NDArray

from ouzel.events import clock
from ouzel.events.catalog import Catalog
from ouzel.events.ids import RANDOM_BYTES, time_ordered_id
from ouzel.events.types import Impression
from ouzel.ranking.blending import BLENDED
from ouzel.ranking.direct import DirectSearch, Lists
from ouzel.ranking.stages import SEQUENCE
from ouzel.retrieval.types import Query
from ouzel.serving.answers import MAX_PASS, MAX_WAITING
from ouzel.serving.arranging import Id
from ouzel.serving.metrics import Metrics
from ouzel.serving.problem import DECODE_ERRORS
from ouzel.serving.timing import Part, Timing
from ouzel.serving.visitors import Visitor, Visitors
from ouzel.serving.wire import MAX_N, ModelName
from ouzel.serving.writer import LogWriter

logger = logging.getLogger(__name__)

MOST_ABSENT = 64
"""Most requests that may wait for states to be made here, at most 2 ms each: the others are made by
the stages, which leave out what the deadline does not allow."""

_PARTS: dict[str, Part] = {"state": "P", "search": "A", "blend": "A"}
_encode = msgspec.json.Encoder().encode


class PlainRequest(msgspec.Struct, forbid_unknown_fields=True):
    """A `RecommendRequest` that asks for nothing but a list."""

    user_id: Id
    n: Annotated[int, Meta(ge=1, le=MAX_N)] = 10


_decode = msgspec.json.Decoder(PlainRequest).decode


class Asking(Protocol):
    """A connection with a request on it."""

    def reply(self, body: bytes, timing: Timing) -> None:
        """Send the answer."""
        ...

    def go_on(self) -> None:
        """Take the way of all routes."""
        ...


class _Waiting(msgspec.Struct, eq=False, gc=False):
    asking: Asking
    user_id: str
    n: int
    timing: Timing
    visitor: Visitor | None


class Direct:
    """Answers plain requests for lists; lives in one event loop.

    Users whose state is held share passes. If it `encodes`, the state of another user is made here,
    in a turn of the loop of its own, so that nobody else waits for more than one of them.

    `hidden` gives the mask (N,) of what nobody may see now, None if all may be seen. `learned` is
    told of heads that were let in, and of the length of the body behind them, `answered` of users
    who were answered.
    """

    def __init__(
        self,
        search: DirectSearch,
        visitors: Visitors,
        catalog: Catalog,
        *,
        hidden: Callable[[], NDArray[np.bool_] | None],
        model: ModelName,
        writer: LogWriter,
        metrics: Metrics,
        encodes: bool,
    ) -> None:
        self._search = search
        self._encodes = encodes
        self._visitors = visitors
        self._catalog = catalog
        self._hidden = hidden
        self._version = model.version
        self._model = _encode(model).decode()
        self._steps: list[tuple[Part, str]] = [(_PARTS[name], name) for name in search.steps]
        self._writer = writer
        self._metrics = metrics
        self._waiting: list[_Waiting] = []
        self._absent: list[_Waiting] = []
        self.learned: Callable[[bytes, int], None] = _nothing
        self.answered: Callable[[int], None] = _nobody

    @property
    def waiting(self) -> int:
        """Return how many requests wait for a pass."""
        return len(self._waiting) + len(self._absent)

    def take(self, asking: Asking, body: bytes, loop: asyncio.AbstractEventLoop) -> bool:
        """Return whether the request is one for here; if so it is soon told to reply or go on."""
        timing = Timing()
        try:
            request = _decode(body)
        except DECODE_ERRORS:
            return False  # Whatever it is, it is said elsewhere.
        visitor = self._at_hand(request.user_id)
        if visitor is None and not (self._encodes and self._search.brief):
            return False
        line, most = (
            (self._absent, MOST_ABSENT) if visitor is None else (self._waiting, MAX_WAITING)
        )
        if len(line) >= most:
            return False
        if not line:
            loop.call_soon(self._pass_of_absent if visitor is None else self._pass, loop)
        timing.route = "recommend"
        timing.mark("T", "decode")
        line.append(_Waiting(asking, request.user_id, request.n, timing, visitor))
        return True

    def _at_hand(self, user_id: str) -> Visitor | None:
        """Return who has this user id, None if the answer takes more than is at hand."""
        try:
            visitor = self._visitors.at_hand(user_id)
            served = visitor is not None and self._search.serves(visitor.user)
        except Exception:
            # The way of all routes meets the same fault, and ends in an answer all the same.
            logger.debug("it cannot be told if a user is at hand", exc_info=True)
            return None
        return visitor if served else None

    def _pass(self, loop: asyncio.AbstractEventLoop) -> None:
        batch, self._waiting = self._waiting[:MAX_PASS], self._waiting[MAX_PASS:]
        if self._waiting:
            loop.call_soon(self._pass, loop)
        self._answer(batch)

    def _pass_of_absent(self, loop: asyncio.AbstractEventLoop) -> None:
        waiting = self._absent.pop(0)
        if self._absent:
            loop.call_soon(self._pass_of_absent, loop)
        try:
            waiting.visitor = self._visitors.find(waiting.user_id, None)
        except Exception:
            logger.debug("a history could not be read", exc_info=True)
        if waiting.visitor is None or not len(waiting.visitor.known):
            waiting.asking.go_on()
        else:
            self._answer([waiting])

    def _answer(self, batch: Sequence[_Waiting]) -> None:
        for waiting in batch:
            waiting.timing.mark("T", "wait")
        found = self._found(batch)
        if found is None:
            for waiting in batch:
                waiting.asking.go_on()
            return
        rows, scores = found.rows_BK.tolist(), found.scores_BK.tolist()
        told = None if found.proposers_BK is None else found.proposers_BK.tolist()
        randomness = os.urandom(RANDOM_BYTES * len(batch)).hex()
        for place, waiting in enumerate(batch):
            waiting.timing.split(self._steps, found.spent_ms)
            if not found.full_B[place]:
                waiting.asking.go_on()
                continue
            mine = randomness[2 * RANDOM_BYTES * place : 2 * RANDOM_BYTES * (place + 1)]
            proposers = None if told is None else told[place][: waiting.n]
            items = rows[place][: waiting.n], scores[place][: waiting.n], proposers
            self._reply(waiting, *items, mine)
            if waiting.visitor is not None:
                self.answered(waiting.visitor.user)

    def _found(self, batch: Sequence[_Waiting]) -> Lists | None:
        visitors = [waiting.visitor for waiting in batch if waiting.visitor is not None]
        hidden, now_ms = self._hidden(), clock.now_ms()
        try:
            return self._search.lists(
                [
                    Query(
                        k=waiting.n,
                        now_ms=now_ms,
                        user=visitor.user,
                        history=visitor.known,
                        forbidden=visitor.seen,
                        hidden=hidden,
                    )
                    for waiting, visitor in zip(batch, visitors, strict=True)
                ]
            )
        except Exception:
            # The stages of the pipeline meet the same fault, and each has a fallback and counts it.
            logger.debug("a pass failed and is done again in stages", exc_info=True)
            return None

    def _reply(
        self,
        waiting: _Waiting,
        rows: list[int],
        scores: list[float],
        proposers: list[int] | None,
        randomness: str,
    ) -> None:
        now_ms, timing = clock.now_ms(), waiting.timing
        request_id = time_ordered_id(now_ms, randomness)
        try:
            item_ids = self._catalog.ids(rows)
            fields = _fields(item_ids, scores, proposers)
            form = _reply_of(len(rows), self._model, proposers is not None)
            text = form % (request_id, *fields, timing.total_ms())
            body = text.encode()
        except Exception:
            # Not to leave the others of the pass without an answer.
            logger.debug("a list is made again in stages", exc_info=True)
            waiting.asking.go_on()
            return
        timing.mark("A", "encode")
        waiting.asking.reply(body, timing)
        self._metrics.request(timing, 200)
        self._writer.append_later(
            Impression(
                event_id=f"shown-{request_id}",
                timestamp_ms=now_ms,
                request_id=request_id,
                item_ids=tuple(item_ids),
                model_version=self._version,
                user_id=waiting.user_id,
            )
        )


def _fields(item_ids: list[str], scores: list[float], proposers: list[int] | None) -> list[str]:
    """Return the JSON of each item's id and score, and of who proposed it if told, by turns."""
    # Numbers all at once: Python takes a microsecond for each.
    numbers = _encode(scores)[1:-1].decode().split(",")
    columns: list[Iterable[str]] = [map(_quoted, item_ids), numbers]
    if proposers is not None:
        columns.append([PROPOSERS[bits] for bits in proposers])
    return [*chain.from_iterable(zip(*columns, strict=True))]


def _proposers() -> list[str]:
    """Return what an item of a blended list says of its sources, by their bits."""
    names = [SEQUENCE, *BLENDED[1:]]
    told = []
    for bits in range(1 << len(names)):
        mine = [name for place, name in enumerate(names) if bits >> place & 1]
        source = _encode(mine[0] if mine else "").decode()
        told.append(f'"source":{source},"sources":{_encode(mine).decode()}')
    return told


PROPOSERS = _proposers()
"""What an item of a blended list says of its sources, by `Lists.proposers_BK`."""


def _nothing(head: bytes, length: int) -> None:
    """Take no notice of a head that may come again."""


def _nobody(user: int) -> None:
    """Take no notice of a user who was answered."""


@lru_cache(maxsize=1 << 15)
def _quoted(text: str) -> str:
    """Return a text as JSON."""
    return _encode(text).decode()


@lru_cache(maxsize=MAX_N)
def _reply_of(n: int, model: str, blended: bool) -> str:
    """Return the JSON of a list of n with places for its id, each item's fields, and the time."""
    source = "%s" if blended else f'"source":"{SEQUENCE}"'
    items = ",".join(
        f'{{"item_id":%s,"score":%s,"rank":{rank},{source}}}' for rank in range(1, n + 1)
    )
    # A name may hold what the places are marked with.
    told = model.replace("%", "%%")
    return f'{{"request_id":"%s","items":[{items}],"model":{told},"degraded":null,"took_ms":%.3f}}'
