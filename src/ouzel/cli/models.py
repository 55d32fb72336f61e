"""`ouzel models`: every model that can be trained, a line each."""

from __future__ import annotations

from typing import Annotated, Any

import typer

EXAMPLE = "ouzel models --json -"


def command(
    json: Annotated[
        str | None, typer.Option(help="Write the rows as JSON to this file, or - for stdout.")
    ] = None,
) -> None:
    """List the models that `ouzel train --model NAME` takes, what each costs, and when to use it.

    Those of kind ctr order what a model has found: `ouzel train --ctr NAME`.

    With `--json` each has its presets and settings too, for `--preset` and `--set`.
    """
    from ouzel.cli.printing.output import emit

    rows = model_rows()
    shown = [
        {name: row[name] for name in row if name not in ("presets", "settings")} for row in rows
    ]
    emit(
        rows,
        json,
        title="Models, for ouzel train --model NAME; of kind ctr: --ctr NAME",
        shown=shown,
    )


def model_rows() -> list[dict[str, Any]]:
    """Return a row for each model: name, family, kind, when to use it, cost, paper, settings.

    >>> model_rows()[0]["name"], model_rows()[0]["kind"]
    ('esasrec', 'sequence')
    """
    import msgspec

    from ouzel.models.ctr import CTR_MODELS
    from ouzel.models.registry import MODELS, family_of, kind_of

    kinds = [(model, kind_of(model)) for model in MODELS] + [(model, "ctr") for model in CTR_MODELS]
    return [
        {
            "name": model.name,
            "family": family_of(model),
            "kind": kind,
            "use": model.about.use,
            "cost": model.about.cost,
            "paper": model.about.paper,
            "presets": list(model.presets),
            "settings": msgspec.to_builtins(model.presets["S"]),
        }
        for model, kind in kinds
    ]
