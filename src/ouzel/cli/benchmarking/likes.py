"""The part of `ouzel benchmark accuracy` for models of fields: who likes what, AUC and log loss."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, stdev
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ouzel.recommender.options import Progress

Row = dict[str, Any]

LIKES_SHOWN = ("case", "model", "seed", "auc", "logloss", "epochs", "seconds")

WITHOUT = "without"
"""The setting that names fields to leave out, with commas between them."""


@dataclass(frozen=True, kw_only=True)
class Likes:
    """Which models of fields meet on the ratings of `data`, with which seeds."""

    case: str
    data: Path
    models: Sequence[str]
    seeds: Sequence[int]
    settings: Mapping[str, str]
    minutes: float | None


def like_rows(likes: Likes, progress: Progress) -> list[Row]:
    """Return a row for each model and seed, and the mean over several seeds.

    The split is the same for all of them.

    Raises:
        ValueError: the data has no ratings, or a model is unknown.

    >>> from ouzel.recommender.options import Silent
    >>> told = {"seeds": [0], "settings": {}, "minutes": None}
    >>> like_rows(Likes(case="x", data=Path("x"), models=["deepmf"], **told), Silent())
    Traceback (most recent call last):
    ...
    ValueError: there is no model of fields 'deepmf': did you mean 'deepfm'?
    """
    from ouzel.data.double_colon import read_users
    from ouzel.data.read import read
    from ouzel.models.registry import ctr_model_named
    from ouzel.recommender.rated import fit_rated, rated_split

    for model in likes.models:
        ctr_model_named(model)
    dataset = read(likes.data)
    progress.say(str(dataset.report))
    ratings = likes.data / "ratings.dat" if likes.data.is_dir() else likes.data
    settings = dict(likes.settings)
    without = [name for name in settings.pop(WITHOUT, "").split(",") if name]
    rated = rated_split(dataset.frame, read_users(ratings), dataset.items, without=without)
    rows: list[Row] = []
    for model in likes.models:
        measured = []
        for seed in likes.seeds:
            progress.say(f"{model}, seed {seed}")
            row = fit_rated(
                model,
                rated,
                settings=settings,
                seed=seed,
                minutes=likes.minutes,
                progress=progress,
            )
            names = [field.name for field in rated.schema.fields]
            measured.append({**row, "settings": dict(likes.settings), "fields": names})
        rows += measured
        if len(measured) > 1:
            rows.append(mean_of(measured))
    return [{"system": row["model"], "case": likes.case, **row} for row in rows]


def mean_of(rows: Sequence[Row]) -> Row:
    """Return the means of one model over its seeds, with the deviation between these.

    >>> alike = {"model": "mlp", "split": "random", "settings": {}, "fields": []}
    >>> alike |= {"logloss": 0.4, "seconds": 1}
    >>> row = mean_of([{**alike, "seed": seed, "auc": 0.8 + seed / 10} for seed in (0, 1)])
    >>> row["seeds"], round(row["auc"], 6), round(row["auc_sd"], 6)
    ([0, 1], 0.85, 0.070711)
    """
    mean: Row = {name: rows[0][name] for name in ("model", "split", "settings", "fields")}
    mean["seeds"] = [row["seed"] for row in rows]
    for name in ("auc", "logloss"):
        values = [row[name] for row in rows]
        mean |= {name: round(fmean(values), 6), f"{name}_sd": round(stdev(values), 6)}
    mean["seconds"] = round(fmean(row["seconds"] for row in rows), 1)
    return mean
