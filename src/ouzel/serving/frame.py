"""The frame around every route: access, stop-watch, problems, headers, counts."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Mapping
from http import HTTPStatus
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ouzel.serving.direct import Direct
from ouzel.serving.http import JSON, send_problem
from ouzel.serving.metrics import Metrics
from ouzel.serving.problem import CONTENT_TYPE, ProblemError
from ouzel.serving.security import Access
from ouzel.serving.timing import Timing

logger = logging.getLogger(__name__)

_ALWAYS = [(b"x-content-type-options", b"nosniff"), (b"cache-control", b"no-store")]
_ALWAYS_LINES = b"".join(b"%b: %b\r\n" % pair for pair in _ALWAYS)

Short = Callable[[Scope, bytes], Awaitable[bytes]]
"""A route that takes the whole body and returns the JSON of its answer, or raises a problem."""


class Frame:
    """An ASGI application around another: nothing leaves without timing, nothing as a bare 500.

    `short` are routes by path that a server may call without the messages of ASGI, see `answer`.
    Of these, `direct` take what is plainest before anything else is made of it.
    `heads` is where the server keeps what it made of heads that may come again.
    `stop` is to be called when the server begins to stop: it ends the answers that have no end.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        access: Access,
        metrics: Metrics,
        short: Mapping[bytes, Short] | None = None,
        direct: Mapping[bytes, Direct] | None = None,
        stop: Callable[[], None] | None = None,
    ) -> None:
        self.short = {} if short is None else short
        self.direct = {} if direct is None else direct
        self.stop = stop
        self.heads: dict[bytes, Any] = {}
        self._app = app
        self._access = access
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        timing = scope["ouzel.timing"] = Timing()
        status = 0

        async def send_framed(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                timing.mark("A", "encode")
                headers = [*message["headers"], (b"server-timing", timing.header()), *_ALWAYS]
                message = {**message, "headers": headers}
            await send(message)

        try:
            self._access.check(scope)
            await self._app(scope, receive, send_framed)
        except Exception as error:
            problem = _problem(scope, error)
            if status:
                raise
            await send_problem(send_framed, problem)
        self._metrics.request(timing, status)

    async def answer(self, short: Short, scope: Scope, body: bytes) -> tuple[bytes, bytes]:
        """Return the answer to a `POST` as it is sent: head, but for its last line, and body."""
        timing = scope["ouzel.timing"] = Timing()
        status, content_type, more = 200, JSON, b""
        try:
            self._access.check(scope)
            reply = await short(scope, body)
        except Exception as error:
            problem = _problem(scope, error)
            status, content_type, reply = problem.status, CONTENT_TYPE, problem.encode()
            more = b"".join(b"%b: %b\r\n" % pair for pair in problem.headers)
        timing.mark("A", "encode")
        self._metrics.request(timing, status)
        head = b"%bcontent-type: %b\r\n%b%b" % (
            _STATUS_LINES[status], content_type, rest_of_head(len(reply), timing), more,
        )  # fmt: skip
        return head, reply

    def admits(self, scope: Scope) -> bool:
        """Return whether a request may go on; what keeps it out is said by the usual way."""
        try:
            self._access.check(scope)
        except ProblemError:
            return False
        return True


def rest_of_head(length: int, timing: Timing) -> bytes:
    """Return what follows the content type in the head of every answer on the short way.

    >>> rest_of_head(2, Timing()).splitlines()[:2]
    [b'content-length: 2', b'server-timing: T;dur=0.000, P;dur=0.000, A;dur=0.000']
    """
    return b"content-length: %d\r\nserver-timing: %b\r\n%b" % (
        length, timing.header(), _ALWAYS_LINES,
    )  # fmt: skip


_STATUS_LINES = {
    status.value: f"HTTP/1.1 {status.value} {status.phrase}\r\n".encode() for status in HTTPStatus
}


OK_JSON = b"%bcontent-type: %b\r\n" % (_STATUS_LINES[200], JSON)
"""How the head of an answer begins that is a list or the like."""


def _problem(scope: Scope, error: Exception) -> ProblemError:
    """Return what the client is told of an error; the log is told of what was not foreseen."""
    if isinstance(error, ProblemError):
        return error
    logger.error("%s %s failed", scope["method"], scope["path"], exc_info=error)
    return ProblemError(500, "the server failed: see its log")
