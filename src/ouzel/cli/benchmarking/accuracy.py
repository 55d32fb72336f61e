"""`ouzel benchmark accuracy`: models trained, exported and tested as `ouzel train` does it.

Needs the `train` extra.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from json import loads
from pathlib import Path
from statistics import fmean, stdev
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ouzel.cli.benchmarking.likes import LIKES_SHOWN, Likes, like_rows
from ouzel.cli.printing.benchmark import emit_rows
from ouzel.cli.printing.training_progress import TrainingProgress
from ouzel.cli.train import Blend, Set, named_settings

if TYPE_CHECKING:
    from ouzel.recommender.home import Home
    from ouzel.recommender.options import Progress, TrainOptions
    from ouzel.recommender.train import Trained

EXAMPLE = "ouzel benchmark accuracy --data ratings.dat --models esasrec,ease --json -"

Row = dict[str, Any]

SHOWN = (
    "case",
    "model",
    "seed",
    "split",
    "recall@10",
    "ndcg@10",
    "ndcg@10 95%",
    "coverage@10",
    "ndcg@10_warm",
    "ndcg@10_cold",
    "num_cold",
    *("recall@20", "ndcg@20", "ndcg@20_kgat", "coverage@20"),
    *("recall@20_warm", "recall@20_cold"),
    "seconds",
)


def command(
    data: Annotated[
        Path, typer.Option(help="A file or folder of events in any format that is known.")
    ],
    models: Annotated[
        str, typer.Option(help="Names of models, such as esasrec,ease: see `ouzel models`.")
    ] = "esasrec",
    case: Annotated[
        str | None, typer.Option(help="What rows call the data set; default: as its file.")
    ] = None,
    test: Annotated[
        Path | None,
        typer.Option(help="A file of what was held out of --data: models learn from all of that."),
    ] = None,
    split: Annotated[
        str,
        typer.Option(
            help="What to hold out: temporal or leave-one-out; or ratings to predict: 5-fold "
            "(or another number), or given, for files u1.base, u1.test, ...; for models of fields "
            "random."
        ),
    ] = "leave-one-out",
    set_: Set = None,
    blend: Blend = None,
    preset: Annotated[str, typer.Option(help="Size of the models: S, M, L or XL.")] = "S",
    minutes: Annotated[
        float | None,
        typer.Option(help="Train each for at most this long, but for those fitted at once."),
    ] = None,
    seeds: Annotated[str, typer.Option(help="Seeds to train with, such as 0,1,2.")] = "0",
    json: Annotated[
        str | None, typer.Option(help="Write JSON to this file, or to stdout with '-'.")
    ] = None,
) -> None:
    """Measure what models find of what was held out of a data set, beside every baseline.

    All items are ranked for every target, none sampled, and what a user has seen is filtered. With
    --test each user has one list of 20, in which all that the file has of the user is looked for;
    --split then says how the epochs of a model are chosen, and `none` that all of them are done.
    Of ratings it is measured how far a prediction is off: RMSE and MAE. With
    --split random models of fields tell likes from other ratings: AUC and log loss of a tenth.
    """
    named = models.split(",")
    settings = named_settings(set_ or [])
    if settings and len(named) > 1:
        raise ValueError("--set is for one model: measure them one after the other")
    told: dict[str, Any] = {
        "case": case or data.name.partition(".")[0],
        "data": data,
        "models": named,
    }
    if split == "random":
        _check_ranked(split, test=test, blend=blend)
        if preset != "S":
            raise ValueError(f"models of fields have no preset {preset}: leave --preset out")
        likes = Likes(**told, seeds=_seeds(seeds), settings=settings, minutes=minutes)
        _measure_likes(likes, json)
        return
    options = _options(named[0], split, settings, preset=preset, minutes=minutes, blend=blend)
    contest = Contest(**told, test=test, seeds=_seeds(seeds), options=options)
    _measure(contest, split, json)


def _options(
    model: str, split: str, settings: Mapping[str, Any], *, blend: bool | None, **same: Any
) -> TrainOptions:
    from ouzel.cli.benchmarking.ratings import is_rated
    from ouzel.recommender.options import TrainOptions

    ranked = "leave-one-out" if is_rated(split) else split
    options = TrainOptions(split=ranked, blend=blend, **same)
    return replace(_options_of(model, options), settings=settings) if settings else options


def _check_ranked(split: str, *, test: Path | None, blend: bool | None) -> None:
    given = "--test" if test is not None else "--blend" if blend else ""
    if given:
        raise ValueError(f"--split {split} ranks nothing: leave {given} out")


def _measure(contest: Contest, split: str, json: str | None) -> None:
    """Measure what was found, or how far predicted ratings are off, and show it."""
    from ouzel.cli.benchmarking import ratings

    rated = ratings.is_rated(split)
    if rated:
        _check_ranked(split, test=contest.test, blend=contest.options.blend)
    with TrainingProgress() as progress:
        if rated:
            rows = ratings.rating_rows(contest, split, progress)
        else:
            rows = accuracy_rows(contest, progress)
    if not rated and json is None:
        rows = [_shown(row) for row in rows]
    columns = ratings.SHOWN if rated else SHOWN
    emit_rows(rows, "accuracy", shown=columns, seed=contest.seeds[0], json=json)


def _measure_likes(likes: Likes, json: str | None) -> None:
    with TrainingProgress() as progress:
        rows = like_rows(likes, progress)
    emit_rows(rows, "accuracy", shown=LIKES_SHOWN, seed=likes.seeds[0], json=json)


@dataclass(frozen=True, kw_only=True)
class Contest:
    """Which models meet on the events of `data`, with which seeds; rows call it `case`.

    `options` are those of every training but for the model and the seed. `test` is a file of what
    was held out of `data`, None: the split of the options says what is.
    """

    case: str
    data: Path
    models: Sequence[str]
    seeds: Sequence[int]
    options: TrainOptions
    test: Path | None = None


def accuracy_rows(contest: Contest, progress: Progress) -> list[Row]:
    """Return a row for each model and seed, the mean over several seeds, then the baselines.

    The events are imported once, into a home that is gone afterwards.

    Raises:
        ValueError: the data cannot be read or learnt from, a model is unknown.

    >>> from ouzel.recommender.options import Silent, TrainOptions
    >>> options = TrainOptions(split="leave-one-out")
    >>> nobody = Contest(
    ...     case="shop", data=Path("shop.csv"), models=["esase"], seeds=[0], options=options
    ... )
    >>> accuracy_rows(nobody, Silent())
    Traceback (most recent call last):
    ...
    ValueError: there is no model 'esase': did you mean 'ease'?
    """
    from ouzel.cli.benchmarking.answering import answer_costs
    from ouzel.data.read import read
    from ouzel.recommender.cores import usable_threads
    from ouzel.recommender.given_split import GivenTest
    from ouzel.recommender.home import Home
    from ouzel.recommender.train import cleaned, import_dataset, train_home

    refit = contest.test is not None
    trainings = [
        [replace(_options_of(model, contest.options, refit), seed=seed) for seed in contest.seeds]
        for model in contest.models
    ]
    rows: list[Row] = []
    baselines: list[Row] = []
    with tempfile.TemporaryDirectory(prefix="ouzel-") as folder:
        home = Home(Path(folder) / "home")
        dataset = read(contest.data)
        progress.say(str(dataset.report))
        with home.log() as log:
            import_dataset(log, cleaned(dataset, contest.options, progress), progress)
        given = None if contest.test is None else GivenTest(home, read(contest.test))
        for of_model in trainings:
            measured: list[Row] = []
            parts: list[Row] = []
            for options in of_model:
                progress.say(f"{options.model}, seed {options.seed}")
                trained = train_home(home, options, progress)
                if given is not None:
                    found = given.rows(progress, threads=usable_threads())
                    trained = replace(trained, rows=found)
                row = {**_row(trained, options), "curve": _curve(home)}
                measured.append(row | answer_costs(home, seed=options.seed))
                parts += _parts_of(trained, options)
                baselines = baselines or _baselines_of(trained, options)
            rows += measured
            if len(measured) > 1:
                rows.append(mean_row(measured))
            rows += parts
    return [{"system": row["model"], "case": contest.case, **row} for row in (*rows, *baselines)]


def _options_of(model: str, options: TrainOptions, refit: bool = False) -> TrainOptions:
    from ouzel.models.registry import kind_of, model_named

    at_once = kind_of(model_named(model)) == "closed_form"
    options = replace(options, model=model, minutes=None if at_once else options.minutes)
    if refit and not options.blends and (at_once or options.split == "none"):
        # No epoch is to be chosen, so the first training is that of everything.
        return replace(options, split="none")
    return replace(options, refit=refit)


def _row(trained: Trained, options: TrainOptions) -> Row:
    """Return the first row of a training, its model, with what it took."""
    if not trained.rows:
        raise ValueError(
            f"the {options.split} split leaves nothing to test on: give users more events"
        )
    result = trained.result
    return {
        **trained.rows[0],
        "seed": options.seed,
        "preset": options.preset,
        "settings": dict(options.settings),
        "epochs": result.epochs,
        "best_epoch": result.best_epoch,
        "seconds": round(result.seconds, 1),
    }


def _curve(home: Home) -> list[tuple[int, float]]:
    """Return NDCG@10 on the validation part after each epoch of the last training that had one."""
    lines = (home.training / "metrics.jsonl").read_text().splitlines()
    epochs = [loads(line) for line in lines]
    return [(int(epoch["epoch"]), epoch["ndcg@10"]) for epoch in epochs if "ndcg@10" in epoch]


def _parts_of(trained: Trained, options: TrainOptions) -> list[Row]:
    """Return the rows of what the whole of a model is made of, such as the model alone."""
    own = [row for row in trained.rows[1:] if _is_of(options.model, row)]
    return [{**row, "seed": options.seed, "settings": dict(options.settings)} for row in own]


def _baselines_of(trained: Trained, options: TrainOptions) -> list[Row]:
    return [row for row in trained.rows[1:] if not _is_of(options.model, row)]


def _is_of(model: str, row: Row) -> bool:
    return bool(row["model"].partition(" ")[0] == model)


def mean_row(rows: Sequence[Row]) -> Row:
    """Return the means of one model over its seeds, with the deviation between these.

    >>> alike = {"model": "ease", "split": "temporal", "preset": "S", "settings": {}, "seconds": 1}
    >>> seeds = [{**alike, "seed": seed, "ndcg@10": value}
    ...     for seed, value in enumerate((0.1, 0.3))]
    >>> row = mean_row(seeds)
    >>> row["seeds"], round(row["ndcg@10"], 6), round(row["ndcg@10_sd"], 6)
    ([0, 1], 0.2, 0.141421)
    """
    first = rows[0]
    mean: Row = {name: first[name] for name in ("split", "preset", "settings")}
    # A blend that validation did not find better was left out for its seed.
    mean["model"] = max((row["model"] for row in rows), key=len)
    mean["seeds"] = [row["seed"] for row in rows]
    for name in filter(_is_mean, first):
        values = [row[name] for row in rows]
        mean |= {name: fmean(values), f"{name}_sd": stdev(values)}
    mean["seconds"] = round(fmean(row["seconds"] for row in rows), 1)
    if "state_bytes" in first:
        mean["state_bytes"] = first["state_bytes"]
        mean["click_to_list_ms"] = fmean(row["click_to_list_ms"] for row in rows)
    return mean


def _is_mean(name: str) -> bool:
    """Return whether a field is a figure of accuracy, and not an end of its interval or a lead."""
    return "@" in name and not name.endswith(("_low", "_high")) and "_lead" not in name


def _shown(row: Row) -> Row:
    """Return a row with its seeds and the interval of its NDCG as a person reads them."""
    if "seeds" in row:
        return {**row, "seed": f"mean of {len(row['seeds'])}"}
    if "ndcg@10_low" not in row:
        return row
    interval = f"{row['ndcg@10_low']:.4f} .. {row['ndcg@10_high']:.4f}"
    return {**row, "ndcg@10 95%": interval}


def _seeds(text: str) -> list[int]:
    try:
        seeds = [int(part) for part in text.split(",")]
    except ValueError:
        seeds = []
    if not seeds or min(seeds) < 0 or len(set(seeds)) < len(seeds):
        raise ValueError(f"--seeds {text}: give different numbers from 0 on, such as 0,1,2")
    return seeds
