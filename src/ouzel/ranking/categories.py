"""The values that items have in a field of the catalogue: genres, a brand, a shop.

A text may hold several, which `|` separates, as in the filter language.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache

from ouzel.events.catalog import Catalog

MOST_TEXTS = 16_384
"""Distinct texts that are kept cut into values."""


class Categories:
    """The values of rows, by field.

    >>> catalog = Catalog(["heat"])
    >>> catalog.set_column("genres", 1, "Crime|Drama")
    >>> Categories(catalog).values("genres", [1, 0])
    [('Crime', 'Drama'), ()]
    """

    def __init__(self, catalog: Catalog) -> None:
        self._catalog = catalog

    def values(self, field: str, rows: Iterable[int]) -> list[tuple[str, ...]]:
        """Return the distinct values of each row, none where the field is empty."""
        texts = self._catalog.column(field)
        return [_parts(texts[row]) for row in rows]

    def check(self, fields: Iterable[str]) -> None:
        """Return nothing if items have all these fields.

        Raises:
            ValueError: no item has one of them.
        """
        known = self._catalog.column_names
        for field in fields:
            if field not in known:
                some = ", ".join(known[:10]) or "no fields yet, put some with them"
                raise ValueError(f"no item has a field {field[:64]!r}: items have {some}")


@lru_cache(maxsize=MOST_TEXTS)
def _parts(text: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys(part.strip() for part in text.split("|") if part.strip()))
