"""Requests that a reader cannot answer itself, answered by the writer on the same connection."""

from __future__ import annotations

import asyncio
from itertools import count

import msgspec
from starlette.types import Message as HttpMessage
from starlette.types import Receive, Scope, Send

from ouzel.serving.events_route import MAX_EVENTS_BODY_BYTES
from ouzel.serving.http import MAX_BODY_BYTES, read_body, timing_of
from ouzel.serving.link import Asked, Body, Gone, Head, Headers, Link
from ouzel.serving.metrics import FORWARDED
from ouzel.serving.problem import ProblemBody, ProblemError

MAX_UNDER_WAY = 4096
"""Most requests of one reader that the writer may have at once."""

STUCK_SECONDS = 20.0
"""How long a client may leave unread what fills all buffers."""

_OWN = frozenset({b"server-timing", b"x-content-type-options", b"cache-control"})
"""Headers that the frame of the reader puts on every answer itself."""

_decode_problem = msgspec.json.Decoder(ProblemBody).decode


class Forward:
    """An ASGI application that lets the writer answer, over a link."""

    def __init__(self, link: Link) -> None:
        self._link = link
        self._numbers = count()
        self._under_way: dict[int, asyncio.Queue[Head | Body | None]] = {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass one request on, and its answer back as it comes."""
        if scope["type"] != "http":
            return
        timing_of(scope).route = FORWARDED
        events = scope["path"] == "/v1/events"
        limit = MAX_EVENTS_BODY_BYTES if events else MAX_BODY_BYTES
        number, parts = self._ask(scope, await read_body(scope, receive, limit=limit))
        leaving = asyncio.ensure_future(_left(receive))
        # Who leaves ends the wait for parts: an answer may be one that never ends.
        leaving.add_done_callback(lambda _: parts.put_nowait(None))
        begun = ended = False
        try:
            while not ended and (part := await parts.get()) is not None:
                begun, ended = True, isinstance(part, Body) and not part.more
                async with asyncio.timeout(STUCK_SECONDS):
                    await send(_http(part))
            if not begun and not leaving.done():
                raise _gone()
        except TimeoutError:
            # Its buffers are full, so that it could not even be told the end.
            scope.get("ouzel.hang_up", _nothing)()
        finally:
            leaving.cancel()
            self._end(number, gone=not ended)

    async def fetch(self, scope: Scope, body: bytes) -> bytes:
        """Return the body of the writer's answer to a request whose body is here.

        Raises:
            ProblemError: what the writer refused, or 503 if it has gone or has too much to do.
        """
        timing_of(scope).route = FORWARDED
        number, parts = self._ask(scope, body)
        status, headers, found, more = 0, Headers(), b"", True
        try:
            while more:
                part = await parts.get()
                if isinstance(part, Head):
                    status, headers = part.status, part.headers
                elif isinstance(part, Body):
                    found += part.body
                    more = part.more
                else:
                    raise _gone()
        finally:
            self._end(number, gone=more)
        timing_of(scope).mark("T", FORWARDED)
        if status != 200:
            raise _problem(status, headers, found)
        return found

    def receive(self, part: Head | Body) -> None:
        """Take a part of an answer from the link."""
        parts = self._under_way.get(part.number)
        if parts is not None:
            parts.put_nowait(part)

    def end(self) -> None:
        """Give up on all answers: the writer has gone."""
        for parts in self._under_way.values():
            parts.put_nowait(None)

    def _ask(self, scope: Scope, body: bytes) -> tuple[int, asyncio.Queue[Head | Body | None]]:
        if len(self._under_way) >= MAX_UNDER_WAY:
            raise ProblemError(
                503,
                f"{len(self._under_way)} requests wait for the writer: try again later",
                headers=[(b"retry-after", b"1")],
            )
        if not self._link.open_to_talk:
            raise _gone()
        number = next(self._numbers)
        parts = self._under_way[number] = asyncio.Queue()
        self._link.send(
            Asked(
                number,
                scope["method"],
                scope["path"],
                scope["query_string"],
                list(scope["headers"]),
                body,
            )
        )
        return number, parts

    def _end(self, number: int, *, gone: bool) -> None:
        del self._under_way[number]
        if gone:
            self._link.send(Gone(number))


async def _left(receive: Receive) -> None:
    """Return when the client has gone."""
    while (await receive())["type"] != "http.disconnect":
        pass


def _http(part: Head | Body) -> HttpMessage:
    if isinstance(part, Body):
        return {"type": "http.response.body", "body": part.body, "more_body": part.more}
    return {"type": "http.response.start", "status": part.status, "headers": _others(part.headers)}


def _others(headers: Headers) -> Headers:
    return [(name, value) for name, value in headers if name not in _OWN]


def _problem(status: int, headers: Headers, body: bytes) -> ProblemError:
    """Return the problem that the writer answered with, to be raised again."""
    told = _decode_problem(body)
    kept = [pair for pair in _others(headers) if not pair[0].startswith(b"content-")]
    return ProblemError(status, told.detail, errors=told.errors, headers=kept)


def _nothing() -> None:
    """Do nothing: some connections cannot be hung up."""


def _gone() -> ProblemError:
    return ProblemError(503, "the server is stopping", headers=[(b"retry-after", b"1")])
