"""`ouzel evaluate`: the model of a home beside every baseline."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ouzel.cli.printing.accuracy import accuracy_table, verdict
from ouzel.cli.printing.output import emit
from ouzel.cli.printing.training_progress import TrainingProgress

EXAMPLE = "ouzel evaluate home --json -"


def command(
    home: Annotated[Path, typer.Argument(help="The home of a trained model.")],
    json: Annotated[
        str | None, typer.Option(help="Write the rows as JSON to this file, or - for stdout.")
    ] = None,
) -> None:
    """Measure the model of a home against every baseline, on what its training left out.

    All items are ranked for every target, none sampled, and what a user has seen is filtered.
    """
    from ouzel.recommender.cores import usable_threads
    from ouzel.recommender.evaluate import evaluate_home
    from ouzel.recommender.home import Home

    with TrainingProgress() as progress:
        rows = evaluate_home(Home(home), progress, threads=usable_threads())
    title = "Accuracy on the test part, all items ranked"
    emit(rows, json, title=title, shown=accuracy_table(rows))
    if json != "-":
        typer.echo(verdict(rows))
