"""Fields: the same id for the same value anywhere, 0 for what is not known, no two alike."""

from __future__ import annotations

import subprocess
import sys

import msgspec
import numpy as np
import pytest

from ouzel.features.fields import (
    HOUR_MS,
    TIME_FIELDS,
    WIDTH,
    Field,
    Schema,
    enumerated,
    event_ids,
    field_of,
    hashed,
    numeric,
    row_field,
    with_year,
)

GENRES = ["Drama|War", "War", "", "Comedy|War|Drama"]
SCHEMA = Schema(
    (
        row_field("user", "user", 4),
        *TIME_FIELDS,
        row_field("item", "item", 5),
        enumerated("genres", "item", GENRES),
        numeric("price", "item", ["1", "2", "3", "4"], quantiles=4),
        hashed("maker", "item", buckets=10),
    )
)
COLUMNS = {
    "item": ["1", "2", "3", "4"],
    "genres": GENRES,
    "price": ["1", "", "x", "4"],
    "maker": ["a", "b", "", "a"],
}


def test_fields_share_no_id_and_stay_within_the_range() -> None:
    ids = SCHEMA.encode("item", COLUMNS)
    widths = SCHEMA.widths("item")
    assert widths == (1, 3, 1, 1) and ids.shape == (4, 6)
    parts = np.split(ids, np.cumsum(widths)[:-1], axis=1)
    known = [set(part[part > 0].tolist()) for part in parts]
    assert all(known)
    assert sum(map(len, known)) == len(set().union(*known))
    users, events = (
        SCHEMA.encode("user", {"user": ["1", "3"]}),
        event_ids(SCHEMA, np.array([0, 30 * HOUR_MS])),
    )
    assert {*users.ravel().tolist(), *events.ravel().tolist()}.isdisjoint(set().union(*known))
    assert max(set().union(*known)) <= SCHEMA.num_ids


def test_what_is_not_known_is_0() -> None:
    later = {
        "item": ["9", "0"],
        "genres": ["Noir", "Noir|War"],
        "price": ["nan", "inf"],
        "maker": ["", ""],
    }
    ids = SCHEMA.encode("item", later)
    assert ids[0].tolist() == [0] * 6
    assert np.count_nonzero(ids[1]) == 1  # War
    assert SCHEMA.encode("item", {"title": ["Heat"]}).tolist() == [[0] * 6]


def test_the_same_value_has_the_same_id_in_any_order_and_any_process() -> None:
    ids = SCHEMA.encode("item", COLUMNS)
    backwards = {name: texts[::-1] for name, texts in COLUMNS.items()}
    np.testing.assert_array_equal(SCHEMA.encode("item", backwards), ids[::-1])
    program = "from ouzel.features.fields import hashed; print(hashed('m','item').ids(['b']))"
    told = {
        subprocess.run(
            [sys.executable, "-c", program],
            env={"PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert told == {f"{hashed('m', 'item').ids(['b'])}\n"}


def test_numbers_fall_into_quantiles_also_beyond_the_ends() -> None:
    field = numeric("price", "item", [str(n) for n in range(100)], quantiles=4)
    assert field.size == 4
    ids = field.ids(["-5", "10", "30", "60", "99", "1e9"])[:, 0]
    assert ids.tolist() == [1, 1, 2, 3, 4, 4]
    assert numeric("price", "item", ["x"]).ids(["3", "x"])[:, 0].tolist() == [1, 0]


def test_a_line_with_too_many_values_is_cut() -> None:
    many = "|".join(map(str, range(WIDTH + 5)))
    field = enumerated("tags", "item", [many, "3"])
    assert field.width == WIDTH and np.count_nonzero(field.ids([many])) == WIDTH


@pytest.mark.parametrize(
    ("texts", "kind"),
    [
        (["a", "b"] * 5, "enumerated"),
        ([str(n % 7) for n in range(50)], "enumerated"),
        ([str(n / 7) for n in range(99)], "numeric"),
        ([f"v{n % 11000}" for n in range(33000)], "hashed"),
        ([f"Film {n}" for n in range(9)], None),
        (["same"] * 9, None),
        (["", ""], None),
    ],
)
def test_a_column_becomes_the_field_that_fits(texts, kind) -> None:
    field = field_of("x", "item", texts)
    assert (field and field.kind) == kind
    if field is not None:
        assert (field.ids(texts) > 0).any(axis=1).all()


def test_a_schema_survives_json() -> None:
    text = msgspec.json.encode(SCHEMA.fields)
    again = Schema(msgspec.json.decode(text, type=tuple[Field, ...]))
    assert again == SCHEMA
    np.testing.assert_array_equal(again.encode("item", COLUMNS), SCHEMA.encode("item", COLUMNS))


def test_hours_and_days_are_those_of_the_clock() -> None:
    # Thursday 1 January 1970 is day 0; Friday 17:30 follows.
    hours, days = event_ids(SCHEMA, np.array([0, 41 * HOUR_MS + HOUR_MS // 2])).T
    assert (hours - hours[0]).tolist() == [0, 17] and (days - days[0]).tolist() == [0, 1]


def test_a_year_that_is_there_is_not_read_again() -> None:
    columns = {"title": ["Heat (1995)"], "year": ["1996"]}
    assert with_year(columns) == columns
    assert with_year({"title": ["Heat"]}) == {"title": ["Heat"]}


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ((row_field("item", "item", 3), row_field("item", "item", 3)), "twice"),
        ((row_field("user", "user", 3),), "no field is the item's"),
    ],
)
def test_an_impossible_schema_is_refused(fields, message) -> None:
    with pytest.raises(ValueError, match=message):
        Schema(fields)


def test_columns_of_different_lengths_are_refused() -> None:
    with pytest.raises(ValueError, match="lengths"):
        SCHEMA.encode("item", {"item": ["1"], "genres": []})
    with pytest.raises(ValueError, match="size 0"):
        row_field("item", "item", 1)
