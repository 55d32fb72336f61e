"""What a reader of one format hands on: a table as it is, and what its columns mean."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import polars as pl

from ouzel.data.report import Problem

LINE = "line"
"""The column of line numbers (uint32) that every raw table has."""


@dataclass(frozen=True)
class Raw:
    """A source before its values are checked.

    `table` has a column `line` and one for each canonical name in `columns` ({canonical name:
    name in the source}), of any type. `problems` are lines that could not even be split into
    columns, `num_broken` counts them. `value_range` bounds `value`, both ends included.
    `careful`, if any, reads the same source again in a slower way that survives broken lines
    and numbers all lines exactly.
    """

    recognised: str
    table: pl.LazyFrame
    columns: Mapping[str, str]
    default_event: str = "view"
    value_range: tuple[float, float] | None = None
    items: pl.DataFrame | None = None
    problems: tuple[Problem, ...] = ()
    num_broken: int = 0
    careful: Callable[[], Raw] | None = None


def project(table: pl.LazyFrame, columns: Mapping[str, str], *, first_line: int) -> pl.LazyFrame:
    """Return the columns of `table` under their canonical names, with line numbers added.

    >>> frame = pl.LazyFrame({"userId": ["u"], "movieId": ["m"], "tag": ["x"]})
    >>> columns = {"user_id": "userId", "item_id": "movieId"}
    >>> project(frame, columns, first_line=2).collect().row(0)
    (2, 'u', 'm')
    """
    chosen = [pl.col(name).alias(canonical) for canonical, name in columns.items()]
    return table.select(chosen).with_row_index(LINE, first_line)
