"""CSV and its kin, plain or gzipped: a header, one event a line."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import polars as pl

from ouzel.data.aliases import default_event, describe, resolve
from ouzel.data.lines import first_line, open_text
from ouzel.data.raw import LINE, Raw, project
from ouzel.data.report import MAX_PROBLEMS, Problem

_CHUNK = 100_000
_SEPARATORS = ("\t", ",", ";", "|")


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
    """Return the same table, with lines that have another number of columns set aside."""
    problems: list[Problem] = []
    broken = 0
    frames = []
    for rows, faults in _chunks(path, len(names), separator):
        broken += len(faults)
        problems += faults[: MAX_PROBLEMS - len(problems)]
        lines, cells = zip(*rows, strict=True) if rows else ((), ())
        table = pl.DataFrame(
            {
                canonical: [row[names.index(name)] for row in cells]
                for canonical, name in raw.columns.items()
            },
            schema=dict.fromkeys(raw.columns, pl.String),
        )
        frames.append(table.with_columns(pl.Series(LINE, lines, pl.UInt32)))
    return replace(
        raw,
        table=pl.concat(frames).lazy(),
        problems=tuple(problems),
        num_broken=broken,
        careful=None,
    )


def _chunks(
    path: Path, width: int, separator: str
) -> Iterator[tuple[list[tuple[int, list[str]]], list[Problem]]]:
    with open_text(path) as stream:
        reader = csv.reader(stream, delimiter=separator)
        next(reader)
        line = reader.line_num + 1
        rows: list[tuple[int, list[str]]] = []
        faults: list[Problem] = []
        for row in reader:
            fault = _fault(line, row, width)
            if fault is not None:
                faults.append(fault)
            elif row:
                rows.append((line, row))
            line = reader.line_num + 1
            if len(rows) >= _CHUNK:
                yield rows, faults
                rows, faults = [], []
        yield rows, faults


def _fault(line: int, row: Sequence[str], width: int) -> Problem | None:
    text = ",".join(row)
    if any("\udc80" <= letter <= "\udcff" for letter in text):
        shown = text.encode("utf-8", "surrogateescape").decode("latin-1")
        return Problem(line, "line", shown, "unparsable", "save the file as UTF-8")
    if row and len(row) != width:
        remedy = f"give it {width} fields as the header has, not {len(row)}"
        return Problem(line, "line", text, "unparsable", remedy)
    return None
