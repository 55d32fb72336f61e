"""`POST /v1/events`: durable first, then in effect, then acknowledged."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import msgspec
from starlette.types import Receive, Scope, Send

from ouzel.events import clock
from ouzel.events.types import Event
from ouzel.serving.engine import Engine
from ouzel.serving.http import header, read_body, send_bytes, timing_of
from ouzel.serving.ingest import ingest, is_ndjson
from ouzel.serving.problem import ProblemError
from ouzel.serving.wire import EventsReply
from ouzel.serving.writer import NotDurableError, Written

MAX_EVENTS_BODY_BYTES = 16 << 20
"""Largest body of events: 16 MiB."""

_encode = msgspec.json.Encoder().encode


class EventsRoute:
    """Takes up to 1,000 events: one object, an array, or one per line (NDJSON)."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer once the events are on the disk and the next list of their users knows them."""
        timing_of(scope).route = "events"
        body = await read_body(scope, receive, limit=MAX_EVENTS_BODY_BYTES)
        await send_bytes(send, await self.short(scope, body))

    async def short(self, scope: Scope, body: bytes) -> bytes:
        """Return the acknowledgement of the events in a whole body as JSON."""
        timing = timing_of(scope)
        timing.route = "events"
        timing.mark("T", "read")
        ndjson = is_ndjson(header(scope, b"content-type"), body)
        found = ingest(body, ndjson=ndjson, now_ms=clock.now_ms())
        timing.mark("T", "decode")
        receipts = await durably(self._engine, found.events)
        timing.mark("P", "commit")
        counts = Counter(receipt.status for receipt in receipts)
        reply = EventsReply(
            accepted=counts["accepted"],
            duplicates=counts["duplicate"],
            conflicts=counts["conflict"],
            rejected=found.replies(),
            offset=max(receipt.offset for receipt in receipts),
        )
        for outcome, count in (*counts.items(), ("rejected", len(reply.rejected))):
            self._engine.metrics.events[outcome] += count
        return _encode(reply)


async def durably(engine: Engine, events: Sequence[Event]) -> Sequence[Written]:
    """Return the receipts of events that are on the disk and in effect.

    Raises:
        ProblemError: 503 if they cannot be written; then none of them is stored.

    >>> import asyncio
    >>> from types import SimpleNamespace
    >>> async def append(events):
    ...     return [f"receipt of {event}" for event in events]
    >>> engine = SimpleNamespace(writer=SimpleNamespace(append=append))
    >>> asyncio.run(durably(engine, ["click"]))
    ['receipt of click']
    """
    try:
        return await engine.writer.append(events)
    except NotDurableError as error:
        engine.metrics.events["refused"] += len(events)
        detail = f"nothing was stored: {error}"
        raise ProblemError(503, detail, headers=[(b"retry-after", b"1")]) from None
