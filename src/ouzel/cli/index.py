"""`ouzel index`: how the items of a home are searched, chosen by measuring it here."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from ouzel.serving.threads import ONE_THREAD

EXAMPLE = "ouzel index home --recall 0.99 --p99-ms 3"


def command(
    home: Annotated[Path, typer.Argument(help="The home of a trained model.")],
    recall: Annotated[
        float, typer.Option(help="Share of the exact best items that must be found.")
    ] = 0.99,
    p99_ms: Annotated[
        float, typer.Option(help="Milliseconds that 99 of 100 searches may take.")
    ] = 3.0,
    k: Annotated[int, typer.Option(help="Length of list that both speak of: 10 or 100.")] = 10,
    json: Annotated[
        str | None, typer.Option(help="Write the rows as JSON to this file, or - for stdout.")
    ] = None,
) -> None:
    """Measure every way to search the items of a home, on its own users, and choose the cheapest.

    `ouzel serve` uses what was chosen from its next start on, for this model and no other.
    """
    # As in service: what is chosen with several threads would not be the best with one.
    os.environ.update(dict.fromkeys(ONE_THREAD, "1"))
    from ouzel.cli.printing.output import emit
    from ouzel.recommender.home import Home
    from ouzel.recommender.index import Target, choose_index, nearest

    target = Target(recall, p99_ms, k)
    rows, chosen = choose_index(Home(home), target, lambda words: typer.echo(words, err=True))
    emit(rows, json, title=f"Searches for {rows[0]['items_timed']} items, one at a time")
    if chosen is None:
        raise ValueError(
            f"nothing finds {recall:g} of the best {k} with p99 of {p99_ms:g} ms here: "
            f"{nearest(rows, target)}; ask for less recall or more time"
        )
    if json != "-":
        name = f"{chosen['engine']} {chosen['parameters']}".strip()
        typer.echo(f"Chosen: {name}. The next `ouzel serve {home}` searches with it.")
