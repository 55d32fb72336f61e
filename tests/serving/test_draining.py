"""Noted events into states, in quiet moments: in the loop, or beside it where many wait."""

from __future__ import annotations

import asyncio
import threading

import numpy as np
import pytest

from ouzel.inference.appending import Appending
from ouzel.inference.states import UserStates
from ouzel.serving import draining
from ouzel.serving.child import core_numbers
from ouzel.serving.draining import FEW_USERS, MANY_BEHIND, MANY_USERS, Draining
from tests.inference.test_exactness import BOUND, HOUR, append, states_of, vector
from tests.tiny import oracle, random_history, tiny_model

CORES = frozenset(core_numbers()[:1])


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


def drained(states, cores=frozenset()):
    async def until_done():
        drains = Draining(states, cores)
        drains.soon()
        while drains.active:
            await asyncio.sleep(0.001)
        drains.close()

    asyncio.run(asyncio.wait_for(until_done(), 30))
    return states


def test_all_states_become_current_in_larger_steps_while_many_wait():
    states = drained(Behind(MANY_BEHIND + 2 * MANY_USERS))
    assert states.behind == 0
    assert states.steps[:3] == [MANY_USERS, MANY_USERS, FEW_USERS]


def test_a_step_that_fails_is_not_the_last(caplog):
    assert drained(Behind(40, failures=1)).behind == 0
    assert "could not be brought up to date" in caplog.text


@pytest.fixture
def noted(monkeypatch: pytest.MonkeyPatch) -> tuple[dict, UserStates, int]:
    """Histories of four users, their states with two noted events each, and the time now."""
    monkeypatch.setattr(draining, "MANY_BEHIND", 0)
    histories = {user: random_history(np.random.default_rng(user), 6) for user in range(4)}
    states = states_of(histories)
    now_ms = 2 * HOUR + max(int(history.times_ms[-1]) for history in histories.values())
    for user in histories:
        vector(states, user, now_ms)
        for hours in (1, 0):
            append(histories, user, 4 + user, now_ms - hours * HOUR)
            states.observe(user, 4 + user, now_ms - hours * HOUR)
    return histories, states, now_ms


def test_another_thread_brings_states_up_to_date(noted, monkeypatch) -> None:
    histories, states, now_ms = noted
    threads, run = set(), Appending.run

    def watched(appending):
        threads.add(threading.current_thread().name)
        return run(appending)

    monkeypatch.setattr(Appending, "run", watched)
    assert drained(states, CORES).behind == 0
    assert len(threads) == 1 and "ouzel-append" in threads.pop()
    assert states.stats.appends == 8
    for user in histories:
        expected = oracle(tiny_model(), histories[user], now_ms + HOUR)
        assert np.abs(vector(states, user, now_ms + HOUR) - expected).max() < BOUND
    assert states.stats.appends == 8 and states.stats.rebuilds == 4


def test_states_whose_events_fail_beside_are_made_anew(noted, monkeypatch, caplog) -> None:
    histories, states, now_ms = noted

    def failing(appending):
        raise RuntimeError("planted")

    monkeypatch.setattr(Appending, "run", failing)
    assert drained(states, CORES).behind == 0
    assert "made anew" in caplog.text and not any(states.contains(user) for user in histories)
    monkeypatch.undo()
    expected = oracle(tiny_model(), histories[2], now_ms)
    assert np.abs(vector(states, 2, now_ms) - expected).max() < BOUND
