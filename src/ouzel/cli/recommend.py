"""`ouzel recommend`: one user's list, from the command line."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ouzel.cli.printing.output import emit

EXAMPLE = "ouzel recommend home --user 42"


def command(
    home: Annotated[Path, typer.Argument(help="The home of a trained model.")],
    user: Annotated[str, typer.Option(help="Id of the user.")],
    k: Annotated[int, typer.Option(help="Length of the list, 1 to 500.")] = 10,
    filter: Annotated[
        str | None,
        typer.Option(help="Which items may be shown, such as: '\"Drama\" in genres'."),
    ] = None,
    json: Annotated[
        str | None, typer.Option(help="Write the list as JSON to this file, or - for stdout.")
    ] = None,
) -> None:
    """Print what a home recommends to one user now; a user it does not know gets what is popular.

    Titles are shown where the catalogue has them.
    """
    from ouzel.recommender.recommender import Recommender

    recommender = Recommender.load(home)
    rows = recommender.recommend([user], k=k, filter=filter).to_dicts()
    titles = recommender.titles([row["item_id"] for row in rows])
    for row, title in zip(rows, titles, strict=True):
        del row["user_id"]
        if title:
            row["title"] = title
    popular = rows and all(row["source"] == "popular" for row in rows)
    emit(rows, json, title=f"For user {user}{': what is popular' if popular else ''}")
