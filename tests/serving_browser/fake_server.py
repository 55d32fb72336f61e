"""A stand-in for `ouzel serve`: the real page, canned answers, and a log of what was asked.

Its list depends on what was clicked the way the real one does: a clicked item leaves it and the
others that share its genre move up, so a page that shows a stale list is caught.
"""

from __future__ import annotations

import json
import queue
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import ouzel.serving

PAGE = Path(ouzel.serving.__file__).parent / "dashboard"
POLICY = "default-src 'self'; frame-ancestors 'none'"
KINDS = {".html": "text/html; charset=utf-8", ".js": "text/javascript", ".css": "text/css"}
HOSTILE = "<img src=x onerror=\"document.title='owned'\">"
GENRES = ("Drama|Crime", "Comedy", "Sci-Fi|Adventure", "Documentary")
TITLES = (
    "The Slow River (1987)",
    "Nine Lanterns (2004)",
    "A Station on Titan (2013)",
    "What the Ice Kept (1999)",
    "Paper Harbour (1962)",
    "Midnight at the Mill (2009)",
    "Orbit of Glass (2018)",
    HOSTILE,
    "Les Étés perdus (1971)",
    "The Understudy's Dog (1994)",
    "Salt and Copper (1955)",
    "Northbound (2011)",
    "Ninety Seconds of Rain (2001)",
    "The Cartographer's Wife (1978)",
    "An Honest Machine (2016)",
    "Swallows over Split (1969)",
)


class Fake:
    """The state of the stand-in; `asked` lists (method, path, body) in order."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, str, Any]] = []
        self.clicked: dict[str, list[int]] = {}
        self.degraded: str | None = None
        self.refuse_with: int | None = None
        self.key: str | None = None
        self.ticks: queue.Queue[dict[str, Any] | None] = queue.Queue()
        self.stream_status = 200
        self.connections: list[socket.socket] = []

    def bodies(self, path: str) -> list[Any]:
        """Return the bodies posted to `path`."""
        return [body for _, asked, body in self.asked if asked == path]

    def recommend(self, body: dict[str, Any]) -> dict[str, Any]:
        """Return the canned list for whoever asks, after their clicks."""
        who = body.get("user_id") or body["session_id"]
        clicked = self.clicked.get(who, [])
        liked = {GENRES[row % len(GENRES)] for row in clicked}
        rows = [row for row in range(len(TITLES)) if row not in clicked]
        rows.sort(key=lambda row: (GENRES[row % len(GENRES)] not in liked, row))
        source = "sequence" if "user_id" in body or clicked else "popular"
        items = [
            {**_item(row), "score": 4.2 - 0.21 * place, "rank": place, "source": source}
            for place, row in enumerate(rows[: body["n"]], start=1)
        ]
        return {
            "request_id": f"req-{len(self.asked)}",
            "items": items,
            "model": {"name": "esasrec", "version": "1f0c9a7be2d43311+0"},
            "degraded": self.degraded,
            "took_ms": 2.1,
        }

    def note(self, event: dict[str, Any]) -> dict[str, Any]:
        """Return the reply to an event, once it is noted."""
        who = event.get("user_id") or event["session_id"]
        self.clicked.setdefault(who, []).append(int(event["item_id"][1:]))
        return {"accepted": 1, "duplicates": 0, "rejected": []}


def _item(row: int) -> dict[str, Any]:
    return {"item_id": f"i{row}", "fields": {"title": TITLES[row], "genres": GENRES[row % 4]}}


class _Handler(BaseHTTPRequestHandler):
    fake: Fake

    def log_message(self, *_: object) -> None:
        """Say nothing."""

    def setup(self) -> None:
        super().setup()
        self.fake.connections.append(self.connection)

    def do_GET(self) -> None:
        parts = urlsplit(self.path)
        self.fake.asked.append(("GET", parts.path, None))
        query = parse_qs(parts.query).get("query", [""])[0].lower()
        if parts.path == "/dashboard":
            self._file("index.html")
        elif parts.path.startswith("/dashboard/"):
            self._file(parts.path.removeprefix("/dashboard/"))
        elif parts.path == "/v1/stream":
            self._stream()
        elif parts.path == "/v1/users":
            self._reply({"users": ["ada", "bo", "<b>eve</b>"]})
        elif parts.path == "/v1/items":
            rows = [row for row, title in enumerate(TITLES) if query in title.lower()]
            self._reply({"items": [_item(row) for row in rows]})
        else:
            self._send(404, b"{}", "application/json")

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.fake.asked.append(("POST", self.path, body))
        if self.path == "/v1/events":
            self._reply(self.fake.note(body))
        else:
            self._reply(self.fake.recommend(body))

    def _stream(self) -> None:
        """Send the ticks that the test puts into the queue; None ends the stream."""
        if self.fake.stream_status != 200:
            self._send(self.fake.stream_status, b"{}", "application/problem+json")
            return
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream; charset=utf-8")
        self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(b"retry: 2000\n\n")
        self.wfile.flush()
        while (tick := self._next_tick()) is not None:
            event = f"event: tick\ndata: {json.dumps(tick)}\n\n".encode()
            # In two parts: an event need not come in one piece.
            self.wfile.write(event[:20])
            self.wfile.flush()
            self.wfile.write(event[20:])
            self.wfile.flush()
        self.close_connection = True

    def _next_tick(self) -> dict[str, Any] | None:
        """Return the next tick; until there is one, say every second that the server is there."""
        while True:
            try:
                return self.fake.ticks.get(timeout=1)
            except queue.Empty:
                self.wfile.write(b": nothing yet\n\n")
                self.wfile.flush()

    def _reply(self, value: Any) -> None:
        refused = self.fake.refuse_with
        if self.fake.key is not None:
            given = self.headers.get("Authorization")
            refused = None if given == f"Bearer {self.fake.key}" else 401
        if refused is not None:
            problem = {"title": "Refused", "detail": "planted by the test", "status": refused}
            self._send(refused, json.dumps(problem).encode(), "application/problem+json")
            return
        self._send(200, json.dumps(value).encode(), "application/json")

    def _file(self, name: str) -> None:
        path = PAGE / name
        kind = KINDS.get(path.suffix, "image/svg+xml")
        self._send(200, path.read_bytes(), kind)

    def _send(self, status: int, body: bytes, kind: str) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Content-Security-Policy", POLICY)
        self.send_header("X-Content-Type-Options", "nosniff")
        if self.path == "/v1/recommend":
            timing = "T;dur=0.31, P;dur=0.62, A;dur=1.17, T-read;dur=0.2, T-decode;dur=0.11, "
            timing += "P-state;dur=0.62, A-search;dur=0.7, A-filter;dur=0.17, A-select;dur=0.3"
            self.send_header("Server-Timing", timing)
        self.end_headers()
        self.wfile.write(body)


def tick(number: int, **changes: Any) -> dict[str, Any]:
    """Return what the stream tells of second `number`, with `changes`."""
    spread = {"per_s": 900.0, "p50_ms": 0.61, "p99_ms": 2.25}
    found = {"hits": 3, "misses": 1, "share": 0.75}
    return {
        "time_ms": 1_790_000_000_000 + 1000 * number,
        "seconds": 1.0,
        "requests": 1234.0,
        "events": 56.0,
        "refused": 0.0,
        "failed": 0.0,
        "degraded": 0.0,
        "lists": spread,
        "answers": {"recommend": spread},
        "parts": {},
        "stages": {"state": spread, "search": {"per_s": 900.0, "p50_ms": 0.2, "p99_ms": 4.5}},
        "waiting": {"requests": 2, "events": 7},
        "caches": {"lists": found, "items": {"hits": 0, "misses": 0, "share": None}},
        "pool": {"states": 1500, "slots": 20_000, "bytes": 300 << 20, "found": found},
        "audit": {"max_error": 3.1e-7, "audits": 12, "failures": 0},
    } | changes


@contextmanager
def running(port: int = 0) -> Iterator[tuple[str, Fake]]:
    """Yield (address, Fake) of a stand-in on a port of 127.0.0.1, by default a free one."""
    fake = Fake()
    handler = type("Handler", (_Handler,), {"fake": fake, "protocol_version": "HTTP/1.1"})
    server = ThreadingHTTPServer(("127.0.0.1", port), handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", fake
    finally:
        fake.ticks.put(None)
        server.shutdown()
        thread.join()
        server.server_close()
        # A browser keeps connections: one that outlived its server would answer in its place.
        for connection in fake.connections:
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
