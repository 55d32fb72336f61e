"""Whole sources into the log: once, fast, finished if interrupted, in the order of the source."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from ouzel.events import log_import
from ouzel.events.columns import EventColumns
from ouzel.events.log import EventLog
from ouzel.events.types import Interaction, ItemUpdate


@pytest.fixture
def log(tmp_path: Path) -> Iterator[EventLog]:
    with EventLog.open(tmp_path / "events.db") as opened:
        yield opened


def columns(*rows: tuple[str, str, int], verb: str = "rate") -> EventColumns:
    return EventColumns(
        [user for user, _, _ in rows],
        [item for _, item, _ in rows],
        [verb] * len(rows),
        np.array([time for _, _, time in rows], np.int64),
        np.array([4.5] * len(rows), np.float32),
        np.arange(1, len(rows) + 1),
    )


SOURCE = columns(("v", "b", 20), ("u", "a", 20), ("v", "a", 20), ("v", "c", 10))
ITEMS = {"item_id": ["x", "a", "c"], "title": ["X", "Alien", ""], "genres": ["", "Horror", ""]}


def test_rows_are_handed_out_by_first_appearance_touched_items_first(log: EventLog) -> None:
    counts = log.import_frame(SOURCE, source_digest="s", items=ITEMS)
    assert counts == (4, 0, 2, 4)
    assert log.catalog.ids(range(1, 5)) == ["b", "a", "c", "x"]
    assert list(log.catalog.column("title")) == ["", "", "Alien", "", "X"]
    assert log.user_ids([0, 1]) == ["v", "u"]
    # Ties in time keep the order of the source.
    assert log.history(0).rows.tolist() == [3, 1, 2]
    assert log.interactions().num_rows == 4


def test_importing_again_adds_nothing(log: EventLog) -> None:
    log.import_frame(SOURCE, source_digest="s", items=ITEMS)
    digest, offset = log.digest(), log.last_offset()
    assert log.import_frame(SOURCE, source_digest="s", items=ITEMS) == (0, 4, 0, 0)
    assert (log.digest(), log.last_offset()) == (digest, offset)
    assert log.import_frame(SOURCE, source_digest="another") == (4, 0, 0, 0)


def test_a_repeated_import_uses_no_offsets(log: EventLog) -> None:
    log.import_frame(SOURCE, source_digest="s")
    log.import_frame(SOURCE, source_digest="s")
    log.import_frame(columns(("u", "a", 1)), source_digest="t")
    assert [offset for offset, _ in log.events()] == [1, 2, 3, 4, 5]


def test_an_event_that_took_the_id_of_a_row_stays(log: EventLog) -> None:
    (taken,) = log_import.event_ids("s", [2])
    log.append([ItemUpdate(event_id=taken, timestamp_ms=1, item_id="a", columns={})])
    assert log.import_frame(SOURCE, source_digest="s")[:2] == (3, 1)


def test_a_cleaned_source_is_completed_by_the_whole_one(log: EventLog) -> None:
    part = EventColumns(
        SOURCE.user_ids[1:3],
        SOURCE.item_ids[1:3],
        SOURCE.verbs[1:3],
        SOURCE.timestamps_ms_E[1:3],
        SOURCE.values_E[1:3],
        SOURCE.numbers_E[1:3],
    )
    assert log.import_frame(part, source_digest="s").added == 2
    assert log.import_frame(SOURCE, source_digest="s")[:2] == (2, 2)


def test_an_interrupted_import_is_finished_by_the_next(
    log: EventLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(log_import, "CHUNK", 3)

    def interrupt(done: int, total: int) -> None:
        assert (done, total) == (3, 4)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        log.import_frame(SOURCE, source_digest="s", progress=interrupt)
    assert log.last_offset() == 3
    seen: list[tuple[int, int]] = []
    counts = log.import_frame(
        SOURCE, source_digest="s", progress=lambda done, total: seen.append((done, total))
    )
    assert counts[:2] == (1, 3)
    assert seen == [(3, 4), (4, 4)]
    assert log.history(0).rows.tolist() == [3, 1, 2]


def test_imported_events_are_given_back_as_events(log: EventLog) -> None:
    log.import_frame(columns(("u", "a", 7)), source_digest="s")
    ((offset, event),) = log.events()
    assert (offset, event) == (
        1,
        Interaction(
            event_id=event.event_id,
            timestamp_ms=7,
            user_id="u",
            item_id="a",
            event="rate",
            value=4.5,
        ),
    )
    assert log.append([event])[0].status == "duplicate"


def test_absent_values_stay_absent(log: EventLog) -> None:
    source = replace(SOURCE, values_E=np.full(4, np.nan, np.float32))
    log.import_frame(source, source_digest="s")
    assert np.isnan(log.interactions().values_E).all()
    assert log.events()[0][1].value is None  # type: ignore[union-attr]


def test_an_import_fills_texts_but_overwrites_none(log: EventLog) -> None:
    log.append([ItemUpdate(event_id="1", timestamp_ms=1, item_id="a", columns={"title": "Mine"})])
    log.import_frame(SOURCE, source_digest="s", items=ITEMS)
    assert log.catalog.column("title")[1] == "Mine"
    assert log.catalog.column("genres")[1] == "Horror"
    with EventLog.open(log._path) as other:
        assert other.catalog.column("title")[1] == "Mine"
        assert other.catalog.column("genres")[1] == "Horror"


def test_an_import_releases_waiting_events(log: EventLog) -> None:
    log.append([Interaction(event_id="1", timestamp_ms=1, user_id="w", item_id="b", event="click")])
    assert len(log.history(0)) == 0
    log.import_frame(SOURCE, source_digest="s")
    assert log.history(0).rows.tolist() == [1]


def test_live_events_between_two_imports_keep_their_rows(log: EventLog) -> None:
    log.import_frame(SOURCE, source_digest="s")
    log.append([ItemUpdate(event_id="1", timestamp_ms=1, item_id="live", columns={})])
    log.import_frame(columns(("u", "live", 30), ("w", "later", 30)), source_digest="t")
    assert log.catalog.ids([4, 5]) == ["live", "later"]
    assert log.history(1).rows.tolist() == [2, 4]


@pytest.mark.parametrize(
    ("source", "items", "said"),
    [
        (columns(("", "a", 1)), {}, "user_id '' is empty"),
        (columns(("u", "a\n", 1)), {}, "control character"),
        (columns(("u", "a", -1)), {}, "timestamp -1"),
        (columns(("u", "a", 1), verb="RATE"), {}, "no verb"),
        (replace(SOURCE, values_E=np.full(4, np.inf, np.float32)), {}, "not finite"),
        (replace(SOURCE, numbers_E=np.array([1, 2, 2, 3])), {}, "share a number"),
        (replace(SOURCE, numbers_E=np.array([1, 2, -3, 3])), {}, "from -3 to 3"),
        (SOURCE, {"title": ["x"]}, "add item_id"),
        (SOURCE, {"item_id": ["x"], "title": []}, "differ in length"),
        (SOURCE, {"item_id": ["x"], "ti tle": ["y"]}, "column name"),
    ],
)
def test_a_source_with_one_bad_value_is_refused_whole(
    log: EventLog, source: EventColumns, items: dict[str, list[str]], said: str
) -> None:
    with pytest.raises(ValueError, match=said):
        log.import_frame(source, source_digest="s", items=items)
    assert (log.last_offset(), len(log.catalog), log.num_users) == (0, 1, 0)


def test_columns_must_have_one_length() -> None:
    with pytest.raises(ValueError, match="differ in length"):
        replace(SOURCE, verbs=["rate"])


def test_items_alone_may_be_imported(log: EventLog) -> None:
    assert log.import_frame(columns(), source_digest="s", items=ITEMS) == (0, 0, 0, 3)
    assert len(log.interactions()) == 0
    assert log.interactions().num_rows == 1
