"""Lists that come as one text are stored as impressions that came one by one, or not at all."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import msgspec
import pytest

from ouzel.events.log import EventLog
from ouzel.events.types import Impression, Interaction, ItemUpdate

NAME = 'an "odd" name, 100 % ünï \\'


def shown(number: int) -> Impression:
    return Impression(
        event_id=f"shown-{number}",
        timestamp_ms=1_600_000_000_000 + number,
        request_id=f"r{number}",
        item_ids=("a", NAME, "b"),
        model_version="0123456789abcdef+0",
        user_id=NAME,
    )


def text_of(impressions: list[Impression], user: int) -> bytes:
    return msgspec.json.encode(
        [[one.event_id, one.timestamp_ms, user, one.request_id, one] for one in impressions]
    )


@pytest.fixture
def log(tmp_path: Path):
    with EventLog.open(tmp_path / "events.db") as log:
        log.append([ItemUpdate(event_id="i", timestamp_ms=0, item_id="a", columns={})])
        log.append(
            [Interaction(event_id="e", timestamp_ms=1, item_id="a", event="view", user_id=NAME)]
        )
        yield log


def columns(log: EventLog, event_id: str) -> tuple[object, ...]:
    connection = sqlite3.connect(log.path)
    found = connection.execute(
        "SELECT timestamp_ms, user, row, verb, value, waiting_item, request_id, typeof(body), body"
        " FROM events WHERE event_id = ?",
        (event_id,),
    ).fetchone()
    connection.close()
    return found


def test_they_are_stored_as_impressions_that_come_one_by_one(log: EventLog) -> None:
    log.append([shown(1)])
    log.append_shown(text_of([shown(2), shown(3)], user=0), 2)
    for number in (2, 3):
        assert log.impressions(f"r{number}") == [shown(number)]
        theirs, ours = columns(log, "shown-1"), columns(log, f"shown-{number}")
        assert ours[1:6] == theirs[1:6] and ours[7] == theirs[7] == "blob"
        assert ours[-1] == msgspec.json.encode(shown(number))
    assert log.last_impressions(2) == [shown(3), shown(2)]


def test_one_that_is_known_leaves_none_behind_and_the_log_goes_on(log: EventLog) -> None:
    before = log.last_offset()
    log.append_shown(text_of([shown(1)], user=0), 1)
    with pytest.raises(sqlite3.IntegrityError):
        log.append_shown(text_of([shown(2), shown(1)], user=0), 2)
    assert log.impressions("r2") == [] and log.last_offset() == before + 1
    log.append_shown(text_of([shown(4)], user=0), 1)
    assert log.impressions("r4") == [shown(4)]


def test_histories_stay_right_however_many_lists_come_between(log: EventLog) -> None:
    for number in range(40):
        log.append_shown(text_of([shown(2 * number), shown(2 * number + 1)], user=0), 2)
        log.append(
            [
                Interaction(
                    event_id=f"e{number}",
                    timestamp_ms=2 + number,
                    item_id="a",
                    event="view",
                    user_id=NAME,
                )
            ]
        )
    assert log.history(0).times_ms.tolist() == list(range(1, 42))
