"""What another process reads of user states is what their owner would answer, or nothing."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ouzel.events.interactions import History
from ouzel.inference import shared
from ouzel.inference.pool import StatePool, slot_bytes
from ouzel.inference.shared import Directory
from ouzel.inference.states import UserStates
from tests.inference.test_exactness import append
from tests.tiny import NUM_ROWS, START_MS, WINDOW, random_history, tiny_graphs

USERS = 5
SLOTS = 3
HOUR = 3_600_000


class Owner:
    """User states with a directory, and the log that they come from."""

    def __init__(self) -> None:
        rng = np.random.default_rng(5)
        self.histories = {user: random_history(rng, 3 + user) for user in range(USERS)}
        self.states = UserStates(
            tiny_graphs(),
            max_bytes=SLOTS * slot_bytes(tiny_graphs().shape),
            load_history=self.histories.__getitem__,
            version="test",
            directory=Directory(num_users=USERS),
        )
        self.reader = self.states.shared()

    def happens(self, user: int, row: int, late: bool) -> None:
        newest = int(self.histories[user].times_ms[-1])
        time_ms = newest - HOUR if late else newest + HOUR
        append(self.histories, user, row, time_ms)
        self.states.observe(user, row, time_ms)

    def now_ms(self) -> int:
        return max(int(history.times_ms[-1]) for history in self.histories.values()) + HOUR

    def check(self, user: int) -> bool:
        """Return whether the reader had an answer; what it had was right."""
        now_ms = self.now_ms()
        contains = self.reader.contains(user)
        vectors, known = self.reader.query([user], now_ms)
        assert (user in self.reader.lost) == (not known[0]) == (not contains)
        self.reader.lost.clear()
        if known[0]:
            expected = self.reader.query_session(self.histories[user], now_ms)
            np.testing.assert_allclose(vectors[0], expected, atol=1e-4)
        return known[0]


users = st.integers(0, USERS - 1)
steps = st.one_of(
    st.tuples(st.just("event"), users, st.integers(1, NUM_ROWS + 2), st.booleans()),
    st.tuples(st.just("ask"), users),
    st.tuples(st.just("forget"), users),
    st.tuples(st.just("drain"), st.integers(1, 3)),
    st.tuples(st.just("rebuild"), users, st.booleans()),
)


@settings(deadline=None, max_examples=60)
@given(course=st.lists(steps, max_size=40))
def test_a_reader_has_the_answer_of_now_or_none(course):
    owner = Owner()
    for kind, *details in course:
        if kind == "event":
            owner.happens(*details)
        elif kind == "ask":
            owner.states.query([details[0]], owner.now_ms())
        elif kind == "forget":
            owner.states.forget(details[0])
        elif kind == "drain":
            owner.states.drain(details[0])
        else:
            _rebuilt(owner, *details)
        for user in range(USERS):
            owner.check(user)


def _rebuilt(owner: Owner, user: int, meanwhile: bool) -> None:
    before = owner.states.begin_rebuild(user)
    if before is None:
        return
    made = StatePool(tiny_graphs().shape, max_bytes=slot_bytes(tiny_graphs().shape))
    encoder = shared.HistoryEncoder(tiny_graphs(), batch_size=1)
    encoder([before], np.array([owner.now_ms()]))
    made.put(0, encoder.scratch, 0)
    if meanwhile:
        owner.happens(user, 3, late=False)
    owner.states.end_rebuild(user, before, made)


def test_a_state_is_read_once_it_is_current_again():
    owner = Owner()
    owner.states.query([1], owner.now_ms())
    assert owner.check(1)
    owner.happens(1, 4, late=False)
    assert not owner.check(1)
    assert owner.states.drain(8) == 0
    assert owner.check(1)


def test_events_on_items_that_the_model_does_not_know_leave_the_state_current():
    owner = Owner()
    owner.states.query([1], owner.now_ms())
    changes = owner.states.directory.changes(1)
    owner.happens(1, NUM_ROWS + 5, late=False)
    assert owner.check(1)
    assert owner.states.directory.changes(1) == changes + 1  # its history is longer all the same
    owner.happens(1, 4, late=False)
    owner.happens(1, NUM_ROWS + 5, late=False)
    assert not owner.check(1)  # what came before that is still to be appended


@pytest.mark.parametrize("moved", ["written", "being written", "withdrawn"])
def test_what_moves_while_it_is_read_is_no_answer(monkeypatch, moved):
    owner = Owner()
    owner.states.query([1, 2], owner.now_ms())
    slot, ask = owner.states.pool.slot(1), shared.ask

    def disturbed(graphs, pool, slots, now_B):
        if moved == "withdrawn":
            owner.states.directory.withdraw(1)
        else:
            pool.epoch_S[slot] += 2 if moved == "written" else 1
        return ask(graphs, pool, slots, now_B)

    monkeypatch.setattr(shared, "ask", disturbed)
    _, known = owner.reader.query([1, 2], owner.now_ms())
    assert known == [False, True]
    assert owner.reader.lost == {1}


def test_whom_a_reader_asks_about_is_not_the_next_to_give_way():
    owner = Owner()
    for user in range(SLOTS):
        owner.states.query([user], owner.now_ms())
    owner.reader.query([0], owner.now_ms())
    owner.states.query([SLOTS], owner.now_ms())
    assert owner.states.contains(0) and not owner.states.contains(1)
    # The second chance is one: who is not asked about again gives way in turn.
    for user in (4, 1, 2):
        owner.states.query([user], owner.now_ms())
    assert not owner.states.contains(0)


def test_who_is_asked_for_together_with_an_absent_user_does_not_give_way_to_him():
    owner = Owner()
    for user in range(SLOTS):
        owner.states.query([user], owner.now_ms())
    owner.reader.query([0, 1], owner.now_ms())  # user 2 alone has no second chance
    _, known = owner.states.query([2, 3], owner.now_ms())
    assert known == [True, True]


def test_users_beyond_the_directory_are_not_in_it():
    directory = Directory(num_users=2)
    for act in (directory.change, directory.withdraw, lambda user: directory.publish(user, 1)):
        act(2)
    assert (directory.slot(2), directory.changes(2)) == (None, None)


def test_states_of_one_process_cannot_be_shared():
    graphs = tiny_graphs()
    states = UserStates(
        graphs,
        max_bytes=slot_bytes(graphs.shape),
        load_history={}.__getitem__,
        version="test",
    )
    with pytest.raises(ValueError, match="not shared"):
        states.shared()


def test_the_epoch_of_a_slot_is_odd_while_it_is_written_and_grows():
    owner = Owner()
    owner.states.query([1], owner.now_ms())
    epochs = [int(owner.states.pool.epoch_S[owner.states.pool.slot(1)])]
    for _ in range(WINDOW + 1):
        owner.happens(1, 2, late=False)
        owner.states.drain(1)
        epochs.append(int(owner.states.pool.epoch_S[owner.states.pool.slot(1)]))
    assert all(epoch % 2 == 0 for epoch in epochs)
    assert epochs == sorted(set(epochs))


def test_a_long_history_is_read_like_a_short_one():
    owner = Owner()
    long = random_history(np.random.default_rng(1), 50)
    owner.histories[0] = History(long.rows, long.times_ms + START_MS)
    owner.states.query([0], owner.now_ms())
    assert owner.check(0)
