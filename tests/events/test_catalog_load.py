"""Many items read at once are what they would be one by one."""

from __future__ import annotations

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ouzel.events import catalog as catalog_module
from ouzel.events import log as log_module
from ouzel.events.catalog import Catalog
from ouzel.events.log import EventLog
from ouzel.events.text_column import TextColumn
from ouzel.events.types import ItemUpdate

TEXTS = st.text(max_size=4)
COLUMNS = st.dictionaries(st.sampled_from(["title", "genres"]), TEXTS)
ITEMS = st.dictionaries(st.text(min_size=1, max_size=3), COLUMNS, max_size=8)


@given(before=ITEMS, loaded=ITEMS, after=ITEMS)
def test_loading_gives_what_adding_gives(before, loaded, after):
    loaded = {item_id: texts for item_id, texts in loaded.items() if item_id not in before}
    one_by_one, at_once = Catalog(), Catalog()
    for catalog, load in ((one_by_one, False), (at_once, True)):
        for items, now in ((before, False), (loaded, load), (after, False)):
            if now:
                catalog.load(list(items), list(items.values()))
                continue
            for row, texts in zip(catalog.add(items), items.values(), strict=True):
                for name, text in texts.items():
                    catalog.set_column(name, int(row), text)
    assert one_by_one.digest() == at_once.digest()
    for name in ("title", "genres"):
        assert list(one_by_one.column(name)) == list(at_once.column(name))
        assert len(at_once.column(name)) == len(at_once)
    known = {*before, *loaded, *after}
    assert [at_once.row(item) for item in known] == [one_by_one.row(item) for item in known]


@given(st.lists(TEXTS, max_size=8), st.lists(st.tuples(st.integers(0, 7), TEXTS), max_size=4))
def test_the_digest_is_of_lengths_and_texts_wherever_they_lie(texts, changes):
    column = TextColumn(texts)
    for place, text in changes:
        if place < len(texts):
            column.replace(place, text)
            texts[place] = text
    for count in range(len(texts) + 1):
        sha = hashlib.sha256()
        for text in texts[:count]:
            sha.update(len(text.encode()).to_bytes(4, "little"))
        sha.update("".join(texts[:count]).encode())
        assert column.digest(count) == sha.hexdigest()


def test_one_text_that_is_too_long_leaves_all_of_them_out():
    column = TextColumn(["a"])
    with pytest.raises(ValueError, match="at most"):
        column.extend(["b", "x" * (1 << 20)])
    assert list(column) == ["a"]


def test_a_log_is_read_in_parts(tmp_path, monkeypatch):
    monkeypatch.setattr(log_module, "ITEMS_AT_ONCE", 3)
    monkeypatch.setattr(catalog_module, "_MIN_RECENT", 2)
    path = tmp_path / "events.db"
    with EventLog.open(path) as log, EventLog.open(path) as other:
        log.append(
            [
                ItemUpdate(
                    event_id=str(number),
                    timestamp_ms=1,
                    item_id=f"i{number}",
                    columns={"title": f"T{number}"} if number % 2 else {},
                )
                for number in range(1, 11)
            ]
        )
        other.refresh()
        with EventLog.open(path) as third:
            for catalog in (other.catalog, third.catalog):
                assert catalog.digest() == log.catalog.digest()
                assert [catalog.row(f"i{number}") for number in range(1, 11)] == [*range(1, 11)]
                assert list(catalog.column("title")) == list(log.catalog.column("title"))
