"""`ouzel serve`: a home over HTTP, with the live page."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

EXAMPLE = "ouzel serve my-home --port 8000"

ONE_THREAD = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "NUMEXPR_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
)
"""Pools of several libraries in one process fight over the cores; requests are the parallelism."""


def command(
    home: Annotated[Path, typer.Argument(help="A home made by `ouzel train`.")],
    host: Annotated[
        str, typer.Option(help="The address to bind; anything but loopback needs an API key.")
    ] = "127.0.0.1",
    port: Annotated[
        int, typer.Option(min=0, max=65535, help="The port; 0 takes any free one.")
    ] = 8000,
    port_file: Annotated[
        Path | None, typer.Option(help="Write the port here once requests are welcome.")
    ] = None,
    api_key: Annotated[
        str | None,
        typer.Option(
            envvar="OUZEL_API_KEY",
            show_default=False,
            help="The key that requests must carry; better given in the environment.",
        ),
    ] = None,
    state_megabytes: Annotated[
        int | None,
        typer.Option(min=1, help="Memory for user states; by default a quarter of the machine's."),
    ] = None,
    weight: Annotated[
        list[str] | None,
        typer.Option(help="What an action of the ranker weighs, such as like=1; may be repeated."),
    ] = None,
    json: Annotated[
        str | None,
        typer.Option(help="Write where it listens as JSON to this file, or to stdout with '-'."),
    ] = None,
) -> None:
    """Serve a home over HTTP until interrupted; the live page is at /dashboard."""
    os.environ.update(dict.fromkeys(ONE_THREAD, "1"))
    from ouzel.cli.printing.output import emit
    from ouzel.serving.server import serve

    weights = action_weights(weight or [])

    def listening(address: str) -> None:
        # For people as text: a number would get separators, and nobody kills 9,540.
        process = os.getpid() if json is not None else str(os.getpid())
        emit({"address": address, "page": f"{address}/dashboard", "process": process}, json)
        sys.stdout.flush()

    serve(
        home,
        host=host,
        port=port,
        port_file=port_file,
        api_key=api_key,
        state_bytes=None if state_megabytes is None else state_megabytes << 20,
        weights=weights or None,
        listening=listening,
    )


def action_weights(pairs: Sequence[str]) -> dict[str, float]:
    """Return `["like=0.5"]` as `{"like": 0.5}`.

    Raises:
        ValueError: an entry is not of the form ACTION=NUMBER, or repeats an action.

    >>> action_weights(["interact=1", "like=0.5"])
    {'interact': 1.0, 'like': 0.5}
    """
    weights: dict[str, float] = {}
    for pair in pairs:
        name, _, number = pair.partition("=")
        try:
            weight = float(number)
        except ValueError:
            name = ""
        if not name or name in weights:
            raise ValueError(
                f"--weight {pair!r}: write ACTION=NUMBER, such as --weight like=0.5, "
                "and each action only once"
            )
        weights[name] = weight
    return weights
