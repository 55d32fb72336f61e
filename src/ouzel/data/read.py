"""One door to all formats: a path or a table in, a checked dataset out."""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path

import polars as pl

from ouzel.data.aliases import CANONICAL, default_event, describe, resolve
from ouzel.data.canonical import canonical
from ouzel.data.dataset import Dataset
from ouzel.data.lines import has_plain_lines
from ouzel.data.raw import Raw, project
from ouzel.data.recognise import raw_of, source_files
from ouzel.data.report import ReadReport

_BLOCK = 1 << 20
_SLICE = 100_000


def read(
    path: Path | str, *, columns: Mapping[str, str] | None = None, strict: bool = False
) -> Dataset:
    """Return the events of a file or folder in any known format.

    `columns` maps canonical names to the source's own, for names that no alias covers. Rows
    that cannot be used are counted in the report; with `strict` there may be none.

    Raises: ValueError if the path cannot be read, no event is left, or `strict` and some row
    had to be dropped.

    >>> from ouzel.data.samples import movietweetings
    >>> print(read(movietweetings()).report)
    MovieTweetings ratings.dat.gz: kept 100,000 of 100,000 rows
    """
    files = source_files(Path(path))
    frame, report, items = _parse_files(files, columns)
    _refuse(report, strict)
    return Dataset(frame, items, report, _digest(files, columns or {}))


def inspect(path: Path | str, *, columns: Mapping[str, str] | None = None) -> ReadReport:
    """Return what `read` would find in a path, also if no event of it can be used.

    Raises: ValueError if the path cannot be read at all.

    >>> from ouzel.data.samples import movietweetings
    >>> inspect(movietweetings()).dropped
    {}
    """
    return _parse_files(source_files(Path(path)), columns)[1]


def from_arrow(
    table: object, *, columns: Mapping[str, str] | None = None, strict: bool = False
) -> Dataset:
    """Return the events of any table with the Arrow C stream: pandas, polars, pyarrow, DuckDB.

    See `read`, which this is for tables in memory.

    Raises: ValueError as `read` does, or if `table` is not such a table.

    >>> table = pl.DataFrame({"userId": ["u", "u"], "movieId": [7, None], "rating": [4.5, 3]})
    >>> dataset = from_arrow(table)
    >>> dataset.frame.select("user_id", "item_id", "event", "value").rows()
    [('u', '7', 'rate', 4.5)]
    >>> dataset.report.dropped
    {'missing': 1}
    """
    if not hasattr(table, "__arrow_c_stream__"):
        raise ValueError(
            f"{type(table).__name__} is no Arrow table: give a pandas, polars, pyarrow or DuckDB"
            " table"
        )
    source = pl.DataFrame(table)
    chosen = resolve(source.columns, columns)
    raw = Raw(
        f"{type(table).__name__} ({describe(chosen)})",
        project(source.lazy(), chosen, first_line=1),
        chosen,
        default_event=default_event(chosen),
    )
    frame, report = canonical(raw)
    _refuse(report, strict)
    return Dataset(frame, None, report, _frame_digest(frame))


def _parse_files(
    files: list[Path], columns: Mapping[str, str] | None
) -> tuple[pl.DataFrame, ReadReport, pl.DataFrame | None]:
    try:
        raw = raw_of(files, columns)
        frame, report = _parse(raw, files[0])
    except (pl.exceptions.PolarsError, EOFError, OSError, zlib.error) as error:
        raise ValueError(
            f"{files[0]} cannot be read ({error}): check that the file is whole"
        ) from error
    return frame, report, raw.items


def _parse(raw: Raw, path: Path) -> tuple[pl.DataFrame, ReadReport]:
    try:
        frame, report = canonical(raw)
    except pl.exceptions.ComputeError:
        if raw.careful is None:
            raise
        return canonical(raw.careful())
    # The fast way cannot tell blank lines, nor lines broken inside quotes.
    if report.dropped and raw.careful and not has_plain_lines(path, report.rows_read + 1):
        return canonical(raw.careful())
    return frame, report


def _refuse(report: ReadReport, strict: bool) -> None:
    if strict and report.dropped:
        raise ValueError(f"{report}: first, {report.problems[0]}")
    if not report.rows_kept:
        first = f": first, {report.problems[0]}" if report.problems else ""
        raise ValueError(f"no event is left. {report}{first}")


def _digest(files: Sequence[Path], columns: Mapping[str, str]) -> str:
    # The mapping belongs to it: the same bytes mapped otherwise are other events.
    sha = hashlib.sha256(repr(sorted(columns.items())).encode() if columns else b"")
    for file in files:
        with file.open("rb") as stream:
            while block := stream.read(_BLOCK):
                sha.update(block)
    return sha.hexdigest()


def _frame_digest(frame: pl.DataFrame) -> str:
    sha = hashlib.sha256()
    for part in frame.iter_slices(_SLICE):
        for name in CANONICAL[:3]:
            # Ids hold no control characters, so these bytes mean one table only.
            sha.update("\n".join(part[name].to_list()).encode())
        sha.update(part["timestamp"].to_numpy().tobytes())
        sha.update(part["value"].fill_null(float("nan")).to_numpy().tobytes())
    return sha.hexdigest()
