"""The catalogue: item ids and the dense rows that stand for them, and texts aligned to rows.

Row 0 is padding. Rows are handed out in order, never reused and never changed, so the first n
rows of a catalogue are a catalogue, and a model trained on them stays valid while it grows.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sequence
from typing import overload

import numpy as np
from numpy.typing import NDArray

from ouzel.events.text_column import TextColumn

_MIN_RECENT = 4096
_MOST_TEXTS = 32_768  # ids kept decoded: a few MB; when full, it starts anew


class _Absent(Sequence[str]):
    """A column without any text: as many times '' as there are rows."""

    def __init__(self, length: int) -> None:
        self._rows = range(length)

    def __len__(self) -> int:
        return len(self._rows)

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> list[str]: ...
    def __getitem__(self, index: int | slice) -> str | list[str]:
        found = self._rows[index]
        return [""] * len(found) if isinstance(found, range) else ""


class Catalog:
    """Item ids <-> rows, with columns such as `title` and `genres`.

    Ids live in one byte buffer and are found through sorted 64-bit hashes, a tenth of the
    memory of a dict of strings; ids added lately wait in a small dict. One thread may add
    while others read.

    >>> catalog = Catalog(["heat", "alien"])
    >>> catalog.row("alien"), catalog.row("unknown"), catalog.id(1), len(catalog)
    (2, 0, 'heat', 3)
    """

    def __init__(self, ids: Iterable[str] = ()) -> None:
        self._ids = TextColumn([""])
        self._columns: dict[str, TextColumn] = {}
        self._sorted = (array("q"), array("i"))
        self._recent: dict[str, int] = {}
        self._texts: dict[int, str] = {}
        self.add(ids)

    def __len__(self) -> int:
        """Return the number of rows, padding included."""
        return len(self._ids)

    def __contains__(self, item_id: object) -> bool:
        return isinstance(item_id, str) and self.row(item_id) > 0

    def row(self, item_id: str) -> int:
        """Return the row of an item, 0 if it is unknown.

        >>> Catalog(["a"]).row("a")
        1
        """
        recent = self._recent.get(item_id)
        if recent is not None:
            return recent
        hashes, rows = self._sorted
        key = hash(item_id)
        position = bisect_left(hashes, key)
        # Two ids may share a hash, so the bytes decide.
        while position < len(hashes) and hashes[position] == key:
            row = rows[position]
            if self._ids[row] == item_id:
                return row
            position += 1
        return 0

    def rows(self, ids: Iterable[str]) -> NDArray[np.int32]:
        """Return the rows of many items as (n,) int32, 0 where unknown.

        >>> Catalog(["a", "b"]).rows(["b", "x"]).tolist()
        [2, 0]
        """
        return np.fromiter((self.row(item_id) for item_id in ids), np.int32)

    def id(self, row: int) -> str:
        """Return the id of a row.

        Raises: ValueError for padding and rows that were never handed out.

        >>> Catalog(["a"]).id(1)
        'a'
        """
        if not 0 < row < len(self._ids):
            raise ValueError(f"row {row} is no item: rows go from 1 to {len(self._ids) - 1}")
        return self._ids[int(row)]

    def ids(self, rows: Iterable[int]) -> list[str]:
        """Return the ids of many rows, see `id`.

        >>> Catalog(["a", "b"]).ids([2, 1])
        ['b', 'a']
        """
        known = self._texts
        found = []
        for row in rows:
            text = known.get(row)
            if text is None:
                text = self.id(int(row))
                if len(known) >= _MOST_TEXTS:
                    known.clear()
                known[row] = text
            found.append(text)
        return found

    def add(self, ids: Iterable[str]) -> NDArray[np.int32]:
        """Return the rows of `ids` as (n,) int32; the unknown ones get the next rows.

        >>> catalog = Catalog(["a"])
        >>> catalog.add(["b", "a", "b"]).tolist()
        [2, 1, 2]
        """
        rows = []
        for item_id in ids:
            row = self.row(item_id)
            if not row:
                row = len(self._ids)
                self._ids.append(item_id)
                # Whoever finds the id reads its columns.
                for column in self._columns.values():
                    column.resize(row + 1)
                self._recent[item_id] = row
                if len(self._recent) > max(_MIN_RECENT, row // 8):
                    self._merge()
            rows.append(row)
        return np.array(rows, np.int32)

    def load(self, ids: Sequence[str], columns: Sequence[Mapping[str, str]]) -> None:
        """Give the next rows to many `ids`, all unknown, and put in what is in their `columns`.

        >>> catalog = Catalog(["heat"])
        >>> catalog.load(["alien", "ran"], [{}, {"title": "Ran"}])
        >>> catalog.row("ran"), list(catalog.column("title"))
        (3, ['', '', '', 'Ran'])
        """
        first = len(self._ids)
        for name in dict.fromkeys(name for texts in columns for name in texts):
            column = self._columns.get(name)
            if column is None:
                column = TextColumn([""] * first)
            column.extend(texts.get(name, "") for texts in columns)
            self._columns[name] = column
        self._ids.extend(ids)
        # Whoever finds an id reads its columns: they are in place before it can be found.
        for column in self._columns.values():
            column.resize(len(self._ids))
        self._recent.update(zip(ids, range(first, len(self._ids)), strict=True))
        if len(self._recent) > max(_MIN_RECENT, len(self._ids) // 8):
            self._merge()

    def digest(self, num_rows: int | None = None) -> str:
        """Return the SHA-256 (hex) of the ids of the first `num_rows` rows (all by default).

        >>> Catalog(["a", "b"]).digest(2) == Catalog(["a"]).digest()
        True
        """
        count = len(self._ids) if num_rows is None else num_rows
        if not 1 <= count <= len(self._ids):
            raise ValueError(f"num_rows {num_rows} is not between 1 and {len(self._ids)}")
        return self._ids.digest(count)

    @property
    def column_names(self) -> tuple[str, ...]:
        """Return the names of the columns that hold any text, sorted."""
        return tuple(sorted(self._columns))

    def column(self, name: str) -> Sequence[str]:
        """Return a column as texts aligned to rows, '' where absent.

        >>> catalog = Catalog(["a", "b"])
        >>> catalog.set_column("title", 2, "Heat")
        >>> list(catalog.column("title"))
        ['', '', 'Heat']
        """
        column = self._columns.get(name)
        if column is None:
            return _Absent(len(self._ids))
        return column

    def set_column(self, name: str, row: int, text: str) -> None:
        """Put `text` into column `name` at `row`.

        Raises: ValueError if the row was never handed out.
        """
        self.id(row)
        column = self._columns.get(name)
        if column is None:
            column = self._columns[name] = TextColumn([""] * len(self._ids))
        column.replace(row, text)

    def _merge(self) -> None:
        """Move the recent ids into the sorted hashes."""
        hashes, rows = self._sorted
        fresh = np.fromiter((hash(item_id) for item_id in self._recent), np.int64)
        keys = np.concatenate([np.array(hashes, np.int64), fresh])
        known = np.fromiter(self._recent.values(), np.int32)
        targets = np.concatenate([np.array(rows, np.int32), known])
        order = np.argsort(keys, kind="stable")
        # Readers take the recent ids first, so this order of assignments hides no id.
        self._sorted = (
            array("q", keys[order].tobytes()),
            array("i", targets[order].tobytes()),
        )
        self._recent = {}
