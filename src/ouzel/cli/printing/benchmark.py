"""How a benchmark tells what it does and what came of it."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import Any

import typer

from ouzel.cli import machine
from ouzel.cli.printing.output import emit


def emit_rows(
    rows: Sequence[Mapping[str, Any]],
    topic: str,
    *,
    shown: Sequence[str],
    seed: int,
    json: str | None,
) -> None:
    """Print the columns `shown` that rows have, and write a result file if `json` names one.

    >>> emit_rows([], "states", shown=(), seed=0, json=None)  # doctest: +ELLIPSIS
    Benchmark: states, commit ...
    """
    result = machine.record(rows, command=" ".join(["ouzel", *sys.argv[1:]]), seed=seed)
    measured = [name for name in shown if any(name in row for row in rows)]
    table = [{name: row.get(name) for name in measured} for row in rows]
    emit(result, json, title=f"Benchmark: {topic}, commit {result['commit']}", shown=table)


def tell(words: str) -> None:
    """Say on stderr what goes on: a benchmark takes minutes.

    >>> tell("ouzel: starting")
    """
    typer.echo(words, err=True)
