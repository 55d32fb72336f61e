"""What the processes of one server say to each other, and the stream that carries it.

A reader asks the writer what it cannot answer itself, tells what it has shown and counted, and
stops when it is told to, or when the writer has gone.
"""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Callable
from typing import cast

import msgspec

from ouzel.events.types import Impression
from ouzel.serving.metrics import Counts

Headers = list[tuple[bytes, bytes]]


class _Message(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """Anything that is said."""


class Hello(_Message, frozen=True):
    """A reader: I listen."""


class Asked(_Message, frozen=True):
    """A reader: answer this request for me. `number` is its own among those under way."""

    number: int
    method: str
    path: str
    query: bytes
    headers: Headers
    body: bytes


class Gone(_Message, frozen=True):
    """A reader: nobody waits for that answer any more."""

    number: int


class Shown(_Message, frozen=True):
    """A reader: these lists were answered."""

    impressions: list[Impression]


class Counted(_Message, frozen=True):
    """A reader: this happened since I told you last.

    `hits` are states that were found; `failures` and `overruns` are those of stages, by name.
    """

    counts: Counts
    hits: int
    failures: dict[str, int]
    overruns: dict[str, int]


class Head(_Message, frozen=True):
    """The writer: how an answer begins."""

    number: int
    status: int
    headers: Headers


class Body(_Message, frozen=True):
    """The writer: how an answer goes on, or ends."""

    number: int
    body: bytes
    more: bool


class Stop(_Message, frozen=True):
    """The writer: answer what is under way, then end."""


Message = Hello | Asked | Gone | Shown | Counted | Head | Body | Stop

_LENGTH = struct.Struct("<I")
_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Message).decode


class Link(asyncio.Protocol):
    """One end of the stream; `received` is called with what comes, `lost` once at its end.

    >>> async def say():
    ...     heard: asyncio.Future[Message] = asyncio.get_running_loop().create_future()
    ...     ours, theirs = socket.socketpair()
    ...     one, other = Link(print, bool), Link(heard.set_result, bool)
    ...     await one.open(ours)
    ...     await other.open(theirs)
    ...     one.send(Gone(7))
    ...     print(await heard)
    ...     other.close()
    >>> asyncio.run(say())
    Gone(number=7)
    """

    def __init__(self, received: Callable[[Message], None], lost: Callable[[], None]) -> None:
        self._received = received
        self._lost = lost
        self._buffer = bytearray()
        self._transport: asyncio.Transport | None = None

    async def open(self, end: socket.socket) -> None:
        """Begin to hear and to say."""
        end.setblocking(False)
        await asyncio.get_running_loop().create_connection(lambda: self, sock=end)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take the transport; the event loop calls this."""
        self._transport = cast(asyncio.Transport, transport)

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell that nothing will come any more; the event loop calls this."""
        self._transport = None
        self._lost()

    @property
    def open_to_talk(self) -> bool:
        """Return whether there is somebody at the other end."""
        return self._transport is not None

    def send(self, message: Message) -> None:
        """Say something; to nobody, if the other end has gone."""
        if self._transport is not None:
            body = _encode(message)
            self._transport.write(_LENGTH.pack(len(body)) + body)

    def close(self) -> None:
        """End it once all is said."""
        if self._transport is not None:
            self._transport.close()

    def data_received(self, data: bytes) -> None:
        """Take bytes as they come; the event loop calls this."""
        self._buffer += data
        start, size = 0, len(self._buffer)
        while size - start >= _LENGTH.size:
            (length,) = _LENGTH.unpack_from(self._buffer, start)
            end = start + _LENGTH.size + length
            if end > size:
                break
            message = _decode(memoryview(self._buffer)[start + _LENGTH.size : end].tobytes())
            start = end
            self._received(message)
        del self._buffer[:start]
