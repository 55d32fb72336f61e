"""Those who listen to what the server does: one tick a second for all, nothing while none do.

A listener holds the newest tick and no other. Who reads slowly misses ticks, and costs no memory.
"""

from __future__ import annotations

import asyncio
import logging

import msgspec

from ouzel.serving.live import Live

logger = logging.getLogger(__name__)

TICK_SECONDS = 1.0

MAX_LISTENERS = 32
"""Most who may listen at once."""

_encode = msgspec.json.Encoder().encode


class Listener:
    """One who listens; lives in one event loop."""

    def __init__(self) -> None:
        self._newest: bytes | None = None
        self._changed = asyncio.Event()
        self.closed = False

    def tell(self, tick: bytes) -> None:
        """Let `tick` be what is heard next, in place of what was not heard yet."""
        self._newest = tick
        self._changed.set()

    def close(self) -> None:
        """Let nothing more be heard."""
        self.closed = True
        self._changed.set()

    async def next(self) -> bytes | None:
        """Return the newest tick that was not heard yet as JSON, waiting for it; None: the end."""
        await self._changed.wait()
        self._changed.clear()
        return None if self.closed else self._newest


class Stream:
    """Tells its listeners what happened, every `seconds`; lives in one event loop.

    >>> from ouzel.serving.metrics import Metrics
    >>> async def listen():
    ...     stream = Stream(Live(Metrics()), seconds=0.01)
    ...     listener = stream.join()
    ...     heard = await listener.next()
    ...     stream.close()
    ...     return heard[:11], await listener.next()
    >>> asyncio.run(listen())
    (b'{"time_ms":', None)
    """

    def __init__(
        self, live: Live, *, seconds: float = TICK_SECONDS, max_listeners: int = MAX_LISTENERS
    ) -> None:
        self.seconds = seconds
        self.max_listeners = max_listeners
        self._live = live
        self._listeners: set[Listener] = set()
        self._ticking: asyncio.Task[None] | None = None
        self._closed = False

    def __len__(self) -> int:
        return len(self._listeners)

    def join(self) -> Listener | None:
        """Return a new listener, None if there are too many; one who joins late hears the end."""
        if len(self._listeners) >= self.max_listeners:
            return None
        listener = Listener()
        if self._closed:
            listener.close()
            return listener
        self._listeners.add(listener)
        if self._ticking is None:
            # Of the time when nobody listened nothing is told.
            self._live.restart()
            self._ticking = asyncio.get_running_loop().create_task(self._tick_on())
        return listener

    def leave(self, listener: Listener) -> None:
        """Forget a listener."""
        self._listeners.discard(listener)
        if not self._listeners and self._ticking is not None:
            self._ticking.cancel()
            self._ticking = None

    def close(self) -> None:
        """Let all listeners hear the end, whoever joins later too."""
        self._closed = True
        for listener in list(self._listeners):
            listener.close()
            self.leave(listener)

    async def _tick_on(self) -> None:
        while True:
            await asyncio.sleep(self.seconds)
            try:
                tick = _encode(self._live.tick())
            except Exception:
                logger.exception("what happened in the last second cannot be told")
                continue
            for listener in self._listeners:
                listener.tell(tick)
