"""The routes beside the path of answers: probes, metrics, the catalogue, known users."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TypeVar

import msgspec
from starlette.types import Receive, Scope, Send

from ouzel.events import clock
from ouzel.events.availability import COLUMN, is_hiding
from ouzel.retrieval.types import Query
from ouzel.serving.engine import Engine
from ouzel.serving.http import parameters, send_bytes, timing_of
from ouzel.serving.problem import field_error, invalid
from ouzel.serving.wire import (
    ItemEntry,
    ItemsReply,
    ItemsRequest,
    Live,
    Ready,
    UsersReply,
    UsersRequest,
)

METRICS_TYPE = b"text/plain; version=0.0.4; charset=utf-8"
ITEM_FIELDS = ("title", "genres")

T = TypeVar("T", bound=msgspec.Struct)
Answering = Callable[[Engine, Scope, Send], Awaitable[None]]


class ReadRoute:
    """A route that answers from what is in memory."""

    def __init__(self, engine: Engine, name: str, answering: Answering) -> None:
        self._engine = engine
        self._name = name
        self._answering = answering

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        timing_of(scope).route = self._name
        await self._answering(self._engine, scope, send)


async def live(engine: Engine, scope: Scope, send: Send) -> None:
    """Answer 200 as long as the process answers at all.

    >>> import asyncio
    >>> async def send(message):
    ...     print(message.get("status") or message["body"])
    >>> asyncio.run(live(None, {}, send))
    200
    b'{"status":"alive"}'
    """
    await send_bytes(send, msgspec.json.encode(Live()))


async def ready(engine: Engine, scope: Scope, send: Send) -> None:
    """Answer 200 if requests and events are welcome, else 503 and why.

    >>> import asyncio
    >>> from types import SimpleNamespace
    >>> from ouzel.serving.wire import ModelName
    >>> engine = SimpleNamespace(
    ...     why_not_ready=lambda: ["the disk is full"],
    ...     ready=True,
    ...     writer=SimpleNamespace(failure="the disk is full"),
    ...     model=ModelName("esasrec", "0a1b+0"),
    ... )
    >>> async def send(message):
    ...     print(message.get("status") or msgspec.json.decode(message["body"])["reasons"])
    >>> asyncio.run(ready(engine, {}, send))
    503
    ['the disk is full']
    """
    reasons = engine.why_not_ready()
    reply = Ready(
        status="not ready" if reasons else "ready",
        reads=engine.ready,
        writes=engine.writer.failure is None,
        model=engine.model,
        reasons=reasons,
    )
    await send_bytes(send, msgspec.json.encode(reply), status=503 if reasons else 200)


async def metrics(engine: Engine, scope: Scope, send: Send) -> None:
    """Answer with all counts in the text format of Prometheus.

    >>> import asyncio
    >>> from types import SimpleNamespace
    >>> from ouzel.serving.metrics import Metrics
    >>> async def send(message):
    ...     print(message.get("status") or message["body"].splitlines()[0])
    >>> asyncio.run(metrics(SimpleNamespace(metrics=Metrics()), {}, send))
    200
    b'# HELP ouzel_requests_total Answers by route and status.'
    """
    await send_bytes(send, engine.metrics.text(), content_type=METRICS_TYPE)


async def items(engine: Engine, scope: Scope, send: Send) -> None:
    """Answer with items whose title holds `query`; without one, with the popular items.

    >>> import asyncio
    >>> from types import SimpleNamespace
    >>> from ouzel.events.catalog import Catalog
    >>> from ouzel.serving.timing import Timing
    >>> from ouzel.serving.titles import TitleSearch
    >>> catalog = Catalog(["i1"])
    >>> catalog.set_column("title", 1, "Heat")
    >>> engine = SimpleNamespace(catalog=catalog, titles=TitleSearch(catalog.column("title")))
    >>> async def send(message):
    ...     print(message.get("status") or message["body"])
    >>> scope = {"query_string": b"query=heat", "ouzel.timing": Timing()}
    >>> asyncio.run(items(engine, scope, send))
    200
    b'{"items":[{"item_id":"i1","fields":{"title":"Heat","genres":""},"available":true}]}'
    """
    request = _request(scope, ItemsRequest)
    if request.query.strip():
        rows = list(engine.titles.rows(request.query.strip(), request.limit))
    else:
        hidden = engine.filters.hidden(None)
        asked = Query(k=request.limit, now_ms=clock.now_ms(), hidden=hidden)
        rows = engine.popular["popular"].candidates(asked, request.limit).rows_K.tolist()
    columns = {name: engine.catalog.column(name) for name in ITEM_FIELDS}
    availability = engine.catalog.column(COLUMN)
    found = [
        ItemEntry(
            item_id,
            {name: texts[row] for name, texts in columns.items()},
            not is_hiding(availability[row]),
        )
        for row, item_id in zip(rows, engine.catalog.ids(rows), strict=True)
    ]
    await send_bytes(send, msgspec.json.encode(ItemsReply(found)))


async def users(engine: Engine, scope: Scope, send: Send) -> None:
    """Answer with the ids of some known users.

    >>> import asyncio
    >>> from types import SimpleNamespace
    >>> from ouzel.serving.timing import Timing
    >>> async def send(message):
    ...     print(message.get("status") or message["body"])
    >>> scope = {"query_string": b"limit=1", "ouzel.timing": Timing()}
    >>> asyncio.run(users(SimpleNamespace(users=["ada", "bo"]), scope, send))
    200
    b'{"users":["ada"]}'
    """
    request = _request(scope, UsersRequest)
    await send_bytes(send, msgspec.json.encode(UsersReply(engine.users[: request.limit])))


def _request(scope: Scope, wanted: type[T]) -> T:
    fields = parameters(scope)
    try:
        request = msgspec.convert(fields, wanted, strict=False)
    except msgspec.ValidationError as error:
        raise invalid([field_error(error, wanted)]) from None
    timing_of(scope).mark("T", "decode")
    return request
