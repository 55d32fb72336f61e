"""Noted events into states, in quiet moments: who asks sooner does not wait for it.

A few are appended in the event loop, a millisecond's work at a time. Where events come in batches,
and a core is to spare, another thread computes them, and the loop only puts the results in place.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Set as AbstractSet
from concurrent.futures import ThreadPoolExecutor

from ouzel.inference.no_states import NoStates
from ouzel.inference.states import UserStates
from ouzel.serving.child import stay_on

logger = logging.getLogger(__name__)

PAUSE_SECONDS = 0.002
"""How long an event may gather company before it is appended to its user's state unasked."""

FEW_USERS = 16
"""Most states that are brought up to date at once: less than a millisecond's work."""

MANY_USERS = 32
"""As many at once, without a pause, while over `MANY_BEHIND` wait and no core is to spare."""

MANY_BEHIND = 256
"""States that lack an event while events come in batches, and hardly ever otherwise."""

USERS_BESIDE = 512
"""States that are brought up to date in one go beside the loop."""


class Draining:
    """Keeps `states` current; lives in one event loop, and may use `cores` beside it."""

    def __init__(self, states: UserStates | NoStates, cores: AbstractSet[int]) -> None:
        self._states = states
        self._timer: asyncio.TimerHandle | None = None
        self._task: asyncio.Task[None] | None = None
        self._thread = None
        if cores and isinstance(states, UserStates):
            self._thread = ThreadPoolExecutor(
                1, thread_name_prefix="ouzel-append", initializer=stay_on, initargs=(cores,)
            )

    @property
    def active(self) -> bool:
        """Return whether there may be something left to do."""
        return self._timer is not None or self._task is not None

    def soon(self, seconds: float = PAUSE_SECONDS) -> None:
        """See to it that what was noted is appended in a while."""
        if not self.active:
            self._timer = asyncio.get_running_loop().call_later(seconds, self._drain)

    def close(self) -> None:
        """Leave the rest: it is in the log."""
        for waiting in (self._timer, self._task):
            if waiting is not None:
                waiting.cancel()
        if self._thread is not None:
            self._thread.shutdown()

    def _drain(self) -> None:
        self._timer = None
        many = self._states.behind > MANY_BEHIND
        if many and self._thread is not None and isinstance(self._states, UserStates):
            self._task = asyncio.get_running_loop().create_task(
                self._drain_beside(self._states, self._thread)
            )
            return
        try:
            left = self._states.drain(MANY_USERS if many else FEW_USERS)
        except Exception:
            logger.exception("states could not be brought up to date: they are made anew")
            left = 1
        if left:
            self.soon(0.0 if left > MANY_BEHIND else PAUSE_SECONDS)

    async def _drain_beside(self, states: UserStates, thread: ThreadPoolExecutor) -> None:
        loop = asyncio.get_running_loop()
        while (begun := states.begin_append(USERS_BESIDE)) is not None:
            left = 0
            try:
                left = states.end_append(begun, await loop.run_in_executor(thread, begun.run))
            except Exception:
                logger.exception("states could not be brought up to date: they are made anew")
                for user in begun.users:
                    states.forget(user)
            if left <= MANY_BEHIND:
                await asyncio.sleep(PAUSE_SECONDS)
        self._task = None
