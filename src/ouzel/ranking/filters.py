"""Which rows the filters of requests hide: one mask for each that was asked lately.

Texts of a field become numbers of its distinct texts once, so that a comparison looks at each
distinct text, however many items share it. To make a mask may take longer than an answer may, so it
can be made in another thread; to bring one up to date takes as many looks as items have changed.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from difflib import get_close_matches

import numpy as np
from numpy.typing import NDArray

from ouzel.events.availability import COLUMN, Availability, is_hiding
from ouzel.events.catalog import Catalog
from ouzel.ranking import conditions
from ouzel.ranking.conditions import Comparison, Condition

MAX_BYTES = 64 << 20
"""Memory for masks; the one asked for longest ago gives way."""

MOST_MASKS = 256
"""Most masks, however small."""

MOST_FIELDS = 16
"""Most fields whose texts are kept; the one asked for longest ago gives way."""

MOST_TEXT_BYTES = 32 << 20
"""A field whose distinct texts are longer than this in all is none to filter by."""

MOST_BEHIND = 256
"""Changed items that are caught up with one by one; with more, a mask is made anew."""

MOST_CHANGES = 100_000
"""Changes that are remembered before all masks are made anew."""

_MOST_NAMES = 10


@dataclass
class Mask:
    """A mask (N,) of hidden rows, as the catalogue was after the first `seen` of `changes`."""

    condition: Condition
    hidden_N: NDArray[np.bool_]
    changes: list[int]
    seen: int


class FieldTexts:
    """The texts of rows, as numbers (N,) of distinct texts, after the first `seen` of `changes`.

    >>> texts = FieldTexts(["", "red", "blue", "red"], 4, changes=[], seen=0)
    >>> texts.where(Comparison("colour", lambda text: text == "red"))
    array([False,  True, False,  True])
    """

    def __init__(
        self, texts: Sequence[str], num_rows: int, *, changes: list[int], seen: int
    ) -> None:
        """Raises: ValueError if the distinct texts are more than `MOST_TEXT_BYTES`."""
        self.changes = changes
        self.seen = seen
        self._distinct: dict[str, int] = {}
        self._bytes = 0
        numbers = (self._number(texts[row]) for row in range(num_rows))
        self._numbers_N = np.fromiter(numbers, np.int32, num_rows)

    @property
    def worn(self) -> bool:
        """Return whether most of the texts are of the past."""
        return len(self._distinct) > 2 * len(self._numbers_N)

    def change(self, row: int, text: str) -> None:
        """Give a row another text."""
        self._numbers_N[row] = self._number(text)

    def where(self, comparison: Comparison) -> NDArray[np.bool_]:
        """Return for which rows (N,) a comparison holds."""
        if comparison.of_numbers is not None:
            values = (conditions.number(text) for text in self._distinct)
            passing = comparison.of_numbers(np.fromiter(values, np.float64, len(self._distinct)))
        else:
            holding = map(comparison.holds, self._distinct)
            passing = np.fromiter(holding, np.bool_, len(self._distinct))
        return passing[self._numbers_N]

    def _number(self, text: str) -> int:
        number = self._distinct.setdefault(text, len(self._distinct))
        if number == len(self._distinct) - 1:
            self._bytes += len(text)
            if self._bytes > MOST_TEXT_BYTES:
                raise ValueError("its texts are too many and too long: filter by another field")
        return number


class Filters:
    """The masks of filters over the rows below `num_rows`, what is not available hidden as well.

    All but `make` is for one thread.

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
        self._most = max(1, min(MOST_MASKS, max_bytes // max(1, num_rows)))
        self._masks: OrderedDict[str, Mask] = OrderedDict()
        self._changes: list[int] = []
        # The texts belong to whoever has the lock.
        self._lock = threading.Lock()
        self._texts: OrderedDict[str, FieldTexts] = OrderedDict()

    def hidden(self, text: str | None) -> NDArray[np.bool_] | None:
        """Return the mask (N,) of the rows that a filter hides, made now if need be.

        Without a filter it is that of what is not available, None if all is.

        Raises:
            ValueError: the filter cannot be read, or names a field that no item has.
        """
        if text is None:
            return self._availability.hidden
        kept = self.kept(text)
        return kept if kept is not None else self.keep(text, self.make(text))

    def shown(self, text: str | None, rows_K: NDArray[np.int32]) -> NDArray[np.int32]:
        """Return the rows (K,) with 0 for those that no mask covers and a filter does not show.

        Masks are as long as the model's table; the items that came after it are looked at here.

        Raises:
            ValueError: as `hidden`.
        """
        beyond = np.flatnonzero(rows_K >= self._num_rows)
        if not len(beyond):
            return rows_K
        condition = None if text is None else conditions.parse(text)
        available = self._catalog.column(COLUMN)
        found_K = rows_K.copy()
        for place in beyond:
            row = int(rows_K[place])
            gone = condition is not None and not self._shown(condition, row)
            if gone or is_hiding(available[row]):
                found_K[place] = 0
        return found_K

    def kept(self, text: str) -> NDArray[np.bool_] | None:
        """Return the mask of a filter that was asked for lately, up to date; None: make it."""
        mask = self._masks.get(text)
        if mask is None or len(self._changes) - mask.seen > MOST_BEHIND:
            return None
        self._masks.move_to_end(text)
        self._catch_up(mask)
        return mask.hidden_N

    def make(self, text: str) -> Mask:
        """Return the mask of a filter, for `keep`; may run in another thread.

        Raises:
            ValueError: as `hidden`.
        """
        condition = conditions.parse(text)
        self._check_fields(condition)
        changes = self._changes
        with self._lock:
            seen = len(changes)
            shown_N = conditions.combine(
                condition, lambda one: self._where(one, changes, seen), np.invert
            )
        hidden_N: NDArray[np.bool_] = ~shown_N
        if self._availability.hidden is not None:
            hidden_N |= self._availability.hidden
        return Mask(condition, hidden_N, changes, seen)

    def keep(self, text: str, mask: Mask) -> NDArray[np.bool_]:
        """Return the mask (N,) that was made, now up to date and kept."""
        if mask.changes is not self._changes:
            # Whatever changed since is forgotten by now.
            mask = self.make(text)
        self._catch_up(mask)
        self._masks[text] = mask
        if len(self._masks) > self._most:
            self._masks.popitem(last=False)
        return mask.hidden_N

    def change(self, row: int) -> None:
        """Note that the catalogue, or what is available, says something else of a row now."""
        if row >= self._num_rows:
            return
        self._changes.append(row)
        if len(self._changes) > MOST_CHANGES:
            # Texts and masks under way follow the old list, and are made anew.
            self._changes = []
            self._masks.clear()

    def _catch_up(self, mask: Mask) -> None:
        hidden_N = self._availability.hidden
        for row in set(self._changes[mask.seen :]):
            unavailable = hidden_N is not None and bool(hidden_N[row])
            mask.hidden_N[row] = unavailable or not self._shown(mask.condition, row)
        mask.seen = len(self._changes)

    def _shown(self, condition: Condition, row: int) -> bool:
        return conditions.holds(condition, lambda name: self._catalog.column(name)[row])

    def _check_fields(self, condition: Condition) -> None:
        known = self._catalog.column_names
        for name in sorted(conditions.fields(condition) - set(known)):
            close = get_close_matches(name, known, n=1)
            some = ", ".join(known[:_MOST_NAMES])
            told = f"items have {some}" if some else "items have no fields yet, put some with them"
            hint = f"did you mean {close[0]}?" if close else told
            raise ValueError(f"no item has a field {name[:64]!r}: {hint}")

    def _where(self, comparison: Comparison, changes: list[int], seen: int) -> NDArray[np.bool_]:
        name = comparison.field
        texts = self._texts.get(name)
        column = self._catalog.column(name)
        try:
            if (
                texts is None
                or texts.changes is not changes
                or texts.worn
                or seen - texts.seen > self._num_rows // 8
            ):
                texts = FieldTexts(column, self._num_rows, changes=changes, seen=seen)
                self._texts[name] = texts
            for row in set(changes[texts.seen : seen]):
                texts.change(row, column[row])
        except ValueError as error:
            self._texts.pop(name, None)
            raise ValueError(f"the field {name!r} cannot be filtered by: {error}") from None
        texts.seen = seen
        self._texts.move_to_end(name)
        if len(self._texts) > MOST_FIELDS:
            self._texts.popitem(last=False)
        return texts.where(comparison)
