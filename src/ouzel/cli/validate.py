"""`ouzel validate`: what a data file is, and every kind of row that could not be used."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from ouzel.cli.printing.output import emit

EXAMPLE = "ouzel validate events.csv --map user_id=visitor"


def command(
    path: Annotated[Path, typer.Argument(help="A file or folder of events in any known format.")],
    map_: Annotated[
        list[str] | None,
        typer.Option("--map", help="A column by another name, such as user_id=userID."),
    ] = None,
    limit: Annotated[
        int, typer.Option(min=1, max=100, help="How many problems to list, the first ones.")
    ] = 20,
    json: Annotated[
        str | None, typer.Option(help="Write JSON to this file, or to stdout with '-'.")
    ] = None,
) -> None:
    """Check a data file, and list line, column, value and remedy of what is wrong with it.

    The exit code is 1 if any row could not be used.
    """
    from ouzel.cli.column_map import column_map
    from ouzel.data.read import inspect

    report = inspect(path, columns=column_map(map_ or []))
    fields: dict[str, Any] = {
        "file": str(path),
        "recognised": report.recognised,
        "rows_read": report.rows_read,
        "rows_kept": report.rows_kept,
        "dropped": report.dropped,
    }
    problems = [
        {
            "line": problem.line,
            "column": problem.column,
            "value": problem.value,
            "reason": problem.reason,
            "remedy": problem.remedy,
        }
        for problem in report.problems[:limit]
    ]
    # An empty table would only raise questions; JSON keeps one shape.
    emit(fields | {"rows": problems} if problems or json is not None else fields, json)
    if report.dropped or not report.rows_kept:
        raise typer.Exit(1)
