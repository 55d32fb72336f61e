"""Masks of filters: as a look at every item gives them, whatever changes in between."""

from __future__ import annotations

import random
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from ouzel.events.availability import Availability
from ouzel.events.catalog import Catalog
from ouzel.ranking.conditions import holds, parse
from ouzel.ranking.filters import Filters

NUM_ROWS = 60
TEXTS = [
    "price < 50",
    'category in ["shoes"] and price < 50',
    'not category == "hats" or "new" in tags',
]


@pytest.fixture
def shop():
    catalog = Catalog(f"i{row}" for row in range(1, NUM_ROWS + 10))  # some came after the model
    rng = random.Random(1)
    for row in range(1, len(catalog)):
        change(catalog, row, rng)
    availability = Availability(catalog, num_rows=NUM_ROWS)
    return catalog, availability, Filters(catalog, availability, num_rows=NUM_ROWS)


def change(catalog, row, rng):
    columns = {
        "category": rng.choice(["shoes", "hats", ""]),
        "price": rng.choice(["10", "49.99", "50", "", "cheap"]),
        "tags": rng.choice(["new", "new|red", ""]),
        "available": rng.choice(["true", "false", ""]),
    }
    for name, text in columns.items():
        catalog.set_column(name, row, text)
    return columns


def expected(catalog, text):
    condition = parse(text)
    shown = [
        holds(condition, lambda name, row=row: catalog.column(name)[row])
        and catalog.column("available")[row] != "false"
        for row in range(1, NUM_ROWS)
    ]
    return ~np.array(shown)


def test_masks_follow_every_change(shop):
    catalog, availability, filters = shop
    rng = random.Random(2)
    for _ in range(100):
        text = rng.choice(TEXTS)
        np.testing.assert_array_equal(filters.hidden(text)[1:], expected(catalog, text))
        row = rng.randrange(1, len(catalog))
        availability.change(row, change(catalog, row, rng))
        filters.change(row)


def test_without_a_filter_only_availability_counts(shop):
    _, availability, filters = shop
    assert filters.hidden(None) is availability.hidden
    empty = Catalog(["a"])
    assert Filters(empty, Availability(empty, num_rows=2), num_rows=2).hidden(None) is None


def test_masks_that_nobody_asks_for_give_way(shop):
    catalog, availability, _ = shop
    filters = Filters(catalog, availability, num_rows=NUM_ROWS, max_bytes=2 * NUM_ROWS)
    first = filters.hidden(TEXTS[0])
    assert filters.hidden(TEXTS[0]) is first
    for text in TEXTS:
        filters.hidden(text)
    assert len(filters._masks) == 2
    again = filters.hidden(TEXTS[0])
    assert again is not first
    np.testing.assert_array_equal(again, first)


def test_a_field_that_no_item_has_is_named_with_the_nearest_that_one_has(shop):
    _, _, filters = shop
    for refusing in (filters.hidden, filters.make):
        with pytest.raises(ValueError, match="no item has a field 'prise': did you mean price"):
            refusing("prise < 5")
        with pytest.raises(ValueError, match="items have available, category, price, tags"):
            refusing("zzz < 5")


def test_what_changes_while_a_mask_is_made_counts(shop):
    catalog, availability, filters = shop
    rng = random.Random(3)
    for text in TEXTS * 5:
        mask = filters.make(text)
        for _ in range(5):
            row = rng.randrange(1, NUM_ROWS)
            availability.change(row, change(catalog, row, rng))
            filters.change(row)
        np.testing.assert_array_equal(filters.keep(text, mask)[1:], expected(catalog, text))


def test_after_many_changes_masks_are_made_anew(shop, monkeypatch):
    catalog, availability, filters = shop
    monkeypatch.setattr("ouzel.ranking.filters.MOST_BEHIND", 3)
    monkeypatch.setattr("ouzel.ranking.filters.MOST_CHANGES", 40)
    rng = random.Random(4)
    for round_number in range(30):
        text = rng.choice(TEXTS)
        under_way = filters.make(TEXTS[0])
        for _ in range(round_number % 7):
            row = rng.randrange(1, NUM_ROWS)
            availability.change(row, change(catalog, row, rng))
            filters.change(row)
        np.testing.assert_array_equal(filters.hidden(text)[1:], expected(catalog, text))
        np.testing.assert_array_equal(
            filters.keep(TEXTS[0], under_way)[1:], expected(catalog, TEXTS[0])
        )
    assert len(filters._changes) <= 40


def test_changes_are_counted_from_anew_while_a_mask_waits_to_be_made(shop, monkeypatch):
    catalog, availability, filters = shop
    monkeypatch.setattr("ouzel.ranking.filters.MOST_CHANGES", 5)
    rng = random.Random(5)

    def change_one():
        row = rng.randrange(1, NUM_ROWS)
        availability.change(row, change(catalog, row, rng))
        filters.change(row)

    for _ in range(4):
        change_one()
    check, begun = filters._check_fields, threading.Event()
    monkeypatch.setattr(filters, "_check_fields", lambda c: (check(c), begun.set()))
    with filters._lock, ThreadPoolExecutor(1) as pool:
        made = pool.submit(filters.make, TEXTS[1])
        assert begun.wait(60)
        time.sleep(0.05)  # now it waits for the lock, with the old list of changes
        for _ in range(4):
            change_one()
        assert len(filters._changes) < 4
        filters._lock.release()
        mask = made.result(60)
        filters._lock.acquire()
    np.testing.assert_array_equal(filters.keep(TEXTS[1], mask)[1:], expected(catalog, TEXTS[1]))
    for text in TEXTS:
        change_one()
        np.testing.assert_array_equal(filters.hidden(text)[1:], expected(catalog, text))


def test_texts_of_the_past_are_forgotten(shop):
    catalog, _, filters = shop
    for price in range(300):
        catalog.set_column("price", 1, str(price))
        filters.change(1)
        filters.make("price < 5")
    assert len(filters._texts["price"]._distinct) <= 2 * NUM_ROWS + 1


def test_a_field_of_long_texts_is_refused(shop, monkeypatch):
    _, _, filters = shop
    monkeypatch.setattr("ouzel.ranking.filters.MOST_TEXT_BYTES", 5)
    with pytest.raises(ValueError, match="'price' cannot be filtered by"):
        filters.hidden("price < 5")


def test_a_mask_that_is_asked_for_again_is_made_once(shop, monkeypatch):
    _, _, filters = shop
    filters.hidden(TEXTS[0])
    monkeypatch.setattr(filters, "make", None)
    filters.hidden(TEXTS[0])
