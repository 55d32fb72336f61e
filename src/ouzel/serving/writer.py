"""The one writer of the event log: durable before acknowledged, many events in one commit.

A thread owns all writing. It takes what waits in its queue, appends it in one transaction
(group commit; at once when idle) and only then answers. It keeps off the core of the event loop,
which would otherwise wait for its turn there. Impressions ride along: nobody waits for
them, so they gather for a moment and share a commit. Waking the thread for each of them would
cost more than answering does.
"""

from __future__ import annotations

import asyncio
import logging
import queue
import threading
import time
from collections.abc import Callable, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import Protocol

from ouzel.events.types import Event
from ouzel.serving.child import stay_on

logger = logging.getLogger(__name__)

MAX_COMMIT_EVENTS = 10_000
"""Most events in one transaction."""

MAX_WAITING_EVENTS = 100_000
"""Events that may wait for the disk; more are refused, so that memory stays bounded."""

LINGER_SECONDS = 0.05
"""How long impressions may gather before they are committed without other events."""


class Written(Protocol):
    """What the log says of one appended event (see `ouzel.events.log.Receipt`)."""

    @property
    def status(self) -> str:
        """Return accepted, duplicate or conflict."""
        ...

    @property
    def offset(self) -> int:
        """Return the event's place in the log."""
        ...

    @property
    def user(self) -> int:
        """Return the user row, -1 if none."""
        ...

    @property
    def row(self) -> int:
        """Return the item row, 0 if unknown."""
        ...

    @property
    def released(self) -> Sequence[int]:
        """Return the users whose waiting events an item brought into their histories."""
        ...


class AppendLog(Protocol):
    """What the writer asks of the event log."""

    def append(self, events: Sequence[Event]) -> Sequence[Written]:
        """Return a receipt per event; durable on return."""
        ...

    def append_shown(self, text: bytes, count: int) -> None:
        """Store so many lists that were shown; durable on return."""
        ...


Applied = Callable[[Sequence[Event], Sequence[Written], int], None]
"""Lets durable events take effect: events, their receipts, and the ticket of their job."""


class NotDurableError(Exception):
    """The events are not in the log and never acknowledged; `str()` says why."""


@dataclass(slots=True)
class _Job:
    """Events that go into the log together; without a future nobody waits for them."""

    events: Sequence[Event]
    future: asyncio.Future[Sequence[Written]] | None
    ticket: int


@dataclass(slots=True)
class _Shown:
    """Lists that were shown, `count` of them, in one text."""

    text: bytes
    count: int


@dataclass(slots=True)
class Commits:
    """What the writer did so far; read by the metrics."""

    commits: int = 0
    events: int = 0
    seconds: float = 0.0
    failures: int = 0
    dropped: int = 0


class LogWriter:
    """Appends events durably from one thread; lives in one event loop.

    What `start` is given is called in the loop with the events, receipts and ticket of each job
    before its acknowledgement, so that whoever reads an acknowledgement finds its events in
    effect; where it raises, they are durable and acknowledged all the same. Tickets count jobs:
    one with a ticket up to `settled` is done with, one up to `submitted` may already be in the log
    although nobody has heard of it.
    """

    def __init__(self, log: AppendLog) -> None:
        self._log = log
        self._applied: Applied = _nothing
        self._cores: AbstractSet[int] = frozenset()
        self._queue: queue.SimpleQueue[_Job | _Shown | None] = queue.SimpleQueue()
        self.waiting = 0
        self.submitted = 0
        self.settled = 0
        self._accepting = False
        self._gathered: list[Event] = []
        self._flushing: asyncio.TimerHandle | None = None
        self._thread: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self.failure: str | None = "the writer is not running"
        self.stats = Commits()

    def start(self, applied: Applied, cores: AbstractSet[int] = frozenset()) -> None:
        """Start the thread, on `cores` if some are given; call inside the event loop."""
        self._applied = applied
        self._cores = cores
        self._loop = asyncio.get_running_loop()
        self._thread = threading.Thread(target=self._run, name="ouzel-log-writer", daemon=True)
        self.failure = None
        self._accepting = True
        self._thread.start()

    async def close(self) -> None:
        """Write what waits, then stop the thread."""
        if self._thread is None:
            return
        self._flush()
        self._accepting = False
        self.failure = "the server is stopping"
        self._queue.put(None)
        await asyncio.to_thread(self._thread.join)
        self._thread = None

    async def append(self, events: Sequence[Event]) -> Sequence[Written]:
        """Return the receipts of `events`, which are now durable and in effect.

        Raises:
            NotDurableError: the disk refused, or too many events wait for it.
        """
        if not self._accepting:
            raise NotDurableError(self.failure or "the server is stopping")
        if self.waiting + len(events) > MAX_WAITING_EVENTS:
            raise NotDurableError(f"{self.waiting} events wait for the disk: try again later")
        future = asyncio.get_running_loop().create_future()
        # What was shown before goes into the log before what was done with it.
        self._flush()
        self._put(events, future)
        receipts: Sequence[Written] = await future
        return receipts

    def append_later(self, event: Event) -> None:
        """Write `event` soon without waiting; dropped and counted when the log cannot keep up."""
        if self._loop is None or not self._accepting or self.waiting >= MAX_WAITING_EVENTS:
            self.stats.dropped += 1
            return
        self.waiting += 1
        self._gathered.append(event)
        if self._flushing is None:
            self._flushing = self._loop.call_later(LINGER_SECONDS, self._flush)

    def append_shown(self, text: bytes, count: int) -> None:
        """Write lists that were shown soon, as `append_later`; `text` is as the log wants it."""
        if self._loop is None or not self._accepting or self.waiting >= MAX_WAITING_EVENTS:
            self.stats.dropped += count
            return
        self.waiting += count
        self._queue.put(_Shown(text, count))

    def _flush(self) -> None:
        """Hand the gathered impressions to the thread."""
        if self._flushing is not None:
            self._flushing.cancel()
            self._flushing = None
        gathered, self._gathered = self._gathered, []
        if gathered:
            self.waiting -= len(gathered)
            self._put(gathered, None)

    def _put(
        self, events: Sequence[Event], future: asyncio.Future[Sequence[Written]] | None
    ) -> None:
        self.waiting += len(events)
        self.submitted += 1
        self._queue.put(_Job(events, future, self.submitted))

    def _run(self) -> None:
        """Body of the thread: gather, commit, report, until told to stop."""
        stay_on(self._cores)
        stopping = False
        while not stopping:
            jobs, shown, stopping = self._gather()
            if jobs:
                self._commit(jobs)
            # Afterwards, since nobody waits for them.
            for lists in shown:
                self._commit_shown(lists)

    def _gather(self) -> tuple[list[_Job], list[_Shown], bool]:
        """Return what the next commits are of, and whether the writer is to stop after them."""
        jobs: list[_Job] = []
        shown: list[_Shown] = []
        count = 0
        job = self._queue.get()
        while job is not None:
            if isinstance(job, _Shown):
                shown.append(job)
                count += job.count
            else:
                jobs.append(job)
                count += len(job.events)
            if count >= MAX_COMMIT_EVENTS:
                return jobs, shown, False
            try:
                job = self._queue.get_nowait()
            except queue.Empty:
                return jobs, shown, False
        return jobs, shown, True

    def _commit_shown(self, shown: _Shown) -> None:
        begun = time.monotonic()
        try:
            self._log.append_shown(shown.text, shown.count)
        except Exception as error:
            logger.error("%d lists could not be written", shown.count, exc_info=error)
            self._report(self._shown_settled, shown, f"the event log cannot be written: {error}")
            return
        self.stats.commits += 1
        self.stats.events += shown.count
        self.stats.seconds += time.monotonic() - begun
        self._report(self._shown_settled, shown, None)

    def _shown_settled(self, shown: _Shown, failure: str | None) -> None:
        self.waiting -= shown.count
        if self._accepting:
            self.failure = failure
        if failure is not None:
            self.stats.failures += 1
            self.stats.dropped += shown.count

    def _commit(self, jobs: list[_Job]) -> None:
        events = [event for job in jobs for event in job.events]
        begun = time.monotonic()
        try:
            receipts = self._log.append(events)
        except Exception as error:
            self._not_written(jobs, error)
            return
        self.stats.commits += 1
        self.stats.events += len(events)
        self.stats.seconds += time.monotonic() - begun
        self._report(self._succeeded, jobs, receipts)

    def _not_written(self, jobs: list[_Job], error: Exception) -> None:
        of_the_event = isinstance(error, ValueError | TypeError | ArithmeticError)
        if of_the_event and len(jobs) > 1:
            # Not the disk but an event is at fault: its company must not suffer.
            for job in jobs:
                self._commit([job])
            return
        logger.error("%d jobs could not be written", len(jobs), exc_info=error)
        if of_the_event:
            self._report(self._refused, jobs, f"the event log refuses an event: {error}")
        else:
            self._report(self._failed, jobs, f"the event log cannot be written: {error}")

    def _report(self, outcome: Callable[..., None], *details: object) -> None:
        if self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(outcome, *details)

    def _succeeded(self, jobs: list[_Job], receipts: Sequence[Written]) -> None:
        if self._accepting:
            self.failure = None
        start = 0
        for job in jobs:
            mine = receipts[start : start + len(job.events)]
            start += len(job.events)
            try:
                self._applied(job.events, mine, job.ticket)
            except Exception:
                # Durable is durable: this is no reason to leave anybody without an answer.
                logger.exception("%d durable events could not take effect", len(job.events))
            self._settle(job)
            if job.future is not None and not job.future.done():
                job.future.set_result(mine)

    def _failed(self, jobs: list[_Job], reason: str) -> None:
        self.failure = reason
        self._refused(jobs, reason)

    def _refused(self, jobs: list[_Job], reason: str) -> None:
        self.stats.failures += 1
        for job in jobs:
            self._settle(job)
            if job.future is None:
                self.stats.dropped += len(job.events)
            elif not job.future.done():
                job.future.set_exception(NotDurableError(reason))

    def _settle(self, job: _Job) -> None:
        self.waiting -= len(job.events)
        self.settled = job.ticket


def _nothing(events: Sequence[Event], receipts: Sequence[Written], ticket: int) -> None:
    """Take no notice of durable events: what a writer does before it is started."""
