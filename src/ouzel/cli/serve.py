"""`ouzel serve`: a home over HTTP, with the live page."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from ouzel.serving.threads import ONE_THREAD

EXAMPLE = "ouzel serve my-home --port 8000"


Workers = Annotated[
    int, typer.Option(min=1, help="Processes that answer on the port: one writes, the others read.")
]
CacheMegabytes = Annotated[
    int | None,
    typer.Option(min=0, help="Memory for answers that many get alike; 0 keeps none, 24 usual."),
]
Weights = Annotated[
    list[str] | None,
    typer.Option(help="What an action of the ranker weighs, such as like=1; may be repeated."),
]


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
    workers: Workers = 1,
    cache_megabytes: CacheMegabytes = None,
    weight: Weights = None,
    json: Annotated[
        str | None,
        typer.Option(help="Write where it listens as JSON to this file, or to stdout with '-'."),
    ] = None,
) -> None:
    """Serve a home over HTTP until interrupted; the live page is at /dashboard."""
    os.environ.update(dict.fromkeys(ONE_THREAD, "1"))
    from ouzel.cli.printing.output import emit
    from ouzel.serving.home import Resources
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
        resources=Resources(
            workers=workers,
            **_bytes(state_bytes=state_megabytes, cache_bytes=cache_megabytes),
        ),
        weights=weights or None,
        listening=listening,
    )


def _bytes(**megabytes: int | None) -> dict[str, int]:
    """Return what was given, in bytes."""
    return {name: given << 20 for name, given in megabytes.items() if given is not None}


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
