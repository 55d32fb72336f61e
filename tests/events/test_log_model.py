"""The log against a model of dicts: any sequence of appends, repeats, imports and reopenings."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any
from unittest.mock import patch

import msgspec
import numpy as np
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from ouzel.events.columns import EventColumns
from ouzel.events.log import EventLog
from ouzel.events.types import Event, Interaction, ItemUpdate
from ouzel.events.verbs import enters_history

USERS = st.sampled_from(["u", "v", "ü"])
ITEMS = st.sampled_from(["a", "b", "c", "日"])
TIMES = st.integers(0, 4)
INTERACTIONS = st.builds(
    Interaction,
    event_id=st.sampled_from([f"e{n}" for n in range(12)]),
    timestamp_ms=TIMES,
    item_id=ITEMS,
    event=st.sampled_from(["click", "hide", "subscribe"]),
    user_id=USERS,
    value=st.none() | st.sampled_from([1.0, 2.5]),
)
UPDATES = st.builds(
    ItemUpdate,
    event_id=st.sampled_from([f"e{n}" for n in range(12)]),
    timestamp_ms=TIMES,
    item_id=ITEMS,
    columns=st.dictionaries(st.sampled_from(["title", "genres"]), st.text("xyé"), max_size=2),
)


class LogModel(RuleBasedStateMachine):
    """A log, and what it should hold: events by id, rows, users, texts, in plain dicts."""

    def __init__(self) -> None:
        super().__init__()
        # So few that events enter the table of histories all the time.
        self.few = patch.multiple("ouzel.events.log_fold", FOLD_EVENTS=3, SLICE_EVENTS=1)
        self.few.start()
        self.folder = tempfile.TemporaryDirectory()
        self.log = EventLog.open(Path(self.folder.name, "events.db"), synchronous="OFF")
        self.events: dict[str, Event] = {}
        self.rows: dict[str, int] = {}
        self.users: dict[str, int] = {}
        self.texts: dict[tuple[str, str], str] = {}

    def teardown(self) -> None:
        self.log.close()
        self.folder.cleanup()
        self.few.stop()

    @rule(batch=st.lists(INTERACTIONS | UPDATES, max_size=4))
    def append(self, batch: list[Interaction | ItemUpdate]) -> None:
        receipts = self.log.append(batch)
        assert [receipt.status for receipt in receipts] == [self._apply(event) for event in batch]
        for event, receipt in zip(batch, receipts, strict=True):
            assert list(self.events).index(event.event_id) + 1 == receipt.offset

    @rule(rows=st.lists(st.tuples(USERS, ITEMS, TIMES), max_size=4), source=st.sampled_from("st"))
    def imports(self, rows: list[tuple[str, str, int]], source: str) -> None:
        users, items, times = zip(*rows, strict=True) if rows else ((), (), ())
        columns = EventColumns(
            users,
            items,
            ["rate"] * len(rows),
            np.array(times, np.int64),
            np.full(len(rows), np.nan, np.float32),
            np.arange(len(rows)),
        )
        counts = self.log.import_frame(columns, source_digest=source)
        added = 0
        for user in users:
            self.users.setdefault(user, len(self.users))
        for item in items:
            self.rows.setdefault(item, len(self.rows) + 1)
        for number, (user, item, time) in enumerate(rows):
            name = f"{source}{number}"
            if name not in self.events:
                added += 1
                self.events[name] = Interaction(
                    event_id=name, timestamp_ms=time, item_id=item, event="rate", user_id=user
                )
        assert counts.added == added

    @rule()
    def reopen(self) -> None:
        self.log.close()
        self.log = EventLog.open(Path(self.folder.name, "events.db"), synchronous="OFF")

    @invariant()
    def agrees(self) -> None:
        assert self.log.last_offset() == len(self.events)
        assert self.log.catalog.ids(range(1, len(self.log.catalog))) == list(self.rows)
        assert self.log.user_ids(range(self.log.num_users)) == list(self.users)
        for (item, name), text in self.texts.items():
            assert self.log.catalog.column(name)[self.rows[item]] == text
        found = self.log.interactions()
        expected = {user: self._history(name) for name, user in self.users.items()}
        for user, pairs in expected.items():
            history = self.log.history(user)
            assert list(zip(history.rows, history.times_ms, strict=True)) == pairs
        for position, user in enumerate(found.users_U):
            history = found.history(position)
            assert list(zip(history.rows, history.times_ms, strict=True)) == expected[user]
        assert len(found) == sum(map(len, expected.values()))

    def _apply(self, event: Interaction | ItemUpdate) -> str:
        known: Any = self.events.get(event.event_id)
        if known is not None:
            same = msgspec.structs.replace(event, timestamp_ms=known.timestamp_ms) == known
            return "duplicate" if same else "conflict"
        self.events[event.event_id] = event
        if isinstance(event, ItemUpdate):
            self.rows.setdefault(event.item_id, len(self.rows) + 1)
            self.texts |= {(event.item_id, name): text for name, text in event.columns.items()}
        elif event.user_id is not None:
            self.users.setdefault(event.user_id, len(self.users))
        return "accepted"

    def _history(self, user: str) -> list[tuple[int, int]]:
        mine = [
            event
            for event in self.events.values()
            if isinstance(event, Interaction)
            and event.user_id == user
            and enters_history(event.event)
            and event.item_id in self.rows
        ]
        mine.sort(key=lambda event: event.timestamp_ms)
        return [(self.rows[event.item_id], event.timestamp_ms) for event in mine]


LogModel.TestCase.settings = settings(
    max_examples=25,
    stateful_step_count=12,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)
TestLogModel = LogModel.TestCase
