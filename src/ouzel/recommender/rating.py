"""Models of ratings: fitted as `ouzel train` does it, and measured over folds."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ouzel.evaluation.by_history import rating_predictor
from ouzel.evaluation.rating import RatingErrors, damped_means, rating_errors
from ouzel.events.interactions import Interactions
from ouzel.features.matrix import rated_matrix_of
from ouzel.models.rating import RatingModel
from ouzel.models.registry import MODELS, model_named
from ouzel.recommender.options import Progress, TrainOptions
from ouzel.training.factorization import fit_encoder
from ouzel.training.fit import FitResult

BASELINE = "damped_means"


@dataclass(frozen=True)
class Fold:
    """Events, and which of them (E,) are the ratings that training does not see."""

    full: Interactions
    test_E: NDArray[np.bool_]


def fit_rating(
    directory: Path,
    train: Interactions,
    options: TrainOptions,
    progress: Progress,
    *,
    epochs: int | None = None,
) -> tuple[RatingModel, FitResult]:
    """Return the model of the ratings in `train`, and how it went.

    `epochs` are as the model's config says if not given; `directory` receives `metrics.jsonl`.

    Raises:
        ValueError: the model is none of ratings, or the events have no values.

    >>> from ouzel.events.interactions import History, from_histories
    >>> from ouzel.recommender.options import Silent
    >>> visits = from_histories([History(np.array([1, 2]), np.arange(2))], num_rows=3)
    >>> fit_rating(Path("home"), visits, TrainOptions(model="svd"), Silent())
    ... # doctest: +ELLIPSIS
    Traceback (most recent call last):
    ...
    ValueError: none of 2 events has a value: add a column `value` ...
    """
    model_class = _rating_model(options.model)
    config = replace(model_class.presets[options.preset], **options.checked_settings)
    if epochs is not None:
        config = replace(config, epochs=epochs)
    matrix = rated_matrix_of(train)
    torch.manual_seed(options.seed)
    model = model_class.build(config, matrix)
    result = fit_encoder(
        model,
        matrix,
        epochs=config.epochs,
        minutes=options.minutes,
        validate=None,
        directory=directory,
        on_epoch=progress.epoch,
    )
    if result.epochs < config.epochs:
        progress.warn(
            f"Only {result.epochs} of {config.epochs} sweeps were done in the time given: fewer "
            "draws are averaged; give more minutes"
        )
    return model, result


def fold_rows(
    folds: Sequence[Fold], options: TrainOptions, progress: Progress
) -> Iterator[dict[str, Any]]:
    """Yield a row for each fold: RMSE and MAE of the model, and what it took.

    Raises:
        ValueError: the model is none of ratings, or a fold has no ratings on one side.

    >>> from ouzel.events.interactions import group_by_user
    >>> from ouzel.recommender.options import Silent
    >>> users, rows = np.repeat(np.arange(4), 2), np.tile(np.array([1, 2], np.int32), 4)
    >>> values = np.tile(np.array([1, 5], np.float32), 4)
    >>> fold = Fold(group_by_user(users, rows, np.arange(8), values, num_rows=3), rows * users == 2)
    >>> options = TrainOptions(model="svd", settings={"dim": 2, "epochs": 4})
    >>> [row["num_ratings"] for row in fold_rows([fold], options, Silent())]
    [2]
    """
    for number, fold in enumerate(folds, start=1):
        progress.say(f"{options.model}, fold {number} of {len(folds)}")
        with tempfile.TemporaryDirectory(prefix="ouzel-") as directory:
            train = fold.full.keep(~fold.test_E)
            model, result = fit_rating(Path(directory), train, options, progress)
        errors = rating_errors(rating_predictor(model.tensors()), fold.full, fold.test_E)
        progress.say(f"RMSE {errors.rmse:.4f}, MAE {errors.mae:.4f}")
        yield {
            "model": options.model,
            "fold": number,
            **_plain(errors),
            "seed": options.seed,
            "preset": options.preset,
            "settings": dict(options.settings),
            "epochs": result.epochs,
            "seconds": round(result.seconds, 1),
        }


def baseline_rows(folds: Sequence[Fold]) -> list[dict[str, Any]]:
    """Return a row for each fold, of the baseline that knows no more than means.

    >>> from ouzel.events.interactions import group_by_user
    >>> users, rows, values = np.zeros(2, np.int64), np.array([1, 2], np.int32), np.array([3, 4])
    >>> x = group_by_user(users, rows, np.arange(2), values.astype(np.float32), num_rows=3)
    >>> baseline_rows([Fold(x, rows == 2)])[0]["rmse"]
    1.0
    """
    rows = []
    for number, fold in enumerate(folds, start=1):
        predict = damped_means(fold.full.keep(~fold.test_E))
        errors = rating_errors(predict, fold.full, fold.test_E)
        rows.append({"model": BASELINE, "fold": number, **_plain(errors)})
    return rows


def _plain(errors: RatingErrors) -> dict[str, Any]:
    return {"rmse": errors.rmse, "mae": errors.mae, "num_ratings": errors.num_ratings}


def check_rates(name: str) -> None:
    """Return nothing if the model of this name predicts ratings.

    Raises:
        ValueError: it does not, or there is none.

    >>> check_rates("ials")
    Traceback (most recent call last):
    ...
    ValueError: ials predicts no ratings: take one of svd, svdpp, or another split
    """
    _rating_model(name)


def _rating_model(name: str) -> type[RatingModel]:
    known = model_named(name)
    if issubclass(known, RatingModel):
        return known
    able = ", ".join(model.name for model in MODELS if issubclass(model, RatingModel))
    raise ValueError(f"{name} predicts no ratings: take one of {able}, or another split")
