"""The routes of lists, `/v1/recommend` above all, and the note of what was shown."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Hashable
from typing import Protocol

import msgspec
import numpy as np
from numpy.typing import NDArray
from starlette.types import Receive, Scope, Send

from ouzel.events import clock
from ouzel.events.catalog import Catalog
from ouzel.events.ids import time_ordered_id
from ouzel.events.types import Impression
from ouzel.events.validation import check_id
from ouzel.ranking.fusion import proposers
from ouzel.retrieval.types import Candidates, Query
from ouzel.serving.answers import Answer
from ouzel.serving.cache import Cache, asked, is_personal, list_bytes
from ouzel.serving.engine import Engine
from ouzel.serving.http import parameters, read_body, send_bytes, timing_of
from ouzel.serving.ingest import check_nested
from ouzel.serving.metrics import Metrics
from ouzel.serving.problem import DECODE_ERRORS, FieldError, field_error, invalid, undecodable
from ouzel.serving.queries import ListRequest
from ouzel.serving.timing import Timing
from ouzel.serving.wire import (
    ModelName,
    Name,
    PopularRequest,
    RankReply,
    RankRequest,
    RecommendReply,
    RecommendRequest,
    ShownItem,
    SimilarRequest,
)

LISTS = frozenset({"items", "exclude_items", "fields"})
"""Query parameters that may be repeated."""

_encode = msgspec.json.Encoder().encode


class Answering(Protocol):
    """Whoever makes lists (see `Answers.answer`)."""

    async def answer(self, request: ListRequest, timing: Timing) -> Answer:
        """Return the list for one request."""
        ...


class Noting(Protocol):
    """Whoever notes what was shown (see `LogWriter.append_later`)."""

    def append_later(self, event: Impression) -> None:
        """Put this into the log soon."""
        ...


class ListEngine(Protocol):
    """What lists need of an engine."""

    model: ModelName
    metrics: Metrics
    catalog: Catalog

    @property
    def lists(self) -> Cache[list[ShownItem]] | None:
        """Return the lists that are kept for many, None where none are."""
        ...

    @property
    def served_version(self) -> Hashable:
        """Return what changes with anything that a kept list is made from."""
        ...

    @property
    def answers(self) -> Answering:
        """Return what makes lists."""
        ...

    @property
    def writer(self) -> Noting:
        """Return what notes them."""
        ...


class ListRoute:
    """`POST` and `GET`, a list as the pipeline makes it for a request of one kind."""

    def __init__(self, engine: ListEngine, name: str, kind: type[ListRequest]) -> None:
        self._engine = engine
        self._name = name
        self._kind = kind
        self._decode = msgspec.json.Decoder(kind).decode

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        timing_of(scope).route = self._name
        if scope["method"] == "POST":
            reply = await self.short(scope, await read_body(scope, receive))
        else:
            fields = parameters(scope, lists=LISTS)
            reply = await self._answer(
                scope, lambda: msgspec.convert(fields, self._kind, strict=False)
            )
        await send_bytes(send, reply)

    async def short(self, scope: Scope, body: bytes) -> bytes:
        """Return the answer to a `POST` as JSON; what was shown is logged soon."""
        timing = timing_of(scope)
        timing.route = self._name
        timing.mark("T", "read")
        return await self._answer(scope, lambda: self._decode(body))

    async def _answer(self, scope: Scope, decode: Callable[[], ListRequest]) -> bytes:
        timing = timing_of(scope)
        try:
            request = decode()
            _check(request)
        except DECODE_ERRORS as error:
            raise undecodable(error, self._kind) from None
        timing.mark("T", "decode")
        propensities_K = None
        if is_personal(request) or self._engine.lists is None:
            answer = await self._engine.answers.answer(request, timing)
            propensities_K = answer.found.propensities_K
            reply = _reply(self._engine, answer, request.fields, timing)
            if isinstance(request, RankRequest):
                reply = _with_unknown(reply, request, self._engine)
        else:
            reply = await _kept_reply(
                self._engine, request, timing, lambda: self._engine.answers.answer(request, timing)
            )
        if scope["method"] != "HEAD":
            _note_shown(self._engine, request, reply, propensities_K)
        return _encode(reply)


class PopularRoute:
    """`GET /v1/popular`: the same list for everybody."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        timing = timing_of(scope)
        timing.route = "popular"
        fields = parameters(scope, lists=LISTS)
        try:
            request = msgspec.convert(fields, PopularRequest, strict=False)
        except msgspec.ValidationError as error:
            raise invalid([field_error(error, PopularRequest)]) from None
        timing.mark("T", "decode")
        if request.kind == "trending":  # Any event may change it.
            answer = await self._find(request, timing)
            reply = _reply(self._engine, answer, request.fields, timing)
        else:
            reply = await _kept_reply(
                self._engine, request, timing, lambda: self._find(request, timing)
            )
        if scope["method"] != "HEAD":
            _note_shown(self._engine, RecommendRequest(), reply)
        await send_bytes(send, _encode(reply))

    async def _find(self, request: PopularRequest, timing: Timing) -> Answer:
        hidden = await self._engine.answers.hidden(request.filter)
        query = Query(k=request.n, now_ms=clock.now_ms(), hidden=hidden)
        found = self._engine.popular[request.kind].candidates(query, request.n)
        timing.mark("A", "search")
        return Answer(found, None)


def _check(request: ListRequest) -> None:
    """Refuse what the types alone cannot: over-long or unprintable ids, deep context."""
    _check_ids(("user_id", request.user_id), ("session_id", request.session_id))
    lists = {}
    if isinstance(request, SimilarRequest):
        _check_ids(("item_id", request.item_id))
    else:
        lists["items"] = request.items
    if not isinstance(request, RankRequest):
        lists["exclude_items"] = request.exclude_items
    for name, item_ids in lists.items():
        _check_ids(*((f"{name}[{place}]", item_id) for place, item_id in enumerate(item_ids)))
    if isinstance(request, SimilarRequest):
        return
    fault = check_nested("context", request.context)
    if fault is not None:
        raise invalid([fault])


def _check_ids(*named: tuple[str, str | None]) -> None:
    for name, text in named:
        if text is not None:
            try:
                check_id(text, name)
            except ValueError as error:
                raise invalid([FieldError(name, "invalid", str(error))]) from None


async def _kept_reply(
    engine: ListEngine,
    request: ListRequest | PopularRequest,
    timing: Timing,
    find: Callable[[], Awaitable[Answer]],
) -> RecommendReply:
    """Return the reply to a request that anybody may have made, from a kept list if there is one.

    Its id is its own all the same. A list that came out degraded is not kept.
    """
    assert engine.lists is not None, "whoever keeps none does not ask"
    wanted = asked(request)
    key = (type(request), engine.served_version, wanted)
    items = engine.lists.get(key)
    if items is not None:
        timing.mark("A", "cache")
        return _made(engine, items, None, timing)
    reply = _reply(engine, await find(), request.fields, timing)
    if reply.degraded is None:
        engine.lists.put(key, reply.items, list_bytes(wanted, reply.items))
    return reply


def _reply(
    engine: ListEngine, answer: Answer, fields: list[Name], timing: Timing
) -> RecommendReply:
    if answer.degraded is not None:
        engine.metrics.degraded[answer.degraded] += 1
    return _made(engine, _shown(engine, answer.found, fields), answer.degraded, timing)


def _made(
    engine: ListEngine, items: list[ShownItem], degraded: str | None, timing: Timing
) -> RecommendReply:
    return RecommendReply(
        request_id=time_ordered_id(clock.now_ms()),
        items=items,
        model=engine.model,
        degraded=degraded,
        took_ms=round(timing.total_ms(), 3),
    )


def _with_unknown(reply: RecommendReply, request: RankRequest, engine: ListEngine) -> RankReply:
    unknown = [item_id for item_id in dict.fromkeys(request.items) if item_id not in engine.catalog]
    return RankReply(**msgspec.structs.asdict(reply), unknown=unknown)


def _shown(engine: ListEngine, found: Candidates, fields: list[Name]) -> list[ShownItem]:
    rows = found.rows_K.tolist()
    columns = {name: engine.catalog.column(name) for name in fields}
    united = None if found.ranks_KS is None else proposers(found)
    drawn = None if found.propensities_K is None else found.propensities_K.tolist()
    return [
        ShownItem(
            item_id=item_id,
            score=score,
            rank=rank,
            source=found.names[source],
            sources=None if united is None else united[rank - 1],
            propensity=None if drawn is None else drawn[rank - 1],
            fields={name: texts[row] for name, texts in columns.items()} if columns else None,
        )
        for rank, (row, item_id, score, source) in enumerate(
            zip(
                rows,
                engine.catalog.ids(rows),
                found.scores_K.tolist(),
                found.sources_K.tolist(),
                strict=True,
            ),
            start=1,
        )
    ]


def _note_shown(
    engine: ListEngine,
    request: ListRequest,
    reply: RecommendReply,
    propensities_K: NDArray[np.float64] | None = None,
) -> None:
    engine.writer.append_later(
        Impression(
            event_id=f"shown-{reply.request_id}",
            timestamp_ms=clock.now_ms(),
            request_id=reply.request_id,
            item_ids=tuple(item.item_id for item in reply.items),
            model_version=reply.model.version,
            user_id=request.user_id,
            session_id=request.session_id,
            context=None if isinstance(request, SimilarRequest) else request.context,
            propensities=None if propensities_K is None else tuple(propensities_K.tolist()),
        )
    )
