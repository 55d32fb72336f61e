"""Which rows the filters of requests hide: one mask for each that was asked lately.

Texts of a field become numbers of its distinct texts once, so that a condition looks at each
distinct text once, however many items share it. A mask is kept up to date item by item.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from difflib import get_close_matches

import numpy as np
from numpy.typing import NDArray

from ouzel.events.availability import Availability
from ouzel.events.catalog import Catalog
from ouzel.ranking import conditions
from ouzel.ranking.conditions import Condition, Test

MAX_BYTES = 64 << 20
"""Memory for masks; the one asked for longest ago gives way."""


class FieldTexts:
    """The texts of rows, as numbers (N,) of distinct texts.

    >>> texts = FieldTexts(["", "red", "blue", "red"], 4)
    >>> texts.where(lambda text: text == "red")
    array([False,  True, False,  True])
    """

    def __init__(self, texts: Sequence[str], num_rows: int) -> None:
        self.distinct: dict[str, int] = {}
        numbers = (self._number(texts[row]) for row in range(num_rows))
        self.numbers_N = np.fromiter(numbers, np.int32, num_rows)

    def change(self, row: int, text: str) -> None:
        """Give a row another text."""
        self.numbers_N[row] = self._number(text)

    def where(self, holds: Callable[[str], bool]) -> NDArray[np.bool_]:
        """Return for which rows (N,) the text passes a test."""
        passing = np.fromiter(map(holds, self.distinct), np.bool_, len(self.distinct))
        return passing[self.numbers_N]

    def _number(self, text: str) -> int:
        return self.distinct.setdefault(text, len(self.distinct))


class Filters:
    """The masks of filters over the rows below `num_rows`, what is not available hidden as well.

    >>> catalog = Catalog(["heat", "alien"])
    >>> catalog.set_column("year", 2, "1979")
    >>> filters = Filters(catalog, Availability(catalog, num_rows=3), num_rows=3)
    >>> filters.hidden("year < 1980")
    array([ True,  True, False])
    """

    def __init__(
        self,
        catalog: Catalog,
        availability: Availability,
        *,
        num_rows: int,
        max_bytes: int = MAX_BYTES,
    ) -> None:
        self._catalog = catalog
        self._availability = availability
        self._num_rows = num_rows
        self._most = max(1, max_bytes // max(1, num_rows))
        self._fields: dict[str, FieldTexts] = {}
        self.changes = 0
        self._masks: OrderedDict[str, tuple[Condition, NDArray[np.bool_]]] = OrderedDict()

    def hidden(self, text: str | None) -> NDArray[np.bool_] | None:
        """Return the mask (N,) of the rows that a filter hides; it changes as items do.

        Without a filter it is that of what is not available, None if all is.

        Raises:
            ValueError: the filter cannot be read, or names a field that no item has.
        """
        if text is None:
            return self._availability.hidden
        kept = self._masks.get(text)
        if kept is not None:
            self._masks.move_to_end(text)
            return kept[1]
        condition = conditions.parse(text)
        self._check_fields(condition)
        shown_N = conditions.combine(condition, self._where, np.invert)
        hidden_N: NDArray[np.bool_] = ~shown_N
        if self._availability.hidden is not None:
            hidden_N |= self._availability.hidden
        self._masks[text] = condition, hidden_N
        if len(self._masks) > self._most:
            self._masks.popitem(last=False)
        return hidden_N

    def unread(self, text: str) -> list[str]:
        """Return the fields of a filter that `hidden` would have to read first, at some cost.

        Raises:
            ValueError: as `hidden`.
        """
        if text in self._masks:
            return []
        condition = conditions.parse(text)
        self._check_fields(condition)
        return sorted(conditions.fields(condition) - set(self._fields))

    def read(self, name: str) -> FieldTexts:
        """Return the texts of a field, for `keep`; may run in another thread."""
        return FieldTexts(self._catalog.column(name), self._num_rows)

    def keep(self, name: str, texts: FieldTexts) -> None:
        """Take over the texts of a field that were read since the last change."""
        self._fields[name] = texts

    def change(self, row: int) -> None:
        """Let what the catalogue says of a row now take effect."""
        self.changes += 1
        if row >= self._num_rows:
            return
        for name, field in self._fields.items():
            field.change(row, self._catalog.column(name)[row])
        hidden_N = self._availability.hidden
        unavailable = hidden_N is not None and bool(hidden_N[row])
        for condition, mask_N in self._masks.values():
            shown = conditions.holds(condition, lambda name: self._catalog.column(name)[row])
            mask_N[row] = unavailable or not shown

    def _check_fields(self, condition: Condition) -> None:
        known = self._catalog.column_names
        for name in sorted(conditions.fields(condition) - set(known)):
            close = get_close_matches(name, known, n=1)
            hint = f"did you mean {close[0]}?" if close else f"items have {', '.join(known)}"
            raise ValueError(f"no item has a field {name!r}: {hint}")

    def _where(self, test: Test) -> NDArray[np.bool_]:
        if test.field not in self._fields:
            self.keep(test.field, self.read(test.field))
        return self._fields[test.field].where(test.holds)
