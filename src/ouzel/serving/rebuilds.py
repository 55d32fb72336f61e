"""Users whose state is not held: encoded beside the loop, so that nobody else waits for them.

A full encode takes as long as ten answers from held states. Here it runs in a thread of its own
(ONNX Runtime lets go of the interpreter), and only who asked for it waits; then the request goes
the way of all others. What is not ready in time goes that way too, where the state stage of the
pipeline does what it can before the deadline.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from concurrent.futures import ThreadPoolExecutor

from ouzel.inference.states import UserStates

logger = logging.getLogger(__name__)

MAX_WAITING = 64
"""Most users waiting; more would wait for longer than a deadline."""

USERS_A_TURN = 2
"""Users encoded before the loop hears of it again."""


class Rebuilds:
    """Makes states one turn after the other; lives in one event loop."""

    def __init__(self, states: UserStates) -> None:
        self._states = states
        self._queue: deque[int] = deque()
        self._done: dict[int, asyncio.Future[None]] = {}
        self._busy = False
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="ouzel-encoder")

    async def wait_for(self, user: int, *, seconds: float) -> None:
        """Return once the state of `user` is made, or cannot be, or `seconds` are over."""
        if user not in self._done:
            if len(self._done) >= MAX_WAITING:
                return
            self._done[user] = asyncio.get_running_loop().create_future()
            self._queue.append(user)
            if not self._busy:
                self._turn()
        # Not awaited itself: who gives up must not cancel it for the others.
        await asyncio.wait([self._done[user]], timeout=seconds)

    def close(self) -> None:
        """Begin nothing more."""
        self._thread.shutdown(wait=False, cancel_futures=True)

    def _turn(self) -> None:
        self._busy = True
        users = [self._queue.popleft() for _ in range(min(USERS_A_TURN, len(self._queue)))]
        task = asyncio.get_running_loop().create_task(self._make(users))
        task.add_done_callback(lambda _: self._ended(users))

    async def _make(self, users: list[int]) -> None:
        try:
            rebuild = self._states.begin_rebuild(users)
            await asyncio.get_running_loop().run_in_executor(self._thread, rebuild.encode)
            self._states.end_rebuild(rebuild)
        except Exception:
            # The state stage tries once more, and has a fallback.
            logger.exception("the states of %d users could not be made", len(users))

    def _ended(self, users: list[int]) -> None:
        self._busy = False
        for user in users:
            self._done.pop(user).set_result(None)
        if self._queue:
            self._turn()
