"""Histories while events enter their table late and in slices: always those of all events."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from ouzel.events import log_fold, log_schema
from ouzel.events.columns import EventColumns
from ouzel.events.interactions import History
from ouzel.events.log import EventLog
from ouzel.events.log_check import damage
from ouzel.events.log_view import LogView
from ouzel.events.types import Event, Interaction, ItemUpdate

ITEMS = [
    ItemUpdate(event_id=f"item-{name}", timestamp_ms=0, item_id=name, columns={}) for name in "abc"
]


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(log_fold, "FOLD_EVENTS", 24)
    monkeypatch.setattr(log_fold, "SLICE_EVENTS", 6)
    return tmp_path / "events.db"


@pytest.fixture
def log(path: Path) -> Iterator[EventLog]:
    with EventLog.open(path, synchronous="OFF") as opened:
        opened.append(ITEMS)
        yield opened


def random_events(first: int, count: int, seed: int = 0) -> list[Event]:
    rng = np.random.default_rng(first + seed)
    return [
        Interaction(
            event_id=f"e{first + place}",
            timestamp_ms=int(rng.integers(5)),
            item_id=str(rng.choice(["a", "b", "c", "late"])),
            event=str(rng.choice(["click", "view", "hide"])),
            user_id=f"u{rng.integers(7)}",
            value=float(place % 4) if place % 3 else None,
        )
        for place in range(count)
    ]


def pairs(history: History) -> list[tuple[int, int]]:
    return list(zip(history.rows.tolist(), history.times_ms.tolist(), strict=True))


def expected(log: EventLog) -> dict[int, list[tuple[int, int]]]:
    """Return what training reads, which knows nothing of the table of histories."""
    found = log.interactions()
    return {int(user): pairs(found.history(at)) for at, user in enumerate(found.users_U)}


def check(log: EventLog, *views: LogView) -> None:
    whole = expected(log)
    found = log.interactions()
    values = {int(user): found.history(at).values for at, user in enumerate(found.users_U)}
    for user in range(log.num_users):
        for reader in (log, *views):
            plain = reader.history(user)
            assert pairs(plain) == whole.get(user, []) and plain.values is None
            valued = reader.history(user, valued=True)
            assert pairs(valued) == whole.get(user, [])
            np.testing.assert_array_equal(valued.values, values.get(user, []))


def stage(log: EventLog) -> tuple[int, int, int]:
    done, until, cursor = log._reader.execute("SELECT done, until, cursor FROM fold").fetchone()
    return done, until, cursor


@pytest.mark.parametrize("size", [1, 5, 40])
def test_histories_agree_with_all_events_at_every_stage(
    log: EventLog, path: Path, size: int
) -> None:
    with closing(LogView(path)) as often, closing(LogView(path)) as seldom:
        stages = set()
        for turn, first in enumerate(range(0, 200, size)):
            log.append(random_events(first, size))
            check(log, often)
            if turn % 7 == 0:
                check(log, often, seldom)
            done, until, cursor = stage(log)
            stages.add((done > 0, until > done, cursor > 0))
    assert damage(path) == []
    assert stages >= {(True, False, False), (True, True, False)}
    assert (size == 40) or (True, True, True) in stages


def test_only_some_slices_enter_in_one_transaction(log: EventLog) -> None:
    cursors = []
    for number in range(80):
        log.append(random_events(number, 1))
        cursors.append(stage(log))
    moved = [now for before, now in pairwise(cursors) if now != before]
    assert len(moved) > 4  # begin, several slices, end


@pytest.mark.parametrize("released_at", [10, 30, 45, 58])
def test_waiting_events_enter_histories_at_every_stage(
    log: EventLog, path: Path, released_at: int
) -> None:
    with closing(LogView(path)) as view:
        for first in range(60):
            log.append(random_events(first, 1))
            check(log, view)
            if first == released_at:
                log.append(
                    [ItemUpdate(event_id="late", timestamp_ms=0, item_id="late", columns={})]
                )
                check(log, view)
    assert damage(path) == []


def test_deleted_and_changed_events_leave_histories_at_every_stage(
    log: EventLog, path: Path
) -> None:
    for first in range(0, 90, 3):
        log.append(random_events(first, 3))
        check(log)
        log._writer.execute("DELETE FROM events WHERE offset = ?", (4 + first // 2,))
        log._writer.execute("UPDATE events SET row = 2 WHERE offset = ? AND row > 0", (5 + first,))
        check(log)
    assert damage(path) == []


def test_a_fold_goes_on_after_reopening(log: EventLog, path: Path) -> None:
    log.append(random_events(0, 30))
    log.append(random_events(30, 1))
    assert stage(log)[1] > stage(log)[0]
    log.close()
    with EventLog.open(path, synchronous="OFF") as other:
        check(other)
        other.append(random_events(31, 30))
        check(other)
    assert damage(path) == []


def test_a_transaction_that_fails_brings_nothing_into_histories(
    log: EventLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    log.append(random_events(0, 30))
    log.append(random_events(30, 3))
    before = stage(log)

    def fail(*_: object) -> None:
        step(log._writer)
        raise sqlite3.OperationalError("disk I/O error")

    step = log._fold.step
    with monkeypatch.context() as patch:
        patch.setattr(log._fold, "step", fail)
        with pytest.raises(sqlite3.OperationalError):
            log.append(random_events(33, 30))
    check(log)
    assert stage(log) == before
    log.append(random_events(33, 30))
    check(log)


def test_a_log_of_version_1_is_brought_up_to_date(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with closing(sqlite3.connect(path)) as old:
        for statement in log_schema._VERSION_1.split("\n\n"):
            old.execute(statement)
        old.execute("PRAGMA user_version = 1")
        for row, name in enumerate("abc", start=1):
            old.execute("INSERT INTO items VALUES (?, ?, '{}')", (row, name))
        old.execute("INSERT INTO users (user, session, id) VALUES (0, 0, 'u0'), (1, 1, 's')")
        old.executemany(
            "INSERT INTO events (event_id, timestamp_ms, user, row, verb) VALUES (?, ?, ?, ?, ?)",
            [("1", 9, 0, 3, 1), ("2", 4, 0, 1, 2), ("3", 4, 1, 2, 2), ("4", 5, 0, 2, 13)],
        )
        old.commit()
    assert damage(path) == []
    with EventLog.open(path) as log:
        assert pairs(log.history(0)) == [(1, 4), (3, 9)]
        assert pairs(log.history(1)) == [(2, 4)]
        check(log)
        log.append(random_events(0, 60))
        check(log)
        names = [name for (name,) in log._reader.execute("SELECT name FROM sqlite_master")]
        assert "events_of_user" not in names
    assert damage(path) == []


@pytest.mark.parametrize(
    "fault",
    [
        "DELETE FROM histories WHERE offset = (SELECT max(offset) FROM histories)",
        "UPDATE histories SET row = 3 - row WHERE row < 3",
        "UPDATE histories SET timestamp_ms = timestamp_ms + 1",
        "INSERT INTO histories VALUES (0, 9, 99, 1)",
        "UPDATE fold SET done = 29, until = 29",
        # One too many, which readers would find a second time, and one missing.
        "UPDATE histories SET (user, timestamp_ms, offset, row) = (SELECT user, timestamp_ms,"
        f" offset, row FROM events WHERE {log_schema.HISTORY_ROWS} ORDER BY offset DESC LIMIT 1)"
        " WHERE offset = (SELECT min(offset) FROM histories)",
    ],
)
def test_histories_that_differ_from_the_events_are_damage(
    log: EventLog, path: Path, fault: str
) -> None:
    log.append(random_events(0, 30, seed=5))
    log_fold.fold_until(log._writer, 25)
    assert damage(path) == []
    log._writer.execute(fault)
    assert any("histories" in found for found in damage(path))


def test_what_is_imported_is_in_histories_at_once(log: EventLog) -> None:
    log.append(random_events(0, 30))
    columns = EventColumns(
        ["u0", "u9"], ["a", "b"], ["rate"] * 2, np.array([3, 1]), np.ones(2), np.arange(2)
    )
    check(log)
    log.import_frame(columns, source_digest="source")
    assert stage(log) == (log.last_offset(), log.last_offset(), 0)
    check(log)
