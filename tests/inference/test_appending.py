"""Events that are computed beside: what happens to a state meanwhile decides, never both."""

from __future__ import annotations

import numpy as np
import pytest

from ouzel.inference import appending
from tests.inference.test_exactness import BOUND, HOUR, append, states_of, vector
from tests.tiny import oracle, random_history, tiny_model

LATE = 9


def asked(states, histories, now_ms):
    vector(states, 0, now_ms)


def noted_once_more(states, histories, now_ms):
    append(histories, 0, LATE, now_ms)
    states.observe(0, LATE, now_ms)


def came_late(states, histories, now_ms):
    append(histories, 0, LATE, int(histories[0].times_ms[0]))
    states.observe(0, LATE, int(histories[0].times_ms[0]))


def forgotten(states, histories, now_ms):
    states.forget(0)


def forgotten_and_made_anew(states, histories, now_ms):
    states.forget(0)
    vector(states, 0, now_ms)


def forgotten_and_noted_again(states, histories, now_ms):
    states.forget(0)
    vector(states, 0, now_ms)
    noted_once_more(states, histories, now_ms)


def gave_way(states, histories, now_ms):
    for user in (2, 3, 4, 5):
        vector(states, user, now_ms)
    assert not states.contains(0)


def gave_way_and_came_back(states, histories, now_ms):
    gave_way(states, histories, now_ms)
    noted_once_more(states, histories, now_ms)
    vector(states, 0, now_ms)


@pytest.mark.parametrize(
    "meanwhile",
    [
        asked,
        noted_once_more,
        came_late,
        forgotten,
        forgotten_and_made_anew,
        forgotten_and_noted_again,
        gave_way,
        gave_way_and_came_back,
    ],
)
def test_a_state_is_exact_whatever_happens_while_an_event_is_computed(meanwhile) -> None:
    histories = {user: random_history(np.random.default_rng(user), 12) for user in range(6)}
    states, model = states_of(histories), tiny_model()
    now_ms = 2 * HOUR + max(int(history.times_ms[-1]) for history in histories.values())
    for user in (0, 1):
        vector(states, user, now_ms)
        for hours in (1, 0):
            append(histories, user, 4 + user, now_ms - hours * HOUR)
            states.observe(user, 4 + user, now_ms - hours * HOUR)
    while (begun := states.begin_append(2)) is not None:
        fresh = begun.run()
        meanwhile(states, histories, now_ms)
        left = states.end_append(begun, fresh)
        assert left == states.behind
        meanwhile = lambda *_: None  # noqa: E731
    for user in (0, 1):
        expected = oracle(model, histories[user], now_ms + HOUR)
        assert np.abs(vector(states, user, now_ms + HOUR) - expected).max() < BOUND


def test_nothing_is_begun_where_nothing_is_noted() -> None:
    assert states_of({}).begin_append(5) is None


def test_more_users_than_fit_in_a_cache_are_computed_in_parts(monkeypatch) -> None:
    monkeypatch.setattr(appending, "USERS_A_CALL", 2)
    histories = {user: random_history(np.random.default_rng(user), 5) for user in range(3)}
    states, model = states_of(histories), tiny_model()
    now_ms = 2 * HOUR + max(int(history.times_ms[-1]) for history in histories.values())
    for user in histories:
        vector(states, user, now_ms)
        append(histories, user, 4, now_ms)
        states.observe(user, 4, now_ms)
    begun = states.begin_append(3)
    assert begun is not None and states.end_append(begun, begun.run()) == 0
    assert states.stats.appends == 3
    for user, history in histories.items():
        expected = oracle(model, history, now_ms + HOUR)
        assert np.abs(vector(states, user, now_ms + HOUR) - expected).max() < BOUND
