"""JSON lines, plain or gzipped: one event object a line."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import msgspec
import polars as pl

from ouzel.data.aliases import default_event, describe, resolve
from ouzel.data.lines import open_text
from ouzel.data.raw import LINE, Raw
from ouzel.data.report import MAX_PROBLEMS, Problem

_CHUNK = 100_000
_SAMPLE = 1000
_NESTED = (list, dict, bool)
_decode = msgspec.json.Decoder(dict[str, Any]).decode


def read_jsonl(path: Path, columns: Mapping[str, str] | None = None) -> Raw:
    """Return the raw table of a file of JSON objects, one a line.

    Raises: ValueError if none of the first objects names a user and an item.

    >>> import tempfile
    >>> folder = tempfile.TemporaryDirectory()
    >>> path = Path(folder.name, "events.jsonl")
    >>> size = path.write_text('{"user_id": 7, "item_id": "a"}')
    >>> read_jsonl(path).table.collect().row(0, named=True)
    {'user_id': '7', 'item_id': 'a', 'line': 1}
    >>> folder.cleanup()
    """
    chosen = resolve(_names(path), columns)
    problems: list[Problem] = []
    broken = 0
    frames = [_frame([], chosen)]
    with open_text(path) as stream:
        numbered = enumerate(stream, 1)
        while chunk := list(islice(numbered, _CHUNK)):
            rows, faults = _rows(chunk, chosen.values())
            frames.append(_frame(rows, chosen))
            broken += len(faults)
            problems += faults[: MAX_PROBLEMS - len(problems)]
    return Raw(
        f"JSON lines {path.name} ({describe(chosen)})",
        pl.concat(frames).lazy(),
        chosen,
        default_event=default_event(chosen),
        problems=tuple(problems),
        num_broken=broken,
    )


def _names(path: Path) -> list[str]:
    with open_text(path) as stream:
        rows, _ = _rows(list(islice(enumerate(stream, 1), _SAMPLE)), ())
    if not rows:
        raise ValueError(f"{path} has no JSON object in its first lines: write one event a line")
    return list(dict.fromkeys(name for _, row in rows for name in row))


def _rows(
    lines: Sequence[tuple[int, str]], names: Collection[str]
) -> tuple[list[tuple[int, dict[str, Any]]], list[Problem]]:
    """Return (line number, object) pairs, and the lines that are none or nest in `names`."""
    rows, faults = [], []
    for number, line in lines:
        text = line.strip()
        if not text:
            continue
        try:
            row = _decode(text)
        except (msgspec.DecodeError, UnicodeEncodeError) as error:
            shown = text[:200].encode("utf-8", "replace").decode()
            remedy = f"write one JSON object a line ({error})"
            faults.append(Problem(number, "line", shown, "unparsable", remedy))
            continue
        nested = next((name for name in names if isinstance(row.get(name), _NESTED)), None)
        if nested is None:
            rows.append((number, row))
        else:
            remedy = "give a text or a number"
            faults.append(Problem(number, nested, str(row[nested]), "unparsable", remedy))
    return rows, faults


def _frame(rows: Sequence[tuple[int, dict[str, Any]]], columns: Mapping[str, str]) -> pl.DataFrame:
    cells = {
        canonical: [_cell(row.get(name)) for _, row in rows] for canonical, name in columns.items()
    }
    lines = pl.Series(LINE, [number for number, _ in rows], pl.UInt32)
    return pl.DataFrame(cells, schema=dict.fromkeys(columns, pl.String)).with_columns(lines)


def _cell(value: str | float | None) -> str | None:
    if value is None or isinstance(value, str):
        return value
    return str(int(value)) if float(value).is_integer() else str(value)
