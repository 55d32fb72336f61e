"""The process: one socket, one event loop, quiet logs, a clean end."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import sys
from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import uvicorn
import uvloop
from starlette.types import ASGIApp

from ouzel.bundle.store import BundleStore
from ouzel.events.alone import alone
from ouzel.events.log_view import LogView
from ouzel.inference.shared import writes_in_order
from ouzel.serving.app import build_app
from ouzel.serving.child import core_numbers, stay_on
from ouzel.serving.engine import Engine
from ouzel.serving.front_door import FrontDoor
from ouzel.serving.home import Resources, open_home
from ouzel.serving.reader import Reader, inherited
from ouzel.serving.security import Access, check_binding
from ouzel.serving.short import ShortWay
from ouzel.serving.workers import Workers

SWITCH_SECONDS = 0.0001
"""How long the log writer may hold the interpreter while an answer waits for it (5 ms is
Python's default, and would be the slowest answer)."""

MOST_WORKERS = 256

DRAIN_SECONDS = 20
"""How long answers under way may take once the server is told to stop."""


INNER_SECONDS = 60
"""Seconds that a connection may rest behind the front door, which ends it sooner."""


class _Server(uvicorn.Server):
    """A uvicorn server that tells when it listens."""

    def __init__(
        self,
        config: uvicorn.Config,
        listening: Callable[[], None],
        door: FrontDoor | None = None,
        cores: Sequence[int] = (),
    ) -> None:
        super().__init__(config)
        self._listening = listening
        self._door = door
        self._cores = cores

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start to listen, at the front door if there is one, then tell."""
        if self._door is None:
            await super().startup(sockets)
        else:
            await super().startup([])
        if self.should_exit:
            return
        if self._door is not None and sockets:
            self._door.open(sockets[0], self._protocol, self._cores)
        self._listening()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Answer what is under way, then end."""
        if self._door is not None:
            self._door.leave()
        try:
            await super().shutdown(sockets)
        finally:
            if self._door is not None:
                self._door.close()

    def _protocol(self) -> asyncio.Protocol:
        return ShortWay(self.config, self.server_state, self.lifespan.state)


class _Reading(_Server):
    """The server of a reader, which the writer stops."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave signals alone."""
        yield


def serve(
    home: Path,
    *,
    host: str = "127.0.0.1",
    port: int = 8000,
    port_file: Path | None = None,
    api_key: str | None = None,
    resources: Resources | None = None,
    weights: Mapping[str, float] | None = None,
    listening: Callable[[str], None] | None = None,
) -> None:
    """Serve a home until SIGTERM or SIGINT; returns after the last answer has left.

    `port` 0 takes any free port. `port_file` receives the port once requests are welcome, and
    `listening` is called then with the address. `weights` are those of the ranker's actions.

    Raises:
        ValueError: the binding needs a key, the home cannot be served or is served already, or this
            machine cannot have several workers.
        OSError: the port is taken.

    >>> serve(Path("no-such-home"), port=0)
    Traceback (most recent call last):
    ...
    ValueError: no-such-home is no home: make one with `ouzel train --data PATH --out no-such-home`
    """
    check_binding(host, api_key)
    if port_file is not None and not port_file.parent.is_dir():
        raise ValueError(f"the port file {port_file} has no folder to be in: make it first")
    if home.is_dir():
        # Before the lock, which would be left behind in a folder that has nothing to do with us.
        BundleStore(home).current()
    given = Resources() if resources is None else resources
    check_workers(given.workers)
    access = Access(host, api_key)

    def tell(taken: int) -> None:
        if port_file is not None:
            _write_whole(port_file, f"{taken}\n")
        if listening is not None:
            listening(address(host, taken))

    with bound(host, port):
        pass  # Among those who share a port, another server would not be noticed.
    with bound(host, port, exclusive=given.workers == 1) as listener, alone(home):
        engine = open_home(home, **asdict(given), weights=weights)
        readers = _forked(engine, access, (host, listener.getsockname()[1]))
        cores = core_numbers()
        stay_on(set(cores[:1]))
        app = build_app(engine, access, readers)
        run(app, listener, tell, door=FrontDoor.of(engine), cores=cores)


def check_workers(workers: int) -> None:
    """Return if a server on this machine can have so many processes.

    Raises:
        ValueError: it cannot.

    >>> check_workers(0)
    Traceback (most recent call last):
    ...
    ValueError: 0 workers answer nobody: give at least 1
    """
    if workers < 1:
        raise ValueError(f"{workers} workers answer nobody: give at least 1")
    if workers > MOST_WORKERS:
        raise ValueError(f"{workers} workers are too many: give at most {MOST_WORKERS}")
    possible = hasattr(os, "fork") and hasattr(socket, "SO_REUSEPORT") and writes_in_order()
    if workers > 1 and not possible:
        raise ValueError("several workers take Linux or macOS on x86-64: give 1 here")


def _forked(engine: Engine, access: Access, address: tuple[str, int]) -> Workers:
    """Return the readers of an engine, each on a core of its own if there are enough."""
    readers = Workers(engine)
    cores = core_numbers()
    if engine.parts.workers == 1:
        return readers
    with engine.log.let_go():
        for number in range(1, engine.parts.workers):
            core = set(cores[number % len(cores) :][:1]) if cores else set()
            readers.fork(partial(_read, engine, access, address, core), _run_in_loop)
    return readers


async def _read(
    engine: Engine,
    access: Access,
    address: tuple[str, int],
    cores: AbstractSet[int],
    end: socket.socket,
) -> None:
    """Be a reader until told to stop."""
    stay_on(cores)
    sys.setswitchinterval(SWITCH_SECONDS)
    stop = asyncio.Event()
    log = LogView(engine.log.path)
    reader = Reader(inherited(engine), log, stop=stop)
    await reader.start(end)
    with bound(*address, exclusive=False) as listener:
        server = _Reading(configured(reader.app(access)), reader.listening)
        serving = asyncio.ensure_future(server.serve([listener]))
        stopping = asyncio.ensure_future(stop.wait())
        await asyncio.wait([serving, stopping], return_when=asyncio.FIRST_COMPLETED)
        server.should_exit = True
        await serving
    reader.close()
    log.close()


def _run_in_loop(life: Coroutine[Any, Any, None]) -> None:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(life)


def run(
    app: ASGIApp,
    listener: socket.socket,
    listening: Callable[[int], None],
    *,
    door: FrontDoor | None = None,
    cores: Sequence[int] = (),
) -> None:
    """Serve an application on a bound socket until SIGTERM or SIGINT.

    `listening` is called with the port once requests are welcome. A front door takes all
    connections, and may run on any of `cores`.

    >>> from starlette.routing import Router
    >>> with bound("127.0.0.1", 0) as listener:  # told to stop as soon as it listens
    ...     run(Router(), listener, lambda port: signal.raise_signal(signal.SIGTERM))
    """
    config = configured(app) if door is None else configured(app, idle_seconds=INNER_SECONDS)
    port = listener.getsockname()[1]
    sys.setswitchinterval(SWITCH_SECONDS)
    with _ending_quietly():
        server = _Server(config, lambda: listening(port), door, cores)
        server.run(sockets=[listener])


def configured(app: ASGIApp, *, idle_seconds: int = 5) -> uvicorn.Config:
    """Return how uvicorn serves an application; connections may rest for `idle_seconds`.

    >>> from starlette.routing import Router
    >>> configured(Router()).http.__name__
    'ShortWay'
    """
    return uvicorn.Config(
        app,
        http=ShortWay,
        loop="uvloop",
        access_log=False,
        log_level="warning",
        server_header=False,
        proxy_headers=False,
        timeout_graceful_shutdown=DRAIN_SECONDS,
        timeout_keep_alive=idle_seconds,
    )


def address(host: str, port: int) -> str:
    """Return the address of a server as a URL.

    >>> address("::1", 8000)
    'http://[::1]:8000'
    """
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


@contextlib.contextmanager
def bound(host: str, port: int, *, exclusive: bool = True) -> Iterator[socket.socket]:
    """Yield a socket that is bound but does not listen yet.

    Not `exclusive`: others of the same user may bind to the same port later, and connections are
    spread over all of them.

    Raises:
        OSError: the port is taken, or the host is not of this machine.

    >>> with bound("127.0.0.1", 0) as listener:
    ...     listener.getsockname()[1] > 0
    True
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if not exclusive:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        listener.bind((host, port))
        yield listener


@contextlib.contextmanager
def _ending_quietly() -> Iterator[None]:
    # uvicorn raises the signal that stopped it once more after the clean end; by then it is done.
    ours = (signal.SIGTERM, signal.SIGINT)
    before = {sign: signal.signal(sign, lambda *_: None) for sign in ours}
    try:
        yield
    finally:
        for sign, handler in before.items():
            signal.signal(sign, handler)


def _write_whole(path: Path, text: str) -> None:
    """Write a small file so that no reader ever sees half of it."""
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    beside.write_text(text, "utf-8")
    beside.replace(path)
