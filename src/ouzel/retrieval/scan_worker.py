"""A thread of compiled code beside the interpreter, for searches and rankings of some length."""

from __future__ import annotations

import ctypes
import logging
import os
from collections import deque
from collections.abc import Callable
from collections.abc import Set as AbstractSet
from typing import Protocol

import numpy as np

from ouzel.retrieval.scan import loaded

logger = logging.getLogger(__name__)


class Begun(Protocol):
    """Work for compiled code: a function at an address, which gives 0 if it failed."""

    @property
    def function(self) -> int:
        """Return the address of a `int (const void *)` that any thread may call."""
        ...

    @property
    def arguments(self) -> ctypes.Structure:
        """Return what it is called with; what that points to stays as long as this."""
        ...

    failed: bool


class ScanWorker:
    """A thread outside the interpreter that searches, one after the other, while Python goes on.

    Other work that was begun for compiled code it does as well. Reading all codes empties the
    caches of a core: beside the interpreter, on one of the other `cores`, that slows nothing down.
    `fileno` can be read when a search is done; `collect` then calls what was given for it.

    >>> from ouzel.retrieval.scan import ScanIndex
    >>> if ScanIndex.works():
    ...     worker = ScanWorker()
    ...     begun = ScanIndex(np.eye(3, dtype=np.float32)).begin(np.ones((1, 3), np.float32), 1)
    ...     worker.submit(begun, lambda: print(begun.rows_BK))
    ...     while not worker.collect():
    ...         pass
    ...     worker.close()
    ... else:
    ...     print("[[1]]")
    [[1]]
    """

    def __init__(self, cores: AbstractSet[int] = frozenset()) -> None:
        """Raises: ValueError if there is no kernel, RuntimeError if there is no thread."""
        self._kernel = loaded()
        self._reading, self._writing = os.pipe()
        os.set_blocking(self._reading, False)
        numbers = np.array(sorted(cores), np.int32)
        self._worker: int | None = self._kernel.ouzel_worker_start(
            self._writing, numbers.ctypes.data, len(numbers)
        )
        if self._worker is None:
            self._close_pipe()
            raise RuntimeError("the system gives no thread to search with: raise its limits")
        self._under_way: deque[tuple[Begun, Callable[[], None]]] = deque()

    def fileno(self) -> int:
        """Return the descriptor that can be read when a search is done."""
        return self._reading

    def submit(self, begun: Begun, done: Callable[[], None]) -> None:
        """Do it beside the caller; `collect` calls `done` after that.

        Raises:
            RuntimeError: it is closed, or there is not enough memory.
        """
        taken = self._worker is not None and self._kernel.ouzel_worker_submit(
            self._worker, begun.function, ctypes.addressof(begun.arguments)
        )
        if not taken:
            raise RuntimeError("the work was not taken: do it in this thread")
        self._under_way.append((begun, done))

    def collect(self) -> int:
        """Return how many searches are done since the last call, after telling who gave them."""
        try:
            ends = os.read(self._reading, 1024)
        except BlockingIOError:
            return 0
        told = [self._under_way.popleft() for _ in ends]
        for failed, (begun, done) in zip(ends, told, strict=True):
            begun.failed = bool(failed)
            try:
                done()
            except Exception:
                logger.exception("a search or ranking was done, and who wanted it failed")
        return len(ends)

    def close(self) -> None:
        """End the thread after the searches that were submitted; nobody is told of them."""
        if self._worker is None:
            return
        self._kernel.ouzel_worker_stop(self._worker)
        self._worker = None
        self._under_way.clear()
        self._close_pipe()

    def _close_pipe(self) -> None:
        os.close(self._reading)
        os.close(self._writing)
