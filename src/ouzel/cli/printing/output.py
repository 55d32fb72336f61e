"""What commands print: aligned tables on stdout, JSON where asked, progress on stderr."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

import msgspec
import numpy as np
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

Rows = Sequence[Mapping[str, Any]]
Report = Callable[[int, int], None]
"""Told how much is done, and out of how much."""

_UNLIMITED = 100_000


def emit(
    data: Rows | Mapping[str, Any],
    json_path: str | None,
    *,
    title: str = "",
    shown: Rows | None = None,
) -> None:
    """Print rows or one mapping as a table, and write them as JSON where `json_path` says.

    `json_path` is None for no JSON, "-" for JSON on stdout instead of the table, else a file. A
    mapping with a list under "rows" prints its other fields first and then the rows. `shown` are
    the rows to print where `data` holds more than a person reads.

    >>> emit([{"item": "Alien", "score": 0.5}], "-")
    [
      {
        "item": "Alien",
        "score": 0.5
      }
    ]
    """
    if json_path is not None:
        text = to_json(data)
        if json_path == "-":
            sys.stdout.write(text)
            return
        Path(json_path).write_text(text, "utf-8")
    console = _console(sys.stdout)
    if title:
        console.print(Text(_printable(title), style="bold"))
    if shown is not None:
        data = shown
    if not isinstance(data, Mapping):
        _print_rows(console, data)
    elif isinstance(data.get("rows"), list):
        console.print(_pairs({name: data[name] for name in data if name != "rows"}))
        _print_rows(console, data["rows"])
    else:
        console.print(_pairs(data))


def to_json(data: object) -> str:
    """Return data as indented JSON with a line's end; NaN becomes null, numpy becomes plain.

    >>> to_json({"recall@10": np.float32(0.5), "ndcg@10": float("nan")})
    '{\\n  "recall@10": 0.5,\\n  "ndcg@10": null\\n}\\n'
    """
    return msgspec.json.format(msgspec.json.encode(data, enc_hook=_plain), indent=2).decode() + "\n"


@contextmanager
def progress(title: str) -> Iterator[Report]:
    """Yield a function to call with (done, total); it draws a bar on stderr.

    Where stderr is no terminal, it prints a line for each tenth.

    >>> with progress("Reading") as report:
    ...     report(5, 10)
    """
    if not sys.stderr.isatty():
        yield _lines(title, sys.stderr)
        return
    columns = ("{task.description}", BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=_console(sys.stderr)) as bar:
        task = bar.add_task(_printable(title), total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def _lines(title: str, stream: TextIO) -> Report:
    told = -1

    def report(done: int, total: int) -> None:
        nonlocal told
        tenth = 10 * done // max(1, total)
        if tenth > told:
            told = tenth
            stream.write(f"{title}: {done:,} of {total:,}\n")
        stream.flush()

    return report


def _console(stream: TextIO) -> Console:
    # A pipe has no width: a table cut to 80 columns would lose what the reader greps for.
    width = None if stream.isatty() else _UNLIMITED
    return Console(file=stream, width=width, markup=False, emoji=False, highlight=False)


def _print_rows(console: Console, rows: Rows) -> None:
    """Print rows as one table or, where that is too wide, as several under one another.

    Each of them begins with the columns of words that come first, so that a row is known again.
    """
    names = list(dict.fromkeys(name for row in rows for name in row))
    first = next((place for place, name in enumerate(names) if _numeric(rows, name)), len(names))
    label, part = names[:first], names[:first]
    unlimited = console.options.update_width(_UNLIMITED)
    for name in names[first:]:
        wider = [*part, name]
        size = console.measure(_table(rows, wider), options=unlimited).maximum
        if part != label and size > console.width:
            console.print(_table(rows, part))
            wider = [*label, name]
        part = wider
    console.print(_table(rows, part))


def _numeric(rows: Rows, name: str) -> bool:
    return any(_is_number(row.get(name)) for row in rows)


def _table(rows: Rows, names: Sequence[str]) -> Table:
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    for name in names:
        if _numeric(rows, name):
            table.add_column(Text(_printable(name)), justify="right", no_wrap=True)
        else:
            table.add_column(Text(_printable(name)), overflow="fold")
    for row in rows:
        table.add_row(*(Text(_cell(row.get(name))) for name in names))
    return table


def _pairs(fields: Mapping[str, Any]) -> Table:
    table = Table(box=None, show_header=False, pad_edge=False)
    for name, value in fields.items():
        table.add_row(Text(_printable(name), style="bold"), Text(_cell(value)))
    return table


def _cell(value: object) -> str:
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int | np.integer):
        return f"{value:,}"
    if isinstance(value, float | np.floating):
        return _decimal(float(value))
    if isinstance(value, list | tuple | dict):
        return _printable(msgspec.json.encode(value, enc_hook=_plain).decode())
    return _printable(str(value))


def _decimal(value: float) -> str:
    if math.isnan(value):
        return "-"
    return f"{value:.4f}" if abs(value) < 1000 else f"{value:,.1f}"


def _printable(text: str) -> str:
    # A title may hold escape sequences, which would drive the reader's terminal.
    return "".join(
        letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in text
    )


def _is_number(value: object) -> bool:
    return isinstance(value, int | float | np.number) and not isinstance(value, bool)


def _plain(value: object) -> object:
    if isinstance(value, np.generic | np.ndarray):
        return value.tolist()
    raise ValueError(f"{type(value).__name__} {value!r} has no form in JSON")
