"""Columns of users, items and requests as fields: ids that a model looks vectors up by.

A field is enumerated (each value has an id), hashed (values share so many ids), numeric (an id for
each quantile of the training part) or a row of the log or the catalogue. The ids of all fields are
one range, so that a model needs one table. Id 0 is what is not known: a value that was not there in
training, and an absent one. It has no vector.

References:
    Weinberger et al., "Feature Hashing for Large Scale Multitask Learning", ICML 2009. Gorishniy et
    al., "On Embeddings for Numerical Features in Tabular Deep Learning", NeurIPS 2022, for
    quantiles.

Shape legend: n = lines of a table, S = places of a side, the widths of its fields added up.
"""

from __future__ import annotations

import re
import zlib
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Side = Literal["user", "event", "item"]
Kind = Literal["row", "enumerated", "hashed", "numeric"]

SEPARATOR = "|"
"""Between the values of a field that has several, such as genres."""

QUANTILES = 32
MOST_VALUES = 10_000
"""A column with more values than this is hashed."""

BUCKETS = 1 << 14
WIDTH = 8
"""At most so many values of a line are read."""

MOST_SINGLE = 0.75
"""A column with more values than this share of its lines names its lines, as titles do."""

NUMERIC_VALUES = 64
"""A column of numbers with more values than this is cut into quantiles."""


@dataclass(frozen=True, kw_only=True)
class Field:
    """One column of a side and how its values become the ids 1 to `size`.

    `values` are those of an enumerated field, in the order of their ids; `bounds` what divides the
    quantiles of a numeric one. A line has at most `width` values.
    """

    name: str
    side: Side
    kind: Kind
    size: int
    width: int = 1
    values: tuple[str, ...] = ()
    bounds: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        if self.size < 1 or self.width < 1:
            raise ValueError(
                f"field {self.name!r} has size {self.size} and width {self.width}: give 1 or more"
            )

    def ids(self, texts: Sequence[str]) -> NDArray[np.int32]:
        """Return the ids (n, width) of a column of texts, 0 where unknown or absent.

        >>> field = enumerated("genres", "item", ["Drama|War", "War"])
        >>> field.ids(["War", "Noir|Drama", ""]).tolist()
        [[1, 0], [0, 2], [0, 0]]
        """
        found = np.zeros((len(texts), self.width), np.int32)
        if self.kind == "numeric":
            found[:, 0] = self._quantiles(texts)
            return found
        known = {value: place for place, value in enumerate(self.values, 1)}
        made: dict[str, list[int]] = {}
        for line, text in enumerate(texts):
            if not text:
                continue
            if text not in made:
                parts = text.split(SEPARATOR)[: self.width] if self.width > 1 else [text]
                made[text] = [self._id(part, known) for part in parts]
            found[line, : len(made[text])] = made[text]
        return found

    def _id(self, value: str, known: Mapping[str, int]) -> int:
        if self.kind == "hashed":
            return 1 + zlib.crc32(value.encode()) % self.size
        return known.get(value, 0)

    def _quantiles(self, texts: Sequence[str]) -> NDArray[np.int64]:
        numbers = _numbers(texts)
        places = 1 + np.searchsorted(np.array(self.bounds), numbers, side="right")
        return np.where(np.isfinite(numbers), places, 0)


HOUR_MS = 3_600_000

TIME_FIELDS = (
    Field(name="hour", side="event", kind="row", size=24),
    Field(name="weekday", side="event", kind="row", size=7),
)
"""When a request comes, in UTC."""

_YEAR = re.compile(r"\((\d{4})\)\s*$")


@dataclass(frozen=True)
class Schema:
    """The fields of all sides, in the order of their places.

    Raises:
        ValueError: two fields of a side have one name, or the item has none.

    >>> schema = Schema((row_field("item", "item", 3), row_field("user", "user", 5)))
    >>> schema.num_ids, schema.encode("user", {"user": ["2", "9", ""]}).tolist()
    (6, [[4], [0], [0]])
    """

    fields: tuple[Field, ...]

    def __post_init__(self) -> None:
        names = Counter((field.side, field.name) for field in self.fields)
        twice = [name for (_, name), count in names.items() if count > 1]
        if twice:
            raise ValueError(f"field {twice[0]!r} is there twice: give each a name of its own")
        if not self.of("item"):
            raise ValueError("no field is the item's: give at least its row")

    @property
    def num_ids(self) -> int:
        """Return how many ids there are, without 0."""
        return sum(field.size for field in self.fields)

    def without(self, names: Collection[str]) -> Schema:
        """Return the schema less the fields of some names.

        Raises:
            ValueError: there is no such field.
        """
        known = [field.name for field in self.fields]
        for name in names:
            if name not in known:
                raise ValueError(f"there is no field {name!r}: there are {', '.join(known)}")
        return Schema(tuple(field for field in self.fields if field.name not in names))

    def of(self, *sides: Side) -> tuple[Field, ...]:
        """Return the fields of some sides."""
        return tuple(field for field in self.fields if field.side in sides)

    def widths(self, *sides: Side) -> tuple[int, ...]:
        """Return how many places each field of some sides has."""
        return tuple(field.width for field in self.of(*sides))

    def encode(self, side: Side, columns: Mapping[str, Sequence[str]]) -> NDArray[np.int32]:
        """Return the ids (n, S) of one side's columns; a field without a column is unknown.

        Raises:
            ValueError: no column is given, or they differ in length.
        """
        lengths = {len(column) for column in columns.values()}
        if len(lengths) != 1:
            raise ValueError(f"columns of the {side} have lengths {sorted(lengths)}: give one")
        parts = []
        offset, (count,) = 0, lengths
        for field in self.fields:
            if field.side == side:
                column = columns.get(field.name, [""] * count)
                ids = _rows(field, column) if field.kind == "row" else field.ids(column)
                parts.append(np.where(ids > 0, ids + offset, 0).astype(np.int32))
            offset += field.size
        return np.concatenate(parts, axis=1) if parts else np.zeros((count, 0), np.int32)


def row_field(name: str, side: Side, num_rows: int) -> Field:
    """Return the field of a row itself; `num_rows` counts row 0, which is nobody.

    >>> row_field("item", "item", 4).size
    3
    """
    return Field(name=name, side=side, kind="row", size=num_rows - 1)


def enumerated(name: str, side: Side, texts: Iterable[str], *, least: int = 1) -> Field:
    """Return a field of the values there are, the most frequent first; rarer ones are unknown.

    >>> enumerated("zip", "user", ["1", "2", "2"], least=2).values
    ('2',)
    """
    lists = Counter(text for text in texts if text)
    width = min(WIDTH, max((1 + text.count(SEPARATOR) for text in lists), default=1))
    counts: Counter[str] = Counter()
    for text, count in lists.items():
        counts.update(dict.fromkeys(text.split(SEPARATOR), count) if width > 1 else {text: count})
    ordered = sorted(counts, key=lambda value: (-counts[value], value))
    values = tuple(value for value in ordered if counts[value] >= least) or ("",)
    return Field(
        name=name, side=side, kind="enumerated", size=len(values), width=width, values=values
    )


def hashed(name: str, side: Side, *, buckets: int = BUCKETS, width: int = 1) -> Field:
    """Return a field whose values share `buckets` ids; the same value has the same id anywhere.

    >>> field = hashed("tag", "item", buckets=100)
    >>> field.ids(["a", "a", ""])[:, 0].tolist()
    [8, 8, 0]
    """
    return Field(name=name, side=side, kind="hashed", size=buckets, width=width)


def numeric(name: str, side: Side, texts: Iterable[str], *, quantiles: int = QUANTILES) -> Field:
    """Return a field with an id for each quantile of the numbers there are.

    >>> field = numeric("price", "item", ["1", "2", "3", "4"], quantiles=2)
    >>> field.ids(["0.5", "9", "cheap"])[:, 0].tolist()
    [1, 2, 0]
    """
    numbers = _numbers(list(texts))
    numbers = numbers[np.isfinite(numbers)]
    cuts = np.linspace(0, 1, quantiles + 1)[1:-1]
    bounds = tuple(np.unique(np.quantile(numbers, cuts)).tolist()) if len(numbers) else ()
    return Field(name=name, side=side, kind="numeric", size=len(bounds) + 1, bounds=bounds)


def event_ids(schema: Schema, times_ms_E: NDArray[np.integer]) -> NDArray[np.int32]:
    """Return the ids (E, S) of the fields of requests at given times (ms, UTC).

    >>> schema = Schema((*TIME_FIELDS, row_field("item", "item", 2)))
    >>> event_ids(schema, np.array([0, 2 * HOUR_MS])).tolist()
    [[1, 25], [3, 25]]
    """
    times_E = np.asarray(times_ms_E, np.int64)
    values = {"hour": times_E // HOUR_MS % 24, "weekday": times_E // (24 * HOUR_MS) % 7}
    parts = [np.zeros((len(times_E), 0), np.int32)]
    offset = 1
    for field in schema.fields:
        if field.side == "event":
            parts.append((offset + values[field.name]).astype(np.int32)[:, None])
        offset += field.size
    return np.concatenate(parts, axis=1)


def with_year(columns: Mapping[str, Sequence[str]]) -> dict[str, Sequence[str]]:
    """Return columns of items with the year that ends their titles, as in "Heat (1995)".

    >>> with_year({"title": ["Heat (1995)", "Ran"]})["year"]
    ['1995', '']
    """
    titles = [_YEAR.search(title) for title in columns.get("title", ())]
    if "year" in columns or not any(titles):
        return dict(columns)
    return {**columns, "year": [found[1] if found else "" for found in titles]}


def field_of(name: str, side: Side, texts: Sequence[str]) -> Field | None:
    """Return the field that fits a column, None for one that says nothing that repeats.

    >>> field_of("price", "item", [str(n / 3) for n in range(99)]).kind
    'numeric'
    >>> field_of("title", "item", [f"Film {n}" for n in range(99)]) is None
    True
    """
    given = [text for text in texts if text]
    distinct = set(given)
    if not distinct:
        return None
    if len(distinct) > NUMERIC_VALUES and np.isfinite(_numbers(list(distinct))).all():
        return numeric(name, side, given)
    field = enumerated(name, side, given)
    if field.size == 1 or field.size > MOST_SINGLE * len(given) * field.width:
        return None
    return field if field.size <= MOST_VALUES else hashed(name, side, width=field.width)


def _rows(field: Field, column: Sequence[str]) -> NDArray[np.int32]:
    rows = np.array([int(text or 0) for text in column], np.int64).reshape(-1, 1)
    return np.where((rows > 0) & (rows <= field.size), rows, 0).astype(np.int32)


def _numbers(texts: Sequence[str]) -> NDArray[np.float64]:
    """Return the numbers (n,) that texts are, NaN where they are none."""
    return np.array([_number(text) for text in texts], np.float64)


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return float("nan")
