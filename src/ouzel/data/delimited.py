"""CSV and its kin, plain or gzipped: a header, one event a line."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Protocol

import polars as pl

from ouzel.data.aliases import default_event, describe, resolve
from ouzel.data.lines import first_line, open_text
from ouzel.data.raw import LINE, Raw, project
from ouzel.data.report import MAX_PROBLEMS, Problem

_CHUNK = 20_000
_BROKEN_UTF8 = re.compile("[\udc80-\udcff]")  # as `surrogateescape` keeps it
_SEPARATORS = ("\t", ",", ";", "|")


class _Reader(Protocol):
    """What `csv.reader` returns, which has no name to be typed by."""

    line_num: int

    def __iter__(self) -> Iterator[list[str]]: ...


def read_delimited(path: Path, columns: Mapping[str, str] | None = None) -> Raw:
    """Return the raw table of a file whose first line names the columns.

    The separator is the tab, comma, semicolon or bar that the header has most of.

    Raises: ValueError if the header names no user or item column.

    >>> import tempfile
    >>> folder = tempfile.TemporaryDirectory()
    >>> path = Path(folder.name, "events.csv")
    >>> size = path.write_text("userId,itemId\\nu,a\\n")
    >>> read_delimited(path).table.collect().rows()
    [(2, 'u', 'a')]
    >>> folder.cleanup()
    """
    header = first_line(path)
    separator = max(_SEPARATORS, key=header.count)
    names = next(csv.reader([header], delimiter=separator), [])
    chosen = resolve(names, columns)
    table = pl.scan_csv(path, separator=separator, infer_schema=False)
    raw = Raw(
        f"CSV {path.name} ({describe(chosen)})",
        project(table, chosen, first_line=2),
        chosen,
        default_event=default_event(chosen),
    )
    return replace(raw, careful=lambda: _carefully(path, raw, names, separator))


def _carefully(path: Path, raw: Raw, names: Sequence[str], separator: str) -> Raw:
    """Return the same table, with lines that have too many columns set aside."""
    problems: list[Problem] = []
    broken = 0
    schema = dict.fromkeys(raw.columns, pl.String) | {LINE: pl.UInt32}
    places = [names.index(name) for name in raw.columns.values()]
    frames = [pl.DataFrame(schema=schema)]
    for rows, faults in _chunks(path, len(names), separator, places):
        broken += len(faults)
        problems += faults[: MAX_PROBLEMS - len(problems)]
        frames.append(pl.DataFrame(list(zip(*rows, strict=True)), schema=schema, orient="col"))
    return replace(
        raw,
        table=pl.concat(frames).lazy(),
        problems=tuple(problems),
        num_broken=broken,
        careful=None,
    )


def _chunks(
    path: Path, width: int, separator: str, places: Sequence[int]
) -> Iterator[tuple[list[tuple[str | int, ...]], list[Problem]]]:
    """Yield rows, the cells at `places` and the line of each, and the lines that are none."""
    with open_text(path) as stream:
        reader = csv.reader(stream, delimiter=separator)
        next(reader)
        line = reader.line_num + 1
        rows: list[tuple[str | int, ...]] = []
        faults: list[Problem] = []
        for row in _records(reader):
            fault = _fault(line, row, width) if row else None
            if fault is not None:
                faults.append(fault)
            elif row:
                # The fast way takes what a short line lacks as empty, and so does this one.
                row.extend([""] * (width - len(row)))
                rows.append((*[row[place] for place in places], line))
            line = reader.line_num + 1
            if len(rows) + len(faults) >= _CHUNK:
                yield rows, faults
                rows, faults = [], []
        yield rows, faults


def _records(reader: _Reader) -> Iterator[list[str]]:
    try:
        yield from reader
    except csv.Error as error:
        remedy = "close the quote that is open there"
        raise ValueError(f"line {reader.line_num} cannot be split ({error}): {remedy}") from error


def _fault(line: int, row: Sequence[str], width: int) -> Problem | None:
    text = ",".join(row)
    if not text.isascii() and _BROKEN_UTF8.search(text):
        shown = text.encode("utf-8", "surrogateescape").decode("latin-1")
        return Problem(line, "line", shown, "unparsable", "save the file as UTF-8")
    if len(row) > width:
        remedy = f"give it {width} fields as the header has, not {len(row)}"
        return Problem(line, "line", text, "unparsable", remedy)
    return None
