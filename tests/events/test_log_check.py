"""Damage planted in a log's file is reported."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from ouzel.events.log_check import damage
from ouzel.events.log_schema import open_writer


@pytest.fixture
def log(tmp_path: Path) -> Path:
    path = tmp_path / "events.db"
    with closing(open_writer(path, "FULL")) as connection:
        connection.execute("BEGIN IMMEDIATE")
        for row in range(1, 400):
            connection.execute("INSERT INTO items VALUES (?, ?, '{}')", (row, f"item {row}" * 9))
        connection.execute("INSERT INTO users (user, session, id) VALUES (0, 0, 'u')")
        connection.execute(
            "INSERT INTO events (event_id, timestamp_ms, user, row, verb) VALUES ('e', 1, 0, 3, 1)"
        )
        connection.execute("COMMIT")
    return path


def test_a_sound_log_has_no_damage(log: Path) -> None:
    assert damage(log) == []


@pytest.mark.parametrize(
    ("statement", "problem"),
    [
        ("DELETE FROM items WHERE row = 2", "item rows"),
        ("UPDATE users SET user = 5", "user rows"),
        ("UPDATE events SET row = 400", "item row that is not in the catalogue"),
        ("UPDATE events SET user = 1", "user that is not in the log"),
    ],
)
def test_a_broken_promise_is_found(log: Path, statement: str, problem: str) -> None:
    with closing(sqlite3.connect(log)) as connection:
        connection.execute(statement)
        connection.commit()
    assert any(problem in found for found in damage(log))


def test_overwritten_pages_are_found(log: Path) -> None:
    whole = bytearray(log.read_bytes())
    middle = len(whole) // 2 // 4096 * 4096
    whole[middle : middle + 4096] = b"\xaa" * 4096
    log.write_bytes(whole)
    assert damage(log)


def test_what_is_no_log_or_too_new_is_refused(log: Path, tmp_path: Path) -> None:
    (tmp_path / "text").write_text("not a database" * 100)
    with pytest.raises(ValueError, match="no readable event log"):
        damage(tmp_path / "text")
    with closing(sqlite3.connect(log)) as connection:
        connection.execute("PRAGMA user_version = 99")
    with pytest.raises(ValueError, match="log version 99, newer than this ouzel"):
        damage(log)
