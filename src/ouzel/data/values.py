"""How cells of any type become ids, numbers and milliseconds; what cannot becomes null."""

from __future__ import annotations

import polars as pl

_FIRST_MS = 100_000_000_000  # smaller numbers are seconds, which holds until the year 5138


def is_blank(name: str) -> pl.Expr:
    """Return whether the cell is null or empty.

    >>> pl.DataFrame({"a": ["", None, "x"]}).select(is_blank("a"))["a"].to_list()
    [True, True, False]
    """
    return pl.col(name).is_null() | (pl.col(name).cast(pl.String) == "")


def id_text(name: str, kind: pl.DataType) -> pl.Expr:
    """Return the cells as id texts.

    Raises: ValueError for a type that holds no ids.

    >>> pl.DataFrame({"a": [7.0, None]}).select(id_text("a", pl.Float64()))["a"].to_list()
    ['7', None]
    """
    if kind.is_float():
        # Integers that became floats because a row was missing: 12.0 means 12.
        column = pl.col(name).fill_nan(None)
        whole = column.cast(pl.Int64, strict=False)
        text = pl.when(whole == column).then(whole.cast(pl.String))
        return text.otherwise(column.cast(pl.String))
    if kind.is_nested() or kind == pl.Binary:
        raise ValueError(f"{name} has type {kind}, which is no id: map another column")
    return pl.col(name).cast(pl.String)


def number(name: str, kind: pl.DataType) -> pl.Expr:
    """Return the cells as float64.

    Raises: ValueError for a type that holds no numbers.

    >>> pl.DataFrame({"a": ["4.5", "x"]}).select(number("a", pl.String()))["a"].to_list()
    [4.5, None]
    """
    if kind.is_numeric() or kind in (pl.String, pl.Boolean, pl.Null):
        return pl.col(name).cast(pl.Float64, strict=False)
    raise ValueError(f"{name} has type {kind}, which is no number: map another column")


def milliseconds(name: str, kind: pl.DataType, *, any_format: bool) -> pl.Expr:
    """Return the cells as int64 UTC milliseconds: epoch s or ms, dates, and times.

    With `any_format`, texts may also be RFC 3339, with or without a zone (then UTC) or a time.

    Raises: ValueError for a type that holds no times.

    >>> frame = pl.DataFrame({"t": ["978300760", "978300760000", "2000-12-31T23:12:40+01:00"]})
    >>> frame.select(milliseconds("t", pl.String(), any_format=True))["t"].to_list()
    [978300760000, 978300760000, 978300760000]
    """
    column = pl.col(name)
    if kind == pl.Date:
        return column.cast(pl.Datetime("ms")).dt.epoch("ms")
    if kind.base_type() is pl.Datetime:
        return column.dt.epoch("ms")
    if not kind.is_numeric() and kind not in (pl.String, pl.Null):
        raise ValueError(f"{name} has type {kind}, which is no time: map another column")
    count = column.cast(pl.Float64, strict=False)
    scaled = pl.when(count.abs() < _FIRST_MS).then(count * 1000).otherwise(count)
    millis = scaled.round().cast(pl.Int64, strict=False)
    if any_format and kind == pl.String:
        # Only the texts that are no numbers are tried, for dates are slow to parse.
        return pl.coalesce(millis, *_dates(pl.when(millis.is_null()).then(column))).alias(name)
    return millis


def _dates(column: pl.Expr) -> list[pl.Expr]:
    text = column.str.strip_chars().str.replace(r"^(\d{4}-\d\d-\d\d) ", "${1}T")
    formats = ("%+", "%Y-%m-%dT%H:%M:%S%.f", "%Y-%m-%d")
    return [
        text.str.to_datetime(
            form, strict=False, time_unit="ms", time_zone="UTC" if form == "%+" else None
        ).dt.epoch("ms")
        for form in formats
    ]
