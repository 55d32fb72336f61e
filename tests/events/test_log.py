"""The log: what was accepted is there, once, in order, also after reopening."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterator
from pathlib import Path

import msgspec
import numpy as np
import pytest

from ouzel.events.log import EventLog
from ouzel.events.log_append import Receipt
from ouzel.events.types import Event, Impression, Interaction, ItemUpdate, UserUpdate


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "events.db"


@pytest.fixture
def log(path: Path) -> Iterator[EventLog]:
    with EventLog.open(path) as opened:
        yield opened


def item(name: str, **columns: str) -> ItemUpdate:
    return ItemUpdate(event_id=f"item-{name}", timestamp_ms=0, item_id=name, columns=columns)


def did(event_id: str, item_id: str, time_ms: int = 5, **fields: object) -> Interaction:
    given = {"user_id": "u", "event": "click", **fields}
    return Interaction(event_id=event_id, timestamp_ms=time_ms, item_id=item_id, **given)  # type: ignore[arg-type]


def shown(event_id: str) -> Impression:
    return Impression(
        event_id=event_id,
        timestamp_ms=5,
        request_id="r",
        item_ids=("a", "zz"),
        model_version="m+0",
    )


def test_receipts_name_offset_user_and_row(log: EventLog) -> None:
    receipts = log.append(
        [
            item("a"),
            did("1", "a"),
            did("2", "a", user_id="v"),
            did("3", "zz"),
            shown("4"),
            UserUpdate(event_id="5", timestamp_ms=5, user_id="v", columns={"age": "40"}),
        ]
    )
    assert receipts == [
        Receipt("accepted", 1, -1, 1),
        Receipt("accepted", 2, 0, 1),
        Receipt("accepted", 3, 1, 1),
        Receipt("accepted", 4, 0, 0),
        Receipt("accepted", 5, -1, 0),
        Receipt("accepted", 6, 1, 0),
    ]
    assert log.last_offset() == 6
    assert log.append([]) == []


def test_a_repeated_event_changes_nothing(log: EventLog) -> None:
    events: list[Event] = [item("a", title="Alien"), did("1", "a", context={"page": [1, {"x": 2}]})]
    first = log.append(events)
    again = log.append([*events, *events])
    assert [receipt.status for receipt in again] == ["duplicate"] * 4
    assert [receipt.offset for receipt in again] == [1, 2, 1, 2]
    assert [receipt.row for receipt in again[:2]] == [receipt.row for receipt in first]
    assert log.last_offset() == 2
    assert len(log.history(0)) == 1


def test_a_repeat_within_one_batch_is_seen(log: EventLog) -> None:
    receipts = log.append([item("a"), did("1", "a"), did("1", "a"), did("1", "b")])
    assert [receipt.status for receipt in receipts[1:]] == ["accepted", "duplicate", "conflict"]


@pytest.mark.parametrize(
    "change",
    [
        {"item_id": "b"},
        {"event": "view"},
        {"value": 1.0},
        {"user_id": "v"},
        {"session_id": "s"},
        {"request_id": "r"},
        {"context": {"page": 2}},
        {"properties": {"price": 2}},
    ],
)
def test_the_same_id_with_another_payload_is_a_conflict(log: EventLog, change: dict) -> None:
    event = did("1", "a", context={"page": 1})
    log.append([item("a"), item("b"), event])
    (receipt,) = log.append([msgspec.structs.replace(event, **change)])
    assert receipt.status == "conflict"
    assert (receipt.offset, receipt.row) == (3, 1)
    assert log.last_offset() == 3
    assert log.events(after=2) == [(3, event)]
    assert log.user_row(user_id="v") is None


def test_an_id_of_another_kind_of_event_is_a_conflict(log: EventLog) -> None:
    log.append([item("a")])
    (receipt,) = log.append([did("item-a", "a")])
    assert receipt.status == "conflict"


def test_a_retry_stamped_later_is_still_the_same_event(log: EventLog) -> None:
    log.append([item("a"), did("1", "a", 5)])
    (receipt,) = log.append([did("1", "a", 99)])
    assert receipt.status == "duplicate"
    assert log.history(0).times_ms.tolist() == [5]


def test_a_refused_event_refuses_its_batch(log: EventLog) -> None:
    with pytest.raises(ValueError, match="timestamp -1"):
        log.append([item("a"), did("1", "a", -1)])
    assert log.last_offset() == 0
    assert len(log.catalog) == 1


def fail_on_disk(*_: object) -> int:
    raise sqlite3.OperationalError("disk I/O error")


def test_a_failure_in_the_middle_leaves_nothing(
    log: EventLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    log.append([item("a")])
    with monkeypatch.context() as patch:
        patch.setattr("ouzel.events.log_append.verb_number", fail_on_disk)
        with pytest.raises(sqlite3.OperationalError):
            log.append([item("b", title="B"), did("1", "b", event="wave")])
    assert log.catalog.row("b") == 0
    assert log.append([item("c")])[0].row == 2
    assert log.last_offset() == 2


def statements(log: EventLog, *events: Event) -> tuple[list[str], list[Receipt]]:
    """Return what SQLite was told while `events` were appended, and their receipts."""
    told: list[str] = []
    log._writer.set_trace_callback(told.append)
    receipts = log.append(events)
    log._writer.set_trace_callback(None)
    return [text.split()[0] for text in told], receipts


def test_a_few_plain_events_of_known_users_are_one_statement(log: EventLog) -> None:
    log.append([item("a"), did("1", "a", 5), did("2", "a", 6, user_id="v")])
    few = [did("3", "a", 7, user_id="v"), did("4", "unheard", 8), shown("5")]
    told, receipts = statements(log, *few)
    assert told == ["INSERT"]
    assert [(receipt.status, receipt.offset) for receipt in receipts] == [
        ("accepted", 4),
        ("accepted", 5),
        ("accepted", 6),
    ]
    assert [receipt.user for receipt in receipts[:2]] == [1, 0]
    assert [event for _, event in log.events(after=3)] == few
    assert log.history(1).times_ms.tolist() == [6, 7]
    # One that is known already is told so, and its company goes in.
    told, receipts = statements(log, did("3", "a", 9, user_id="v"), did("6", "a"))
    assert told[0] == "INSERT" and told[-1] == "COMMIT"
    assert [receipt.status for receipt in receipts] == ["duplicate", "accepted"]
    assert log.last_offset() == 7


def test_one_statement_does_not_pass_over_items_of_another_process(
    log: EventLog, path: Path
) -> None:
    log.append([item("a"), did("1", "a", 5)])
    with EventLog.open(path, synchronous="OFF") as other:
        other.append([item("b")])
    (receipt,) = log.append([did("2", "b", 6)])
    assert (receipt.status, receipt.row, receipt.offset) == ("accepted", 2, 4)


def test_unknown_items_wait_until_they_are_described(log: EventLog) -> None:
    waiting = [did("1", "new", 30), did("2", "new", 10, user_id="v"), did("3", "new", 20)]
    receipts = log.append([item("a"), did("0", "a", 25), *waiting])
    assert [receipt.row for receipt in receipts[2:]] == [0, 0, 0]
    assert log.history(0).rows.tolist() == [1]
    assert log.interactions().num_users == 1
    (described,) = log.append([item("new", title="New")])
    assert (described.row, described.released) == (2, (0, 1))
    assert log.history(0).rows.tolist() == [2, 1, 2]
    assert log.history(0).times_ms.tolist() == [20, 25, 30]
    assert log.history(1).rows.tolist() == [2]
    (changed,) = log.append(
        [ItemUpdate(event_id="x", timestamp_ms=9, item_id="new", columns={"genres": "Drama"})]
    )
    assert changed.released == ()
    # What was sent is given back as it was sent, also if its item was unknown then.
    assert [event for _, event in log.events(after=2, limit=3)] == waiting
    again = log.append(waiting)
    assert [receipt.status for receipt in again] == ["duplicate"] * 3
    assert [receipt.row for receipt in again] == [2, 2, 2]


def test_item_columns_are_laid_over_each_other(log: EventLog, path: Path) -> None:
    update = item("a", title="Alein", genres="Horror")
    log.append([update])
    fix = msgspec.structs.replace(update, event_id="fix", columns={"title": "Alien"})
    assert log.append([fix])[0].row == 1
    assert log.catalog.column("title")[1] == "Alien"
    assert log.catalog.column("genres")[1] == "Horror"
    with EventLog.open(path) as other:
        assert other.catalog.column("title")[1] == "Alien"


def test_histories_are_in_time_then_log_order(log: EventLog) -> None:
    log.append([item(name) for name in "abcd"])
    log.append([did("1", "c", 20), did("2", "a", 10), did("3", "b", 20), did("4", "d", 10)])
    assert log.history(0).rows.tolist() == [1, 4, 3, 2]
    assert log.history(0).times_ms.tolist() == [10, 10, 20, 20]
    assert log.history(0).rows.dtype == np.int32
    found = log.interactions()
    assert found.rows_E.tolist() == [1, 4, 3, 2]


@pytest.mark.parametrize("verb", ["search", "skip", "hide", "dislike", "remove_from_cart"])
def test_some_verbs_are_no_history(log: EventLog, verb: str) -> None:
    log.append([item("a"), did("1", "a", event=verb), did("2", "a", event="subscribe")])
    assert len(log.history(0)) == 1
    assert len(log.interactions()) == 1
    assert log.events(after=1)[0][1] == did("1", "a", event=verb)


def test_users_and_sessions_have_rows_of_their_own(log: EventLog) -> None:
    log.append(
        [
            item("a"),
            did("1", "a"),
            did("2", "a", user_id=None, session_id="u"),
            did("3", "a", user_id="v", session_id="u"),
        ]
    )
    assert [log.user_row("u"), log.user_row(session_id="u"), log.user_row("v", "u")] == [0, 1, 2]
    assert log.user_row("w") is None
    assert log.user_row() is None
    assert log.user_ids([1, 0, 2]) == ["u", "u", "v"]
    assert log.num_users == 3
    with pytest.raises(ValueError, match="user row 3 is unknown: rows go from 0 to 2"):
        log.user_ids([3])


def test_values_are_kept(log: EventLog) -> None:
    log.append([item("a"), did("1", "a", 1, value=4.5), did("2", "a", 2)])
    assert np.array_equal(log.interactions().values_E, [4.5, np.nan], equal_nan=True)


def test_interactions_up_to_an_offset(log: EventLog) -> None:
    log.append([item("a"), did("1", "a"), item("b"), did("2", "b")])
    digest = log.digest(until_offset=2)
    assert log.interactions(until_offset=2).rows_E.tolist() == [1]
    assert log.interactions(until_offset=2).num_rows == 2
    assert log.interactions().num_rows == 3
    assert log.digest() != digest
    log.append([did("3", "a")])
    assert log.digest(until_offset=2) == digest
    assert len(log.interactions(until_offset=0)) == 0


def test_impressions_are_found_by_request(log: EventLog) -> None:
    shown = Impression(
        event_id="i",
        timestamp_ms=5,
        request_id="r",
        item_ids=("b", "a"),
        model_version="m+0",
        session_id="s",
        context={"surface": "home"},
        propensities=(0.5, 0.25),
    )
    log.append([item("a"), shown, did("1", "a", request_id="r")])
    assert log.impressions("r") == [shown]
    assert log.impressions("other") == []


def test_impressions_of_a_log_before_propensities_are_read(log: EventLog) -> None:
    body = (
        b'{"type":"impression","event_id":"i","timestamp_ms":5,"request_id":"r","item_ids":["a"],'
        b'"model_version":"m+0","user_id":null,"session_id":"s","context":null}'
    )
    with log._transaction():
        log._writer.execute(
            "INSERT INTO events (event_id, timestamp_ms, user, row, request_id, body)"
            " VALUES ('i', 5, -1, 0, 'r', ?)",
            (body,),
        )
    (shown,) = log.impressions("r")
    assert shown.item_ids == ("a",) and shown.propensities is None


def test_the_newest_entries_of_histories_are_read_in_order(log: EventLog) -> None:
    log.append([item("a"), item("b"), did("1", "a"), did("2", "b"), did("3", "a", event="hide")])
    log.append([did("4", "later"), did("5", "a")])
    assert log.newest(10).rows.tolist() == [1, 2, 1]
    assert log.newest(2).rows.tolist() == [2, 1]
    assert len(log.newest(2).times_ms) == 2


def test_entries_of_histories_are_read_on_from_an_offset(log: EventLog) -> None:
    """In the order of the log, not of time: what came late was not seen before."""
    log.append([item("a"), item("b"), did("1", "a"), did("2", "b", 3, user_id="v")])
    log.append([did("3", "a", event="hide"), did("4", "later"), did("5", "a", 1)])
    found = log.entries(after=0, limit=2)
    assert (found.users_E.tolist(), found.rows_E.tolist()) == ([0, 1], [1, 2])
    rest = log.entries(after=int(found.offsets_E[-1]), limit=2)
    assert (rest.users_E.tolist(), rest.rows_E.tolist()) == ([0], [1])
    assert len(log.entries(after=int(rest.offsets_E[-1]), limit=2)) == 0


def test_everything_is_there_after_reopening(log: EventLog, path: Path) -> None:
    events: list[Event] = [
        item("ä", title="Ä", genres="Drama|Romance"),
        did("1", "ä", event="subscribe"),
        UserUpdate(event_id="2", timestamp_ms=1, user_id="w", columns={"name": "W"}),
    ]
    log.append(events)
    digest = log.digest()
    log.close()
    with EventLog.open(path) as other:
        assert [event for _, event in other.events()] == events
        assert other.digest() == digest
        assert other.catalog.row("ä") == 1
        assert list(other.catalog.column("title")) == ["", "Ä"]
        assert [r.status for r in other.append(events)] == ["duplicate"] * 3
        assert other.append([item("b")])[0] == Receipt("accepted", 4, -1, 2)


def test_offsets_are_never_used_again(log: EventLog, path: Path) -> None:
    log.append([item("a"), did("1", "a")])
    log._writer.execute("DELETE FROM events WHERE offset = 2")
    log.close()
    with EventLog.open(path) as other:
        assert other.last_offset() == 2
        assert other.append([did("2", "a")])[0].offset == 3


def test_deleted_bytes_are_gone_from_the_files(log: EventLog, path: Path) -> None:
    secret = "secret-user-7f3a"
    log.append([item("a"), *(did(str(n), "a", user_id=secret) for n in range(300))])
    log._writer.execute("DELETE FROM users")
    log._writer.execute("DELETE FROM events")
    log._writer.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    held = b"".join(file.read_bytes() for file in path.parent.iterdir())
    assert secret.encode() not in held


def test_without_secure_delete_the_bytes_would_stay(log: EventLog, path: Path) -> None:
    secret = "secret-user-7f3a"
    log._writer.execute("PRAGMA secure_delete = OFF")
    log.append([item("a"), *(did(str(n), "a", user_id=secret) for n in range(300))])
    log._writer.execute("DELETE FROM users")
    log._writer.execute("DELETE FROM events")
    log._writer.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    held = b"".join(file.read_bytes() for file in path.parent.iterdir())
    assert secret.encode() in held


def test_a_log_of_a_newer_ouzel_is_refused(log: EventLog, path: Path) -> None:
    log._writer.execute("PRAGMA user_version = 3")
    log.close()
    before = path.read_bytes()
    with pytest.raises(ValueError, match=r"newer Ouzel \(log version 3, .* up to 2\): upgrade"):
        EventLog.open(path)
    assert path.read_bytes() == before


def test_other_files_are_refused(path: Path) -> None:
    with sqlite3.connect(path) as other:
        other.execute("CREATE TABLE cats (name)")
    other.close()
    with pytest.raises(ValueError, match="no event log"):
        EventLog.open(path)
    path.write_bytes(b"user_id,item_id\n" * 100)
    with pytest.raises(ValueError, match="cannot be opened as an event log"):
        EventLog.open(path)
    with pytest.raises(ValueError, match="cannot be opened as an event log"):
        EventLog.open(path / "no-folder" / "events.db")


def test_synchronous_is_one_of_the_words_of_sqlite(path: Path) -> None:
    with pytest.raises(ValueError, match="synchronous 'SOON'"):
        EventLog.open(path, synchronous="SOON")
    for word, number in (("FULL", 2), ("OFF", 0)):
        with EventLog.open(path, synchronous=word) as log:
            assert log._writer.execute("PRAGMA synchronous").fetchone() == (number,)
            assert log._writer.execute("PRAGMA journal_mode").fetchone() == ("wal",)


def test_two_writers_never_hand_out_one_row_twice(log: EventLog, path: Path) -> None:
    with EventLog.open(path) as other:
        for turn in range(5):
            log.append([item(f"here-{turn}"), did(f"h{turn}", f"here-{turn}")])
            other.append([item(f"there-{turn}"), did(f"t{turn}", f"there-{turn}", user_id="v")])
        log.refresh()
        assert len(log.catalog) == 11
        assert log.catalog.ids(range(1, 11)) == other.catalog.ids(range(1, 11))
        assert log.history(1).rows.tolist() == other.history(1).rows.tolist()
        assert log.history(1).rows.tolist() == [2, 4, 6, 8, 10]


def test_threads_may_write_and_read_at_once(log: EventLog) -> None:
    log.append([item("a")])
    wrong: list[str] = []

    def write(name: str) -> None:
        for turn in range(50):
            (receipt,) = log.append([did(f"{name}{turn}", "a", turn, user_id=name)])
            # Acknowledged means visible to the next read.
            if len(log.history(receipt.user)) != turn + 1:
                wrong.append(f"{name}{turn}")

    threads = [threading.Thread(target=write, args=(name,)) for name in ("x", "y", "z")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert log.last_offset() == 151


@pytest.mark.parametrize("count", [1, 63, 64, 65, 200])
def test_a_large_batch_with_a_known_id_in_its_middle(log: EventLog, count: int) -> None:
    log.append([item("a"), did("known", "a")])
    batch = [did(f"e{number}", "a", number) for number in range(count)]
    batch[count // 2] = did("known", "a")
    receipts = log.append(batch)
    assert receipts[count // 2].status == "duplicate" and receipts[count // 2].offset == 2
    fresh = [receipt for receipt in receipts if receipt.status == "accepted"]
    assert [receipt.offset for receipt in fresh] == list(range(3, count + 2))
    stored = {event.event_id: offset for offset, event in log.events(after=2)}
    assert all(
        stored[event.event_id] == receipt.offset
        for event, receipt in zip(batch, receipts, strict=True)
        if receipt.status == "accepted"
    )


def test_a_user_of_a_transaction_that_failed_is_not_remembered(
    log: EventLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    log.append([item("a")])
    with monkeypatch.context() as patch:
        patch.setattr("ouzel.events.log_append._insert", fail_on_disk)
        with pytest.raises(sqlite3.OperationalError):
            log.append([did("1", "a", user_id="lost")])
    receipts = log.append([did("2", "a", user_id="first"), did("3", "a", user_id="lost")])
    assert [receipt.user for receipt in receipts] == [0, 1]
    assert log.user_row("lost") == 1
