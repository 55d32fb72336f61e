"""The load generator itself: sends each request when it is due, over connections kept alive.

One thread, one event loop, no HTTP library: requests are ready-made bytes and an answer is read
only as far as its status, its length and whether it calls itself degraded.
"""

from __future__ import annotations

import asyncio
import gc
import importlib.util
import time
from collections import deque
from collections.abc import Callable, Coroutine
from typing import cast

import numpy as np

from ouzel.evaluation.load_process import ProcessUse, process_use
from ouzel.evaluation.load_result import (
    LOST,
    MALFORMED,
    TIMED_OUT,
    LoadResult,
    Record,
    ServerUse,
    summarise,
)
from ouzel.evaluation.load_spec import LoadSpec, Plan
from ouzel.evaluation.load_timer import ExactTimer

SWEEP_S = 0.05
"""Pause between two looks for requests that have waited too long."""

RECONNECT_S = 0.05
"""Pause before a refused connection is tried again."""

IDLE = -1
DEGRADED = b'"degraded":"'


class Connection(asyncio.Protocol):
    """One connection: at most one request under way; tells `on_answer` (status, degraded)."""

    def __init__(
        self,
        on_answer: Callable[[Connection, int, bool], None],
        on_close: Callable[[Connection], None],
    ) -> None:
        self.request = IDLE
        self.usable = False
        self._on_answer = on_answer
        self._on_close = on_close
        self._buffer = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        self._transport = cast(asyncio.Transport, transport)
        self.usable = True

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell that this connection is gone."""
        self.usable = False
        self._on_close(self)

    def send(self, request: int, payload: bytes) -> None:
        """Write the request with the number `request`."""
        self.request = request
        self._transport.write(payload)

    def abort(self) -> None:
        """Close at once, without waiting for an answer."""
        self.usable = False
        self._transport.abort()

    def data_received(self, data: bytes) -> None:
        """Read the answer as far as it has come."""
        data = self._buffer + data if self._buffer else data
        head_end = data.find(b"\r\n\r\n")
        if head_end < 0:
            self._buffer = data
            return
        head = data[:head_end].lower()
        status, length = read_head(head)
        if status == MALFORMED or self.request == IDLE:
            self.abort()
        elif len(data) < head_end + 4 + length:
            self._buffer = data
            return
        elif b"\r\nconnection: close" in head:
            self.abort()
        self._buffer = b""
        if self.request != IDLE:
            self._on_answer(self, status, data.find(DEGRADED, head_end) >= 0)


def read_head(head: bytes) -> tuple[int, int]:
    """Return status and body length of a lower-case head, MALFORMED if it is not understood.

    >>> read_head(b"http/1.1 200 ok\\r\\ncontent-length: 5")
    (200, 5)
    """
    status = head[9:12]
    if not head.startswith(b"http/1.1 ") or not status.isdigit():
        return MALFORMED, 0
    at = head.find(b"\r\ncontent-length:")
    length = head[at + 17 :].partition(b"\r\n")[0].strip() if at >= 0 else b""
    if length.isdigit():
        return int(status), int(length)
    return (204, 0) if status == b"204" else (MALFORMED, 0)


class Generator:
    """Sends a plan and notes what each request met."""

    def __init__(self, spec: LoadSpec, plan: Plan) -> None:
        count = len(plan.payloads)
        self._spec, self._plan = spec, plan
        self._due = plan.due_R.tolist()
        self._lag, self._latency = [0.0] * count, [0.0] * count
        self._status, self._degraded, self._waited = [0] * count, [False] * count, [False] * count
        self._idle: deque[Connection] = deque()
        self._busy: set[Connection] = set()
        self._queue: deque[int] = deque()
        self._next = self._settled = 0
        self._start_s = 0.0
        self._closing = False
        self._tasks: set[asyncio.Task[None]] = set()

    async def run(self) -> LoadResult:
        """Return what the whole plan met.

        Raises:
            OSError: the server cannot be reached.
            ValueError: the spec's `pid` is no process, or the run was too short.
        """
        spec, loop = self._spec, asyncio.get_running_loop()
        await asyncio.gather(*(self._connect() for _ in range(spec.connections)))
        self._timer = ExactTimer(loop, self._send_due)
        self._start_s = time.monotonic() + 0.01
        self._timer.set(self._start_s)
        self._spawn(self._sweep())
        await self._sleep_until(spec.warmup_s)
        server_before, cpu_before_s = self._server(), time.process_time()
        if server_before is not None and not server_before.cpu_of:
            raise ValueError(f"process {spec.pid} is not there: give the server's pid")
        await self._sleep_until(spec.warmup_s + spec.duration_s)
        cpu_share = (time.process_time() - cpu_before_s) / spec.duration_s
        while self._settled < len(self._due):
            await asyncio.sleep(SWEEP_S)
        server = self._difference(server_before, self._server())
        self._close()
        counted_R = self._plan.due_R >= spec.warmup_s
        return summarise(
            spec,
            self._record(),
            self._plan.kinds_R,
            counted_R,
            client_cpu_share=cpu_share,
            server=server,
        )

    async def _sleep_until(self, moment_s: float) -> None:
        await asyncio.sleep(max(0.0, self._start_s + moment_s - time.monotonic()))

    def _send_due(self) -> None:
        now_s = time.monotonic() - self._start_s
        while self._next < len(self._due) and self._due[self._next] <= now_s:
            request = self._next
            self._next += 1
            self._lag[request] = now_s - self._due[request]
            if self._idle:
                self._send(self._idle.popleft(), request)
            else:
                self._waited[request] = True
                self._queue.append(request)
            now_s = time.monotonic() - self._start_s
        if self._next < len(self._due):
            self._timer.set(self._start_s + self._due[self._next])

    def _send(self, connection: Connection, request: int) -> None:
        self._busy.add(connection)
        connection.send(request, self._plan.payloads[request])

    def _on_answer(self, connection: Connection, status: int, degraded: bool) -> None:
        self._degraded[connection.request] = degraded and 200 <= status < 300
        self._release(connection, status)
        self._employ(connection)

    def _release(self, connection: Connection, status: int) -> None:
        self._settle(connection.request, status)
        connection.request = IDLE
        self._busy.discard(connection)

    def _settle(self, request: int, status: int) -> None:
        self._latency[request] = time.monotonic() - self._start_s - self._due[request]
        self._status[request] = status
        self._settled += 1

    def _employ(self, connection: Connection) -> None:
        """Give a free connection the request that has waited longest, or let it rest."""
        if not connection.usable:
            return
        if self._queue:
            self._send(connection, self._queue.popleft())
        else:
            self._idle.append(connection)

    def _on_close(self, connection: Connection) -> None:
        if connection.request != IDLE:
            self._release(connection, LOST)
        if connection in self._idle:
            self._idle.remove(connection)
        if not self._closing:
            self._spawn(self._reconnect())

    async def _connect(self) -> None:
        loop, spec = asyncio.get_running_loop(), self._spec
        _, connection = await loop.create_connection(
            lambda: Connection(self._on_answer, self._on_close), spec.host, spec.port
        )
        self._employ(connection)

    async def _reconnect(self) -> None:
        while True:
            try:
                await self._connect()
            except OSError:
                await asyncio.sleep(RECONNECT_S)
            else:
                return

    async def _sweep(self) -> None:
        """Give up, again and again, whatever was due longer ago than the timeout."""
        while True:
            await asyncio.sleep(SWEEP_S)
            oldest_s = time.monotonic() - self._start_s - self._spec.timeout_s
            while self._queue and self._due[self._queue[0]] < oldest_s:
                self._settle(self._queue.popleft(), TIMED_OUT)
            for connection in list(self._busy):
                if self._due[connection.request] < oldest_s:
                    self._release(connection, TIMED_OUT)
                    connection.abort()

    def _spawn(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _close(self) -> None:
        self._closing = True
        self._timer.close()
        for task in self._tasks:
            task.cancel()
        for connection in list(self._idle):
            connection.abort()

    def _server(self) -> ProcessUse | None:
        return None if self._spec.pid is None else process_use(self._spec.pid)

    def _difference(self, before: ProcessUse | None, after: ProcessUse | None) -> ServerUse | None:
        if before is None or after is None:
            return None
        cpu_s = after.cpu_s_since(before)
        counted = int(np.count_nonzero(self._plan.due_R >= self._spec.warmup_s))
        each_ms = None if cpu_s is None else 1e3 * cpu_s / max(1, counted)
        return ServerUse(cpu_s, each_ms, after.rss_mb, after.peak_rss_mb)

    def _record(self) -> Record:
        return Record(
            np.array(self._lag),
            np.array(self._latency),
            np.array(self._status, np.int64),
            np.array(self._degraded, np.bool_),
            np.array(self._waited, np.bool_),
        )


def drive(spec: LoadSpec, plan: Plan) -> LoadResult:
    """Return what `plan`, sent from this process, met; garbage is not collected meanwhile.

    Raises:
        OSError: the server cannot be reached.
        ValueError: the spec's `pid` is no process, or the run was too short.

    >>> from ouzel.evaluation.load_spec import make_plan
    >>> spec = LoadSpec(host="127.0.0.1", port=1, rate=8, users=["u"], event_share=0, miss_share=0)
    >>> drive(spec, make_plan(spec))  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    ConnectionError: cannot reach 127.0.0.1:1 ...: is the server running?
    """
    generator = Generator(spec, plan)
    gc.collect()
    gc.disable()
    try:
        with asyncio.Runner(loop_factory=_loop_factory()) as runner:
            return runner.run(generator.run())
    except OSError as error:
        raise ConnectionError(
            f"cannot reach {spec.host}:{spec.port} ({error}): is the server running?"
        ) from error
    finally:
        gc.enable()


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    if importlib.util.find_spec("uvloop") is None:
        return None
    import uvloop

    return uvloop.new_event_loop
