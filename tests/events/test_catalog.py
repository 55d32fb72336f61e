"""Ids and rows: append-only, any Unicode, little memory."""

from __future__ import annotations

import subprocess
import sys
import threading

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ouzel.events import catalog as catalog_module
from ouzel.events.catalog import Catalog
from ouzel.events.text_column import TextColumn

IDS = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=20)


@given(st.lists(st.lists(IDS, max_size=30), max_size=5), st.lists(IDS, max_size=5))
def test_a_catalogue_agrees_with_a_dict(batches: list[list[str]], others: list[str]) -> None:
    model: dict[str, int] = {}
    catalog = Catalog()
    for batch in batches:
        for item_id in batch:
            model.setdefault(item_id, len(model) + 1)
        assert catalog.add(batch).tolist() == [model[item_id] for item_id in batch]
    assert len(catalog) == len(model) + 1
    assert catalog.ids(range(1, len(catalog))) == list(model)
    for item_id in [*model, *others]:
        assert catalog.row(item_id) == model.get(item_id, 0)
        assert (item_id in catalog) == (item_id in model)


def test_rows_survive_the_merge_of_recent_ids(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(catalog_module, "_MIN_RECENT", 3)
    ids = [f"item-{number}" for number in range(200)]
    catalog = Catalog(ids)
    assert catalog.rows(ids).tolist() == list(range(1, 201))
    assert catalog.rows(["item-200", "item-7"]).tolist() == [0, 8]


class SameHash(str):
    """Texts that all share one hash, as an attacker would like them to."""

    __slots__ = ()

    def __hash__(self) -> int:
        return 7


def test_ids_with_one_hash_are_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(catalog_module, "_MIN_RECENT", 0)
    ids = [SameHash(f"i{number}") for number in range(20)]
    catalog = Catalog(ids)
    assert catalog.rows(ids).tolist() == list(range(1, 21))
    assert catalog.row(SameHash("other")) == 0


def test_the_digest_is_of_the_prefix() -> None:
    catalog = Catalog(["a", "bc"])
    before = catalog.digest()
    catalog.add(["d"])
    catalog.set_column("title", 1, "A title is no part of it")
    assert catalog.digest(3) == before
    assert catalog.digest() != before
    # Lengths count: the same bytes cut elsewhere are another catalogue.
    assert Catalog(["ab", "c"]).digest() != before
    assert Catalog(["bc", "a"]).digest() != before
    # Recorded, because bundles name it.
    assert before == "b4e3f12ab86590f4888bb9fda85b361302a0ba8df8c99b685772bcf1bf09a726"


@pytest.mark.parametrize("row", [0, -1, 3])
def test_rows_that_are_no_items(row: int) -> None:
    catalog = Catalog(["a", "b"])
    with pytest.raises(ValueError, match="rows go from 1 to 2"):
        catalog.id(row)
    with pytest.raises(ValueError, match="rows go from 1 to 2"):
        catalog.set_column("title", row, "x")


def test_columns_stay_aligned_while_the_catalogue_grows() -> None:
    catalog = Catalog(["a"])
    catalog.set_column("title", 1, "Alien")
    catalog.add(["b", "c"])
    catalog.set_column("title", 3, "Casablanca")
    catalog.set_column("title", 1, "")
    assert list(catalog.column("title")) == ["", "", "", "Casablanca"]
    assert list(catalog.column("genres")) == ["", "", "", ""]
    assert catalog.column_names == ("title",)


@given(
    st.lists(IDS, min_size=1, max_size=8),
    st.lists(st.tuples(st.integers(0, 7), st.text(st.characters(exclude_categories=["Cs"])))),
)
def test_a_text_column_agrees_with_a_list(
    texts: list[str], replacements: list[tuple[int, str]]
) -> None:
    column = TextColumn(texts)
    model = list(texts)
    for position, text in replacements:
        column.replace(position % len(model), text)
        model[position % len(model)] = text
    assert list(column) == model
    assert column[::-1] == model[::-1]
    assert column[-1] == model[-1]


def test_replaced_texts_give_their_bytes_back() -> None:
    column = TextColumn(["x"] * 8)
    for turn in range(400):
        column.replace(turn % 8, f"{turn}" * 20_000)
    assert column[7] == "399" * 20_000
    kept = len(column._store[0])
    assert kept < 4 * sum(len(text) for text in column)


def test_texts_have_a_limit() -> None:
    with pytest.raises(ValueError, match="at most 1048575"):
        TextColumn(["x" * (1 << 20)])


def test_readers_never_lose_a_row_while_one_thread_adds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(catalog_module, "_MIN_RECENT", 16)
    catalog = Catalog(["item-0"])
    published = 0
    wrong: list[int] = []
    done = threading.Event()

    def look() -> None:
        while not done.is_set():
            number = published
            if catalog.row(f"item-{number}") != number + 1 or (
                catalog.id(number + 1) != f"item-{number}"
            ):
                wrong.append(number)

    reader = threading.Thread(target=look)
    reader.start()
    for number in range(1, 4000):
        catalog.add([f"item-{number}"])
        published = number
    done.set()
    reader.join()
    assert wrong == []


def test_a_million_items_stay_under_200_mb() -> None:
    program = """
import re
from ouzel.events.catalog import Catalog
def resident():
    status = open("/proc/self/status").read()
    return int(re.search(r"VmRSS:\\s+(\\d+)", status)[1]) / 1024
before = resident()
catalog = Catalog(f"item-{number:012d}" for number in range(1_000_000))
assert catalog.row("item-000000999999") == 1_000_000
print(resident() - before)
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert float(done.stdout) < 200


def test_rows_are_int32() -> None:
    catalog = Catalog(["a"])
    assert catalog.rows(["a"]).dtype == np.int32
    assert catalog.add([]).dtype == np.int32


def test_an_absent_column_costs_nothing_however_many_items_there_are(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    catalog = Catalog(["a", "b"])
    monkeypatch.setattr(catalog_module, "TextColumn", lambda _: pytest.fail("built"))
    genres = catalog.column("genres")
    assert (len(genres), genres[2], genres[-1], genres[1:]) == (3, "", "", ["", ""])
    with pytest.raises(IndexError):
        genres[3]
    assert list(genres) == [""] * 3


def test_ids_stay_right_when_more_are_asked_for_than_are_kept_decoded(monkeypatch):
    monkeypatch.setattr("ouzel.events.catalog._MOST_TEXTS", 3)
    catalog = Catalog([f"i{row}" for row in range(1, 11)])
    for _ in range(2):
        assert catalog.ids(range(1, 11)) == [f"i{row}" for row in range(1, 11)]
        assert len(catalog._texts) <= 3
    with pytest.raises(ValueError, match="is no item"):
        catalog.ids([0])
