"""`ouzel train`: raw events in, a served model out."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ouzel.cli.column_map import column_map
from ouzel.cli.printing.accuracy import accuracy_table, verdict
from ouzel.cli.printing.output import emit
from ouzel.cli.printing.training_progress import TrainingProgress

if TYPE_CHECKING:
    from ouzel.recommender.options import TrainOptions
    from ouzel.recommender.train import Trained

EXAMPLE = "ouzel train --data events.csv --out home --minutes 10"


Set = Annotated[
    list[str] | None,
    typer.Option("--set", help="A setting of the model by name, such as dim=128."),
]
HeldOut = Annotated[str, typer.Option(help="What to hold out: temporal, leave-one-out or none.")]
Refit = Annotated[
    bool, typer.Option("--refit", help="Train once more on everything, and serve that.")
]
Blend = Annotated[
    bool | None,
    typer.Option(
        "--blend/--no-blend",
        help="Serve the model blended with neighbours, if that is better; default: unless a ranker "
        "or a model of fields orders its lists.",
    ),
]
FieldModel = Annotated[
    str | None,
    typer.Option(help="Train a model of fields too, to order the best 500: deepfm, din, ..."),
]
Core = Annotated[
    int | None, typer.Option(help="Keep users and items with this many events in common.")
]
Map = Annotated[
    list[str] | None,
    typer.Option("--map", help="A column by another name, such as user_id=userID."),
]


def command(
    data: Annotated[
        Path, typer.Option(help="A file or folder of events in any format that is known.")
    ],
    out: Annotated[Path, typer.Option(help="The home to train into; it is made if absent.")],
    preset: Annotated[str, typer.Option(help="Size of the model: S, M, L or XL.")] = "S",
    model: Annotated[str, typer.Option(help="Name of the model: see `ouzel models`.")] = "esasrec",
    set_: Set = None,
    split: HeldOut = "temporal",
    refit: Refit = False,
    ranker: Annotated[
        bool, typer.Option("--ranker", help="Train a ranker of the model's best 500 items too.")
    ] = False,
    blend: Blend = None,
    ctr: FieldModel = None,
    min_value: Annotated[
        float | None, typer.Option(help="Leave out ratings below this, such as 4 of 5.")
    ] = None,
    k_core: Core = None,
    minutes: Annotated[
        float | None, typer.Option(help="Train for at most this long; default: until it is best.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of everything random.")] = 0,
    state_precision: Annotated[
        str, typer.Option(help="How user states are kept: auto, fp32, fp16 or int8.")
    ] = "auto",
    map_: Map = None,
    strict: Annotated[
        bool, typer.Option("--strict", help="Refuse data with bad rows instead of dropping them.")
    ] = False,
    json: Annotated[
        str | None, typer.Option(help="Write the result as JSON to this file, or - for stdout.")
    ] = None,
) -> None:
    """Train a model on raw events and make a home for it, ready to serve.

    Importing the same data again adds nothing; a training that was interrupted goes on where its
    last epoch ended.
    """
    from ouzel.recommender.options import TrainOptions

    columns = column_map(map_ or [])
    data.stat()  # of a file that is not there nobody need hear after PyTorch was loaded
    options = TrainOptions(
        model=model,
        settings=named_settings(set_ or []),
        preset=preset,
        split=split,
        refit=refit,
        ranker=ranker,
        blend=blend,
        ctr=ctr,
        min_value=min_value,
        k_core=k_core,
        minutes=minutes,
        seed=seed,
        state_precision=state_precision,
    )
    trained = _train(data, out, options, columns=columns, strict=strict)
    title = f"Accuracy on the test part ({split}), all items ranked"
    emit(_result(out, trained), json, title=title, shown=accuracy_table(trained.rows))
    if json != "-":
        typer.echo(verdict(trained.rows))
        typer.echo(f"Serve it: ouzel serve {out}")


def named_settings(pairs: list[str]) -> dict[str, str]:
    """Return what `--set` gave, each name=value, by name.

    Raises:
        ValueError: one is no such pair, or a name comes twice.

    >>> named_settings(["dim=128", "half_life=10"])
    {'dim': '128', 'half_life': '10'}
    """
    settings: dict[str, str] = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not (name and equals and value):
            raise ValueError(f"--set {pair}: give name=value, such as dim=128")
        if name in settings:
            raise ValueError(f"--set {pair}: {name} was given before")
        settings[name] = value
    return settings


def _train(
    data: Path, out: Path, options: TrainOptions, *, columns: dict[str, str], strict: bool
) -> Trained:
    from ouzel.data.read import read
    from ouzel.recommender.home import Home
    from ouzel.recommender.train import cleaned, goes_on, import_dataset, train_home

    home = Home(out)
    with TrainingProgress() as progress:
        dataset = read(data, columns=columns, strict=strict)
        progress.say(str(dataset.report))
        with home.log() as log:
            import_dataset(log, cleaned(dataset, options, progress), progress)
        try:
            return train_home(home, options, progress)
        except KeyboardInterrupt:
            where = "where the last epoch ended" if goes_on(home, options) else "from the start"
            progress.say(f"Stopped: the same command trains on {where}")
            raise


def _result(out: Path, trained: Trained) -> dict[str, Any]:
    return {
        "home": str(out),
        "version": trained.bundle.version,
        "epochs": trained.result.epochs,
        "best_epoch": trained.result.best_epoch,
        "training_seconds": round(trained.result.seconds, 1),
        "rows": trained.rows,
    }
