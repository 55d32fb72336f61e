"""Several processes on one port: the writer, which owns log and states, and its readers.

A reader is forked when everything is loaded: tables, graphs and index are in memory once. The
system spreads connections over the processes; what a reader cannot answer comes over its link, and
is answered here like any other request.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import os
import signal
import socket
import weakref
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any, NoReturn

from starlette.types import ASGIApp
from starlette.types import Message as HttpMessage

from ouzel.serving.child import close_all_but
from ouzel.serving.engine import Engine
from ouzel.serving.link import Asked, Body, Counted, Gone, Head, Hello, Link, Message, Shown, Stop
from ouzel.serving.problem import CONTENT_TYPE, ProblemError

logger = logging.getLogger(__name__)

HELLO_SECONDS = 60.0
"""How long a reader may take until it listens."""

STOP_SECONDS = 30.0
"""How long a reader may take to answer what is under way, once it is told to stop."""

Life = Callable[[socket.socket], Coroutine[Any, Any, None]]
"""What a reader does with its end of the link until it ends."""


@dataclass
class _Reader:
    pid: int
    end: socket.socket
    link: Link | None = None
    hello: asyncio.Event = field(default_factory=asyncio.Event)
    ended: asyncio.Event = field(default_factory=asyncio.Event)
    asked: dict[int, asyncio.Task[None]] = field(default_factory=dict)
    alive: bool = False


class Workers:
    """The readers of one writer. `fork` them before this process has a second thread."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._readers: list[_Reader] = []
        self._stopping = False

    def fork(self, life: Life, run: Callable[[Coroutine[Any, Any, None]], None]) -> None:
        """Begin one more reader: `run` runs its `life` to the end, in the new process."""
        ours, theirs = socket.socketpair()
        gc.collect()
        gc.freeze()
        pid = os.fork()
        if not pid:
            _live(life, run, theirs)
        theirs.close()
        # A server that was made and never run leaves no process behind.
        weakref.finalize(self, ours.close)
        self._readers.append(_Reader(pid, ours))

    @property
    def alive(self) -> int:
        """Return how many readers answer."""
        return sum(reader.alive for reader in self._readers)

    async def start(self, app: ASGIApp) -> None:
        """Hear what the readers ask, let `app` answer it, and return once all of them listen.

        Raises:
            RuntimeError: a reader did not come up.
        """
        for reader in self._readers:
            reader.link = Link(self._hearing(reader, app), self._losing(reader))
            await reader.link.open(reader.end)
        try:
            async with asyncio.timeout(HELLO_SECONDS):
                for reader in self._readers:
                    await reader.hello.wait()
        except TimeoutError:
            pass  # Those that have come up by now are counted.
        if self.alive < len(self._readers):
            missing = len(self._readers) - self.alive
            raise RuntimeError(f"{missing} workers did not come up: see the log")

    async def close(self) -> None:
        """Let the readers answer what is under way, then end them."""
        self._stopping = True
        for reader in self._readers:
            if reader.link is not None:
                reader.link.send(Stop())
        for reader in self._readers:
            if reader.link is None:
                reader.end.close()  # Which is what it waits for.
                continue
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(STOP_SECONDS):
                    await reader.ended.wait()
            if not reader.ended.is_set():
                os.kill(reader.pid, signal.SIGKILL)
            with contextlib.suppress(ChildProcessError):
                await asyncio.to_thread(os.waitpid, reader.pid, 0)

    def _hearing(self, reader: _Reader, app: ASGIApp) -> Callable[[Message], None]:
        def hear(message: Message) -> None:
            if isinstance(message, Asked):
                task = asyncio.get_running_loop().create_task(self._answer(reader, app, message))
                reader.asked[message.number] = task
                task.add_done_callback(lambda _: reader.asked.pop(message.number, None))
            elif isinstance(message, Gone):
                task_gone = reader.asked.get(message.number)
                if task_gone is not None:
                    task_gone.cancel()
            elif isinstance(message, Shown):
                for impression in message.impressions:
                    self._engine.writer.append_later(impression)
            elif isinstance(message, Counted):
                self._engine.metrics.add(message.counts)
                self._engine.parts.states.stats.hits += message.hits
                self._engine.answers.paths.add_counts(message.failures, message.overruns)
            elif isinstance(message, Hello):
                reader.alive = True
                reader.hello.set()

        return hear

    def _losing(self, reader: _Reader) -> Callable[[], None]:
        def lose() -> None:
            if not self._stopping:
                logger.error("a worker has gone: the others go on without it")
            reader.alive = False
            reader.hello.set()  # Nobody need wait for it.
            reader.ended.set()
            for task in reader.asked.values():
                task.cancel()

        return lose

    async def _answer(self, reader: _Reader, app: ASGIApp, asked: Asked) -> None:
        link = reader.link
        assert link is not None, "it was asked over this link"
        begun = False
        whole = [{"type": "http.request", "body": asked.body, "more_body": False}]

        async def receive() -> HttpMessage:
            if whole:
                return whole.pop()
            # Who goes away cancels this task.
            await asyncio.Event().wait()
            raise AssertionError("never set")

        async def send(message: HttpMessage) -> None:
            nonlocal begun
            if message["type"] == "http.response.start":
                begun = True
                link.send(Head(asked.number, message["status"], list(message.get("headers", []))))
            else:
                more = message.get("more_body", False)
                link.send(Body(asked.number, message.get("body", b""), more))

        try:
            await app(_scope(asked), receive, send)
        except Exception:
            logger.exception("%s %s failed", asked.method, asked.path)
            problem = ProblemError(500, "the server failed: see its log")
            if not begun:
                link.send(Head(asked.number, problem.status, [(b"content-type", CONTENT_TYPE)]))
            link.send(Body(asked.number, b"" if begun else problem.encode(), False))


def _scope(asked: Asked) -> dict[str, Any]:
    """Return the request as ASGI has it."""
    return {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "scheme": "http",
        "method": asked.method,
        "path": asked.path,
        "raw_path": asked.path.encode(),
        "root_path": "",
        "query_string": asked.query,
        "headers": asked.headers,
        "client": None,
        "server": None,
        "state": {},
    }


def _live(
    life: Life, run: Callable[[Coroutine[Any, Any, None]], None], end: socket.socket
) -> NoReturn:
    """Body of a reader: it ends when it is told to, and takes nothing of its parent along."""
    try:
        # Who stops the server stops the writer, which stops us.
        for sign in (signal.SIGINT, signal.SIGTERM):
            signal.signal(sign, signal.SIG_IGN)
        close_all_but(end.fileno())
        run(life(end))
    except BaseException:
        logger.exception("a worker of the server failed")
    finally:
        os._exit(0)
