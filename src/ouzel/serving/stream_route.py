"""`GET /v1/stream`: what the server does, second by second, as server-sent events.

Each event tells of the second before it and nothing is kept, so events carry no id and a
`Last-Event-ID` says nothing: who comes back hears of the time from then on.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from starlette.types import Receive, Scope, Send

from ouzel.serving.engine import Engine
from ouzel.serving.http import timing_of
from ouzel.serving.problem import ProblemError
from ouzel.serving.stream import Listener

CONTENT_TYPE = b"text/event-stream; charset=utf-8"
RETRY_MS = 2000
"""How long a browser may wait before it comes back, in milliseconds."""

STUCK_SECONDS = 5.0
"""How long a client may leave unread what fills all buffers; shorter than a server drains."""

_HEADERS = [(b"content-type", CONTENT_TYPE), (b"x-accel-buffering", b"no")]


class StreamRoute:
    """Tells until the client leaves or the server stops."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        timing_of(scope).route = "stream"
        stream = self._engine.stream
        listener = stream.join()
        if listener is None:
            detail = f"{len(stream)} clients listen already: close one of them"
            raise ProblemError(503, detail, headers=[(b"retry-after", b"5")])
        leaving = asyncio.get_running_loop().create_task(_until_gone(receive, listener))
        try:
            await send({"type": "http.response.start", "status": 200, "headers": _HEADERS})
            if scope["method"] != "HEAD":
                await _tell(send, listener, scope.get("ouzel.hang_up"))
            await send({"type": "http.response.body", "body": b""})
        finally:
            leaving.cancel()
            stream.leave(listener)


async def _tell(send: Send, listener: Listener, hang_up: Callable[[], None] | None) -> None:
    """Send what is heard until there is no more."""
    event = b"retry: %d\n\n" % RETRY_MS
    while True:
        try:
            async with asyncio.timeout(STUCK_SECONDS):
                await send({"type": "http.response.body", "body": event, "more_body": True})
        except TimeoutError:
            # Its buffers are full, so that it could not even be told the end.
            if hang_up is not None:
                hang_up()
            listener.close()
        tick = await listener.next()
        if tick is None:
            return
        event = b"event: tick\ndata: %b\n\n" % tick


async def _until_gone(receive: Receive, listener: Listener) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
    listener.close()
