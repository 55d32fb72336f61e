"""Histories and states always agree with the log, whatever order loads and commits come in."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from ouzel.events.interactions import History
from ouzel.events.log_append import Receipt
from ouzel.events.types import Interaction
from ouzel.serving.visitors import ENTRY_BYTES, EVENT_BYTES, Visitors


@dataclass
class MemoryLog:
    """Committed (row, time) pairs per user row, and how often they were read."""

    events: dict[int, list[tuple[int, int]]] = field(default_factory=dict)
    reads: int = 0

    def user_row(self, user_id=None, session_id=None):
        number = int((user_id or session_id).removeprefix("u"))
        return number if number in self.events else None

    def history(self, user):
        self.reads += 1
        pairs = sorted(self.events.get(user, []), key=lambda pair: pair[1])
        rows, times = zip(*pairs, strict=True) if pairs else ((), ())
        return History(np.array(rows, np.int32), np.array(times, np.int64))


@dataclass
class Tickets:
    submitted: int = 0
    settled: int = 0


class MemoryStates:
    """A pool without a model: the rows it holds for a user are the state."""

    def __init__(self):
        self.held: dict[int, list[int]] = {}
        self.newest: dict[int, int] = {}

    def observe(self, user, row, time_ms):
        if user not in self.held:
            return
        if time_ms < self.newest[user]:
            self.forget(user)
        else:
            self.held[user].append(row)
            self.newest[user] = time_ms

    def forget(self, user):
        self.held.pop(user, None)

    def state(self, user, visitors):
        if user not in self.held:
            history = visitors.history(user)
            self.held[user] = history.rows.tolist()
            self.newest[user] = int(history.times_ms[-1]) if len(history) else 0
        return self.held[user]


def click(user, row, time_ms):
    return Interaction(
        event_id=f"{user}-{time_ms}",
        timestamp_ms=time_ms,
        item_id=f"i{row}",
        event="click",
        user_id=f"u{user}",
    )


actions = st.lists(
    st.one_of(
        st.tuples(st.just("submit"), st.integers(0, 2), st.integers(1, 9), st.integers(0, 30)),
        st.tuples(st.sampled_from(["commit", "settle"])),
        st.tuples(st.sampled_from(["find", "state"]), st.integers(0, 2)),
    ),
    max_size=40,
)


@settings(max_examples=300, deadline=None)
@given(actions=actions, max_bytes=st.sampled_from([1, 1 << 20]))
def test_what_is_settled_is_seen_exactly_once(actions, max_bytes):
    log, tickets, states = MemoryLog({0: [(1, 1)]}), Tickets(), MemoryStates()
    visitors = Visitors(log, tickets, num_rows=8, max_bytes=max_bytes)
    waiting, committed = [], []

    def settle():
        ticket, event = committed.pop(0)
        user, row = int(event.user_id[1:]), int(event.item_id[1:])
        visitors.apply(states, [event], [Receipt("accepted", ticket, user, row)], ticket)
        tickets.settled = ticket

    def commit():
        ticket, event = waiting.pop(0)
        pair = (int(event.item_id[1:]), event.timestamp_ms)
        log.events.setdefault(int(event.user_id[1:]), []).append(pair)
        committed.append((ticket, event))

    for name, *details in actions:
        if name == "submit":
            tickets.submitted += 1
            waiting.append((tickets.submitted, click(*details)))
        elif name == "commit" and waiting:
            commit()
        elif name == "settle" and committed:
            settle()
        elif name == "find":
            found = visitors.find(f"u{details[0]}", None)
            assert found is None or found.seen.tolist() == sorted(set(found.history.rows.tolist()))
        elif name == "state":
            states.state(details[0], visitors)
    while waiting:
        commit()
    while committed:
        settle()
    for user in (0, 1, 2):
        expected = log.history(user).rows.tolist()
        visitor = visitors.find(f"u{user}", None)
        assert (visitor.history.rows.tolist() if visitor else []) == expected
        if visitor:
            assert visitor.known.rows.tolist() == [row for row in expected if row < 8]
            assert visitor.seen.tolist() == sorted(set(expected))
        assert states.state(user, visitors) == expected
    assert not visitors._loaded_at
    assert visitors.bytes == sum(
        ENTRY_BYTES + EVENT_BYTES * v.num_events for v in _entries(visitors)
    )


def _entries(visitors):
    return visitors._entries.values()


def test_who_holds_a_visitor_sees_what_comes_later():
    log, tickets, states = MemoryLog({0: [(1, 1)]}), Tickets(), MemoryStates()
    visitors = Visitors(log, tickets, num_rows=8)
    visitor = visitors.find("u0", None)
    for ticket, (row, time_ms) in enumerate([(9, 1), (5, 3), (5, 4)], start=1):
        receipt = Receipt("accepted", ticket, 0, row)
        visitors.apply(states, [click(0, row, time_ms)], [receipt], ticket)
    assert visitor.last_ms == 4 and visitor.num_events == 4
    assert visitor.seen.tolist() == [1, 5, 9]
    assert visitor.known.rows.tolist() == [1, 5, 5]
    assert visitor.history.times_ms.tolist() == [1, 1, 3, 4]
    assert log.reads == 1


def test_lately_seen_users_need_no_read():
    log = MemoryLog({0: [(1, 1)], 1: [(2, 2)]})
    visitors = Visitors(log, Tickets(), num_rows=8)
    for _ in range(5):
        visitors.find("u0", None)
        visitors.find(None, "u1")
    assert log.reads == 2
    assert visitors.find("u7", None) is None


def test_who_has_just_logged_in_keeps_the_history_of_the_session():
    log = MemoryLog({1: [(4, 4), (5, 5)]})
    visitors = Visitors(log, Tickets(), num_rows=8)
    assert visitors.find("u7", "u1").history.rows.tolist() == [4, 5]
    log.events[7] = []  # a list was shown to the user, and nothing was done yet
    assert visitors.find("u7", "u1").history.rows.tolist() == [4, 5]
    assert visitors.find("u7", "u6").user == 7
    visitors.drop(7)
    log.events[7] = [(3, 6)]
    assert visitors.find("u7", "u1").history.rows.tolist() == [3]
    assert visitors.find("u6", "u5") is None


def test_histories_are_bounded_in_bytes():
    log = MemoryLog({user: [(1, n) for n in range(100)] for user in range(50)})
    limit = 10 * (ENTRY_BYTES + 100 * EVENT_BYTES)
    visitors = Visitors(log, Tickets(), num_rows=8, max_bytes=limit)
    for user in range(50):
        visitors.find(f"u{user}", None)
        assert visitors.bytes <= limit
    assert len(visitors) == 10
    assert len(visitors._rows) * ENTRY_BYTES <= limit


def test_what_does_not_count_changes_nothing():
    log, states = MemoryLog({0: [(1, 1)]}), MemoryStates()
    visitors = Visitors(log, Tickets(), num_rows=8)
    visitors.find("u0", None)
    event = click(0, 3, 9)
    for receipt in (
        Receipt("duplicate", 1, 0, 3),
        Receipt("conflict", 1, 0, 3),
        Receipt("accepted", 1, 0, 0),
        Receipt("accepted", 1, -1, 3),
    ):
        visitors.apply(states, [event], [receipt], 1)
    assert len(visitors.find("u0", None).history) == 1
