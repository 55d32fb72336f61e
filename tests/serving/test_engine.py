"""What goes on beside the answers: states brought up to date in quiet moments."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace

from ouzel.serving.engine import DRAIN_MANY, DRAIN_USERS, MANY_BEHIND, Engine


class Behind:
    """States of which `behind` lack an event, and how many were asked for at a time."""

    def __init__(self, behind: int, *, failures: int = 0):
        self.behind = behind
        self.failures = failures
        self.steps: list[int] = []

    def drain(self, most):
        self.steps.append(most)
        if self.failures:
            self.failures -= 1
            raise RuntimeError("planted")
        self.behind = max(0, self.behind - most)
        return self.behind


def drained(states):
    engine = SimpleNamespace(_states=states, _draining=None)
    engine._drain = lambda: Engine._drain(engine)

    async def until_done():
        engine._drain()
        while engine._draining is not None:
            await asyncio.sleep(0.001)

    asyncio.run(asyncio.wait_for(until_done(), 30))
    return states


def test_all_states_become_current_in_larger_steps_while_many_wait():
    states = drained(Behind(MANY_BEHIND + 2 * DRAIN_MANY))
    assert states.behind == 0
    assert states.steps[:3] == [DRAIN_MANY, DRAIN_MANY, DRAIN_USERS]


def test_a_step_that_fails_is_not_the_last(caplog):
    assert drained(Behind(40, failures=1)).behind == 0
    assert "could not be brought up to date" in caplog.text
