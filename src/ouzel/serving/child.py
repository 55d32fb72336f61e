"""A function in a forked process, called from an event loop.

What reads nothing that events change, the encode of a history above all, runs beside the process
that owns log and states. Two threads of one interpreter would spend their gain on waiting for each
other. A child is forked from the process that has loaded everything, so that tables and graphs are
in memory once.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import os
import resource
import signal
import socket
import struct
import weakref
from collections import deque
from collections.abc import Callable
from collections.abc import Set as AbstractSet
from typing import Any, NoReturn

from numpy.typing import NDArray
from safetensors import numpy as safetensors

logger = logging.getLogger(__name__)

Arrays = dict[str, NDArray[Any]]
"""What a call is given and what it answers: arrays by name, as a safetensors file would hold."""

_LENGTH = struct.Struct("<I")
_CHUNK = 1 << 20


class ChildDiedError(Exception):
    """The process has gone before it answered."""


class Child:
    """A process that answers calls of `function` in their order.

    Make it while this process has one thread, and `start` it in the event loop. `name` is for logs.
    It runs on `cores`, or wherever the system likes if none are given. A call that raises ends the
    process: the function is one that does not raise.

    >>> import numpy as np
    >>> double = Child(lambda asked: {"twice": 2 * asked["once"]}, name="double")
    >>> async def ask():
    ...     double.start()
    ...     return await double.call({"once": np.array([21])})
    >>> asyncio.run(ask())["twice"]
    array([42])
    >>> double.close()
    """

    def __init__(
        self,
        function: Callable[[Arrays], Arrays],
        *,
        name: str,
        cores: AbstractSet[int] = frozenset(),
    ) -> None:
        self._name = name
        self._waiting: deque[asyncio.Future[Arrays]] = deque()
        self._received = bytearray()
        ours, theirs = socket.socketpair()
        # Few calls are under way at once: a buffer that holds them all never makes us wait.
        for end in (ours, theirs):
            end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _CHUNK)
        # Whatever is never touched again is never copied for the child's counts of references.
        gc.collect()
        gc.freeze()
        self._pid = os.fork()
        if not self._pid:
            _serve(function, theirs, cores)
        theirs.close()
        # A server that was made and never run leaves no process behind.
        weakref.finalize(self, ours.close)
        self._socket: socket.socket | None = ours
        self._loop: asyncio.AbstractEventLoop | None = None

    @property
    def alive(self) -> bool:
        """Return whether it can be called."""
        return self._socket is not None and self._loop is not None

    def start(self) -> None:
        """Begin to listen; call inside the event loop."""
        if self._socket is not None:
            self._loop = asyncio.get_running_loop()
            self._loop.add_reader(self._socket, self._read)

    def call(self, asked: Arrays) -> asyncio.Future[Arrays] | None:
        """Return what the function makes of `asked`, later; None if the process has gone.

        The future raises ChildDiedError if the process goes before it has answered.
        """
        if self._socket is None or self._loop is None:
            return None
        try:
            _send(self._socket, asked)
        except OSError:
            self._die()
            return None
        future: asyncio.Future[Arrays] = self._loop.create_future()
        self._waiting.append(future)
        return future

    def close(self) -> None:
        """End the process, which ends when its socket does."""
        if self._socket is not None:
            self._let_go()
        with contextlib.suppress(ChildProcessError):
            os.waitpid(self._pid, 0)

    def _read(self) -> None:
        try:
            data = self._socket.recv(_CHUNK, socket.MSG_DONTWAIT) if self._socket else b""
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self._die()
            return
        self._received += data
        while (message := _message(self._received)) is not None:
            future = self._waiting.popleft()
            if not future.done():
                future.set_result(safetensors.load(message))

    def _die(self) -> None:
        logger.error("the %s process has gone: the server goes on without it, slower", self._name)
        self._let_go()

    def _let_go(self) -> None:
        if self._socket is not None:
            if self._loop is not None and not self._loop.is_closed():
                self._loop.remove_reader(self._socket)
            self._socket.close()
            self._socket = None
        while self._waiting:
            future = self._waiting.popleft()
            if not future.done():
                future.set_exception(ChildDiedError(f"the {self._name} process has gone"))


def can_fork() -> bool:
    """Return whether children would help: there is `os.fork`, and a core for them.

    >>> from unittest.mock import patch
    >>> with patch("ouzel.serving.child.core_numbers", return_value=[3]):
    ...     can_fork()
    False
    """
    return hasattr(os, "fork") and len(core_numbers() or range(os.cpu_count() or 1)) > 1


def stay_on(cores: AbstractSet[int]) -> None:
    """Keep this thread on `cores`, and what it starts later; on no cores: do nothing.

    >>> stay_on(set())
    """
    if cores:
        os.sched_setaffinity(0, cores)


def core_numbers() -> list[int]:
    """Return the numbers of the cores that this process may use, none where nobody can tell.

    The first is the event loop's, the others are for what goes on beside it. Left to itself the
    system wakes a helper on the core of the loop, which has just called it.

    >>> core_numbers() == sorted(core_numbers())
    True
    """
    return sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []


def _send(link: socket.socket, arrays: Arrays) -> None:
    message = safetensors.save(arrays)
    link.sendall(_LENGTH.pack(len(message)) + message)


def _message(received: bytearray) -> bytes | None:
    """Return the first whole message and take it off, None if there is none yet."""
    if len(received) < _LENGTH.size:
        return None
    (length,) = _LENGTH.unpack_from(received)
    end = _LENGTH.size + length
    if len(received) < end:
        return None
    message = bytes(received[_LENGTH.size : end])
    del received[:end]
    return message


def _serve(
    function: Callable[[Arrays], Arrays], link: socket.socket, cores: AbstractSet[int]
) -> NoReturn:
    """Body of the process: it ends with the socket, and takes nothing else of its parent along."""
    try:
        stay_on(cores)
        # Who stops the server drains it first; this process ends after that.
        for sign in (signal.SIGINT, signal.SIGTERM):
            signal.signal(sign, signal.SIG_IGN)
        close_all_but(link.fileno())
        received = bytearray()
        while data := link.recv(_CHUNK):
            received += data
            while (message := _message(received)) is not None:
                _send(link, function(safetensors.load(message)))
    except BrokenPipeError:
        pass  # The parent left while we answered.
    except BaseException:
        logger.exception("a child process of the server failed")
    finally:
        os._exit(0)


def close_all_but(kept: int) -> None:
    """Close the parent's files in a child: its log, its lock, its listening socket.

    >>> from unittest.mock import patch
    >>> with patch("os.closerange") as closing:
    ...     close_all_but(5)
    >>> closing.call_args_list[0].args
    (3, 5)
    """
    most = min(resource.getrlimit(resource.RLIMIT_NOFILE)[0], 1 << 16)
    os.closerange(3, kept)
    os.closerange(kept + 1, most)
