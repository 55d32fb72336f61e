"""The short way through HTTP, for the requests that come by the thousand.

What ASGI asks of a server for one request (a scope, two messages each way, an event to wait for)
takes about 0.07 ms, a good part of all that an answer takes. A request to one of the `short` routes
of the `Frame` is spared that, if it is a plain one: its body announced, not too long, and here soon
after its head, on a connection that has no other request under way and whose client reads what it
is sent. All others go the way of uvicorn, from where both share: parser, keep-alive, shutdown.

Clients repeat themselves: the head of a plain request is remembered, and one that comes again, with
its whole body and nothing else, is not parsed again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any, NamedTuple, cast

from starlette.types import Scope
from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle
from uvicorn.server import ServerState

from ouzel.serving.direct import Direct
from ouzel.serving.frame import OK_JSON, Frame, Short, rest_of_head
from ouzel.serving.timing import Timing

LONGEST_BODY = 1 << 16
"""Longest body that goes the short way, in bytes; uvicorn stops reading for a while beyond it."""

SOON_SECONDS = 0.2
"""For how long a body may follow its head. Many clients send them one after the other."""

MOST_HEADS = 512
"""Heads that are remembered, of all connections of a process: the oldest gives way to a new one."""

LONGEST_HEAD = 2048
"""Longest head that is remembered, in bytes."""

_END = b"\r\n\r\n"
_UNHEARD = asyncio.Event()
_TO_THE_LETTER = (b"expect", b"content-encoding", b"transfer-encoding")
"""Headers of which the short way knows nothing."""


class _Plain:
    """A request on the short way, as far as uvicorn's protocol looks at what is under way."""

    message_event = _UNHEARD

    def __init__(self, head: _Head, way: ShortWay) -> None:
        self.head = head
        self._way: ShortWay | None = way
        self.body = b""
        self.more_body = True
        self.awaited = False
        self.response_complete = False
        self.disconnected = False
        self.keep_alive = True

    def reply(self, body: bytes, timing: Timing) -> None:
        """Send the answer."""
        assert self._way is not None, "it was answered already"
        way, self._way = self._way, None
        way.send(self, OK_JSON + rest_of_head(len(body), timing), body)

    def go_on(self) -> None:
        """Take the way of all routes."""
        assert self._way is not None, "it was answered already"
        way, self._way = self._way, None
        way.go_on(self)


class _Head(NamedTuple):
    """What the parser made of a head: the route, the scope, and how long the body is, in bytes.

    `direct` may take it first: None where the route has none, or the request is not let in.
    """

    short: Short
    scope: Scope
    length: int
    direct: Direct | None


class ShortWay(HttpToolsProtocol):
    """uvicorn's HTTP protocol on httptools, with a short way for plain requests."""

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        app = config.loaded_app
        self._frame = app if isinstance(app, Frame) else None
        self._short: Mapping[bytes, Short] = {} if self._frame is None else self._frame.short
        self._direct: Mapping[bytes, Direct] = {} if self._frame is None else self._frame.direct
        self._heads: dict[bytes, _Head] = {} if self._frame is None else self._frame.heads
        self._asked: _Plain | None = None
        self._between = True  # The parser has come to the end of a message.

    def data_received(self, data: bytes) -> None:
        """Read on; a body that has not come whole may follow soon."""
        between = self._between
        if between:
            if self._again(data):
                return
            self._asked = None  # What was answered before is not what these bytes ask.
        super().data_received(data)
        asked = self._asked
        if asked is None:
            return
        if not asked.more_body:
            if between:
                self._remember(data, asked)
        elif not asked.awaited:
            asked.awaited = True
            self.loop.call_later(SOON_SECONDS, self._turn_back, asked)

    def _again(self, data: bytes) -> bool:
        """Return whether this is one whole request whose head is known, which is now answered."""
        end = _end_of_head(data)
        known = self._heads.get(data[:end])
        if known is None or len(data) - end != known.length or self._busy():
            return False
        self._unset_keepalive_if_required()
        asked = self._asked = _Plain(known, self)
        asked.body = data[end:]
        self.cycle = cast(RequestResponseCycle, asked)
        self._begin(asked)
        return True

    def _remember(self, data: bytes, asked: _Plain) -> None:
        """Remember the head of a request that was all of the data."""
        end = _end_of_head(data)
        if len(data) - end == len(asked.body) and 0 < end <= LONGEST_HEAD:
            while len(self._heads) >= MOST_HEADS:
                del self._heads[next(iter(self._heads))]
            self._heads[data[:end]] = asked.head
            if asked.head.direct is not None:
                asked.head.direct.learned(data[:end], asked.head.length)

    def _turn_back(self, asked: _Plain) -> None:
        """Let a request whose body is still not whole go the way of uvicorn, which can wait."""
        if asked is self._asked and asked.more_body and self.parser is not None:
            self._asked = self.cycle = None  # type: ignore[assignment]
            self._as_usual()
            if asked.body:
                self.on_body(asked.body)

    def on_message_begin(self) -> None:
        """Begin a request."""
        self._between = False
        self.url = b""
        self.headers = []
        self.expect_100_continue = False

    def on_headers_complete(self) -> None:
        """Choose the way."""
        short = self._short.get(self.url)
        self._asked = None if short is None else self._plain(short)
        if self._asked is None:
            self._as_usual()
        else:
            self.cycle = cast(RequestResponseCycle, self._asked)

    def on_body(self, body: bytes) -> None:
        """Take a part of the body."""
        if self._asked is None:
            super().on_body(body)
        else:
            self._asked.body += body

    def on_message_complete(self) -> None:
        """Begin the answer of a plain request."""
        self._between = True
        asked = self._asked
        if asked is None:
            super().on_message_complete()
        else:
            self._begin(asked)

    def _begin(self, asked: _Plain) -> None:
        asked.more_body = False
        direct = asked.head.direct
        if direct is None or not direct.take(asked, asked.body, self.loop):
            asked.go_on()

    def go_on(self, asked: _Plain) -> None:
        """Answer a plain request the way of all routes."""
        task = self.loop.create_task(self._answer(asked))
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)

    def shutdown(self) -> None:
        """Let the request under way be the last; one that has no end comes to it."""
        super().shutdown()
        if self._frame is not None and self._frame.stop is not None:
            self._frame.stop()

    def _as_usual(self) -> None:
        url, headers, expects = self.url, self.headers, self.expect_100_continue
        super().on_message_begin()
        self.url, self.expect_100_continue = url, expects
        self.headers += headers
        super().on_headers_complete()
        # For an answer without end, whose client may never read what it was sent.
        self.scope["ouzel.hang_up"] = self.transport.abort  # type: ignore[typeddict-unknown-key]

    def _busy(self) -> bool:
        """Return whether an answer is under way or the client does not read what it is sent."""
        under_way = self.cycle is not None and not self.cycle.response_complete
        return under_way or self.flow.write_paused

    def _plain(self, short: Short) -> _Plain | None:
        """Return what is asked if the short way will do, else None."""
        parser = self.parser
        if (
            self._busy()
            or parser.get_method() != b"POST"
            or parser.get_http_version() != "1.1"
            or parser.should_upgrade()
            or not parser.should_keep_alive()
        ):
            return None
        # Backwards, so that the first of several headers of a name is the one that counts.
        by_name = dict(reversed(self.headers))
        announced = by_name.get(b"content-length", b"")
        if not announced.isdigit() or len(announced) > 8 or int(announced) > LONGEST_BODY:
            return None
        if any(name in by_name for name in _TO_THE_LETTER):
            return None
        scope: Scope = {
            "type": "http",
            "method": "POST",
            "path": self.url.decode("ascii"),
            "query_string": b"",
            "headers": self.headers,
            "ouzel.headers": by_name,
        }
        direct = self._direct.get(self.url)
        if direct is not None and (self._frame is None or not self._frame.admits(scope)):
            direct = None
        return _Plain(_Head(short, scope, int(announced), direct), self)

    async def _answer(self, asked: _Plain) -> None:
        assert self._frame is not None, "only a frame has short routes"
        # A copy: what is found out about this request is not for the next one with its head.
        scope = dict(asked.head.scope)
        self.send(asked, *await self._frame.answer(asked.head.short, scope, asked.body))

    def send(self, asked: _Plain, head: bytes, body: bytes) -> None:
        """Send the answer to a plain request: its head, but for the last line, and its body."""
        asked.response_complete = True
        if asked.disconnected or self.transport.is_closing():
            return
        lines = [head]
        for name, value in self.server_state.default_headers:
            lines += (name, b": ", value, b"\r\n")
        if not asked.keep_alive:
            lines.append(b"connection: close\r\n")
        self.transport.write(b"".join((*lines, b"\r\n", body)))
        if not asked.keep_alive:
            self.transport.close()
        self.on_response_complete()


def _end_of_head(data: bytes) -> int:
    """Return how many bytes of `data` are the first head in it, 0 if it does not end there."""
    end = data.find(_END)
    return 0 if end < 0 else end + len(_END)
