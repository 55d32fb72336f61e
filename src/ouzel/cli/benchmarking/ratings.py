"""`ouzel benchmark accuracy --split 5-fold` or `given`: how far predicted ratings are off.

Needs the `train` extra.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from statistics import fmean, stdev
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ouzel.cli.benchmarking.accuracy import Contest
    from ouzel.recommender.options import Progress
    from ouzel.recommender.rating import Fold

SHOWN = ("case", "model", "seed", "split", "fold", "rmse", "mae", "epochs", "seconds")

GIVEN = "given"

Row = dict[str, Any]


def is_rated(split: str) -> bool:
    """Return whether a split is one of ratings: N-fold, or the folds that the data come with.

    >>> is_rated("5-fold"), is_rated("given"), is_rated("temporal")
    (True, True, False)
    """
    return split == GIVEN or re.fullmatch(r"\d+-fold", split) is not None


def rating_rows(contest: Contest, split: str, progress: Progress) -> list[Row]:
    """Return a row for each model, seed and fold, the mean of each model, then the baseline.

    Drawn folds depend on the seed.

    Raises:
        ValueError: the data cannot be read or have no values, a model predicts no ratings, or the
            folds that should be given are not there.

    >>> from pathlib import Path
    >>> from ouzel.cli.benchmarking.accuracy import Contest
    >>> from ouzel.recommender.options import Silent, TrainOptions
    >>> nowhere = Contest(case="shop", data=Path("no-such-folder"), models=["svd"], seeds=[0],
    ...                   options=TrainOptions())
    >>> rating_rows(nowhere, "given", Silent())  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    ...
    ValueError: no-such-folder has no folds: put u1.base, u1.test, ...
    """
    from ouzel.recommender.rating import baseline_rows, check_rates, fold_rows

    for model in contest.models:
        check_rates(model)
    rows: list[Row] = []
    baselines: list[Row] = []
    for model in contest.models:
        measured: list[Row] = []
        for seed, folds in _folds_by_seed(contest, split):
            options = replace(contest.options, model=model, seed=seed)
            measured += fold_rows(folds, options, progress)
            if len(baselines) < len(contest.seeds) * len(folds):
                baselines += [{**row, "seed": seed} for row in baseline_rows(folds)]
        rows += [*measured, _mean_row(measured)]
    rows.append(_mean_row(baselines))
    told = {"case": contest.case, "split": split}
    return [{"system": row["model"], **told, **row} for row in rows]


def _folds_by_seed(contest: Contest, split: str) -> Iterator[tuple[int, list[Fold]]]:
    from ouzel.data.encode import encode
    from ouzel.data.folds import given_folds
    from ouzel.data.read import read
    from ouzel.evaluation.rating import random_folds
    from ouzel.recommender.rating import Fold

    if split == GIVEN:
        given = [Fold(full, test_E) for _, full, test_E in given_folds(contest.data)]
        yield from ((seed, given) for seed in contest.seeds)
        return
    full = encode(read(contest.data).frame).interactions
    for seed in contest.seeds:
        drawn = random_folds(full, int(split.partition("-")[0]), seed=seed)
        yield seed, [Fold(full, test_E) for test_E in drawn]


def _mean_row(rows: Sequence[Row]) -> Row:
    """Return the mean of one model over folds and seeds, with the deviation between these."""
    alike = ("model", "preset", "settings", "epochs")
    mean: Row = {name: rows[0][name] for name in alike if name in rows[0]}
    mean["seeds"] = sorted({row["seed"] for row in rows})
    mean["folds"] = len({row["fold"] for row in rows})
    for name in ("rmse", "mae"):
        values = [row[name] for row in rows]
        mean |= {name: fmean(values), f"{name}_sd": stdev(values) if len(values) > 1 else 0.0}
    if "seconds" in rows[0]:
        mean["seconds"] = round(fmean(row["seconds"] for row in rows), 1)
    return mean
