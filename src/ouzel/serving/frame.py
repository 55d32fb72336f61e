"""The frame around every route: access, stop-watch, problems, headers, counts."""

from __future__ import annotations

import logging

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ouzel.serving.http import send_problem
from ouzel.serving.metrics import Metrics
from ouzel.serving.problem import ProblemError
from ouzel.serving.security import Access
from ouzel.serving.timing import Timing

logger = logging.getLogger(__name__)

_ALWAYS = [(b"x-content-type-options", b"nosniff"), (b"cache-control", b"no-store")]


class Frame:
    """An ASGI application around another: nothing leaves without timing, nothing as a bare 500."""

    def __init__(self, app: ASGIApp, *, access: Access, metrics: Metrics) -> None:
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
        except ProblemError as problem:
            await send_problem(send_framed, problem)
        except Exception:
            logger.exception("%s %s failed", scope["method"], scope["path"])
            if status:
                raise
            await send_problem(send_framed, ProblemError(500, "the server failed: see its log"))
        self._metrics.request(timing, status)
