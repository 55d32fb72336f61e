"""The dashboard: a few static files from the package, held in memory, under a strict policy."""

from __future__ import annotations

from importlib.resources import files

from starlette.types import Receive, Scope, Send

from ouzel.serving.http import send_bytes, timing_of
from ouzel.serving.problem import ProblemError

POLICY = b"default-src 'self'; frame-ancestors 'none'"

_HEADERS = [(b"content-security-policy", POLICY), (b"referrer-policy", b"no-referrer")]
_TYPES = {
    "html": b"text/html; charset=utf-8",
    "js": b"text/javascript; charset=utf-8",
    "css": b"text/css; charset=utf-8",
    "svg": b"image/svg+xml",
}


class Pages:
    """`/dashboard` and `/dashboard/{file}`. Only files that are in the package can be named."""

    def __init__(self) -> None:
        folder = files("ouzel.serving").joinpath("dashboard")
        self._files = {
            entry.name: (entry.read_bytes(), _TYPES[entry.name.rpartition(".")[2]])
            for entry in folder.iterdir()
            if entry.name.rpartition(".")[2] in _TYPES
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer with one file."""
        timing_of(scope).route = "dashboard"
        name = scope["path_params"].get("file") or "index.html"
        if name not in self._files:
            raise ProblemError(404, "the dashboard has no such file")
        body, content_type = self._files[name]
        await send_bytes(send, body, content_type=content_type, headers=_HEADERS)
