"""Users whose state is not held: encoded beside the loop, so that nobody else waits for them.

A full encode may take as long as ten answers from held states. Then it is done by another process,
and only who asked for it waits; after that the request goes the way of all others. What is not
ready in time goes that way too, where the state stage of the pipeline does what it can before the
deadline. An encode that is `BRIEF_ENCODE_MS` or less is left to that stage from the start.
"""

from __future__ import annotations

import asyncio
import logging
import time
from dataclasses import dataclass

import numpy as np

from ouzel.events.interactions import History
from ouzel.inference.audit import Audit
from ouzel.inference.encoding import HistoryEncoder
from ouzel.inference.onnxruntime import Graphs
from ouzel.inference.rebuild import Workbench
from ouzel.inference.states import UserStates
from ouzel.serving.child import Arrays, Child, ChildDiedError, can_fork, core_numbers

logger = logging.getLogger(__name__)

MAX_WAITING = 64
"""Most users waiting; more would wait for longer than a deadline."""

BRIEF_ENCODE_MS = 2.0
"""An encode of so many milliseconds is done in the event loop: to hand it to another process and to
take it back costs the loop about half of that, and who asked waits several times as long."""

FEW_EVENTS, MANY_EVENTS = 16, 512
"""How long the histories are that tell whether an encode is brief."""

TRIES = 5

MAX_PREFETCHING = 4
"""No state is prefetched while so many are waited for: who asks comes before who may ask."""


@dataclass(frozen=True)
class Encoder:
    """A process that encodes histories, and where it puts what it makes."""

    child: Child
    bench: Workbench


def fork_encoder(graphs: Graphs) -> Encoder | None:
    """Return a process that encodes histories, None where one would not help: it has no core, or
    an encode is brief.

    Call it before this process has a second thread.

    >>> from unittest.mock import patch
    >>> with patch("ouzel.serving.rebuilds.can_fork", return_value=False):
    ...     fork_encoder(None) is None
    True
    """
    if not can_fork() or encode_ms(graphs) <= BRIEF_ENCODE_MS:
        return None
    bench = Workbench(graphs)
    return Encoder(Child(bench.work, name="encoding", cores=set(core_numbers()[1:])), bench)


def encode_ms(graphs: Graphs) -> float:
    """Return how many milliseconds a long history takes here, the best of a few tries.

    Of what takes long with a few events already, or in two tries, no more is tried.

    >>> from types import SimpleNamespace
    >>> from ouzel.features.states import StateShape
    >>> ring, last = np.zeros((1, 2, 1, 2), np.float32), np.ones((1, 2), np.float32)
    >>> graphs = SimpleNamespace(
    ...     shape=StateShape(1, 1, 2, 2), encode=lambda *_: [ring, ring, last],
    ...     query=lambda **_: last, counts_from_start=True, num_rows=9,
    ... )
    >>> encode_ms(graphs) > 0
    True
    """
    encoder = HistoryEncoder(graphs, batch_size=1)
    longest = min(MANY_EVENTS, graphs.shape.receptive_field)
    best_ms = float("inf")
    for length in (min(FEW_EVENTS, longest), longest):
        history = _made_up(length, graphs.num_rows)
        best_ms = float("inf")
        for tried in range(TRIES):
            begun = time.perf_counter()
            encoder([history], history.times_ms[-1:])
            best_ms = min(best_ms, 1000 * (time.perf_counter() - begun))
            if tried and best_ms > 2 * BRIEF_ENCODE_MS:
                return best_ms
    return best_ms


def _made_up(length: int, num_rows: int) -> History:
    events = np.arange(length)
    rows = 1 + events % max(1, num_rows - 1)
    return History(rows.astype(np.int32), 60_000 * events)


class Rebuilds:
    """Lets `encoder` make and audit states, one after the other; lives in one event loop."""

    def __init__(self, states: UserStates, encoder: Encoder) -> None:
        self._states = states
        self._encoder = encoder
        self._made: dict[int, asyncio.Task[None]] = {}
        self._unasked: set[int] = set()
        # One at a time: there is one bench.
        self._turn = asyncio.Lock()

    async def wait_for(self, user: int, *, seconds: float) -> None:
        """Return once the state of `user` is made, or cannot be, or `seconds` are over."""
        task = self._made.get(user)
        if task is None:
            if len(self._made) >= MAX_WAITING:
                return
            task = self._begin(user)
            self._states.stats.misses += 1
        elif user in self._unasked:
            self._unasked.discard(user)
            self._states.stats.misses += 1
        # Not awaited itself: who gives up must not cancel it for the others.
        await asyncio.wait([task], timeout=seconds)

    def prefetch(self, user: int) -> None:
        """Begin to make the state of `user`, if it is not held and nobody would wait for that."""
        idle = user not in self._made and len(self._made) < MAX_PREFETCHING
        if user >= 0 and idle and not self._states.contains(user):
            self._states.stats.prefetches += 1
            self._unasked.add(user)
            self._begin(user)

    def _begin(self, user: int) -> asyncio.Task[None]:
        task = self._made[user] = asyncio.get_running_loop().create_task(self._make(user))
        task.add_done_callback(lambda _: self._end(user))
        return task

    def _end(self, user: int) -> None:
        del self._made[user]
        self._unasked.discard(user)

    async def error_of(self, audit: Audit) -> float:
        """Return the error that an audit finds, at the price of an encode beside this process."""
        try:
            async with self._turn:
                self._encoder.bench.stored.put(0, audit.stored, 0)
                digest = np.array([audit.digest], np.uint64)
                done = self._encoder.child.call({**_asked(audit.history), "digest": digest})
                if done is not None:
                    return float((await done)["error"][0])
        except ChildDiedError:
            pass
        return await asyncio.to_thread(audit.error)

    async def _make(self, user: int) -> None:
        try:
            async with self._turn:
                history = self._states.begin_rebuild(user)
                if history is None:
                    return
                done = self._encoder.child.call(_asked(history))
                if done is not None:
                    await done
                    self._states.end_rebuild(user, history, self._encoder.bench.made)
        except ChildDiedError:
            return
        except Exception:
            # The state stage tries once more, and has a fallback.
            logger.exception("the state of a user could not be made")


def _asked(history: History) -> Arrays:
    return {"rows": history.rows, "times_ms": history.times_ms}
