"""Rated events as examples of likes: the labels, the random split and the fields of AutoInt.

A rating above the middle of the scale is a like, one below it is none, and the middle is left out
(3 of 1 to 5 stars). Examples are split at random, eight parts to train, one to validate and one to
test, whatever the time: how well a model fills in a table of ratings, and not how well it foresees.
What came before an example are the likes of its user in the training part alone.

References:
    Song et al., "AutoInt: Automatic Feature Interaction Learning via Self-Attentive Neural
    Networks", CIKM 2019.

Shape legend: E = examples, N = catalogue rows, S = places of a side's fields.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import polars as pl
import torch
from numpy.typing import NDArray

from ouzel.evaluation.ctr import auc, logloss
from ouzel.features.examples import Examples, Past
from ouzel.features.fields import (
    TIME_FIELDS,
    Field,
    Schema,
    Side,
    event_ids,
    field_of,
    row_field,
    with_year,
)
from ouzel.models.registry import checked_settings, ctr_model_named
from ouzel.recommender.options import Progress
from ouzel.training.ctr import TOLD, CTRSettings, auc_validator, fit_ctr, predict, told_settings

RANDOM = "random"
"""What the split is called."""

SPLIT_SEED = 0
PARTS = (8, 1, 1)
ACTION = "like"


@dataclass(frozen=True)
class Rated:
    """Examples of likes in three parts, with the fields they are told in."""

    schema: Schema
    items_NS: NDArray[np.int32]
    train: Examples
    validation: Examples
    test: Examples


def rated_split(
    ratings: pl.DataFrame,
    users: pl.DataFrame | None,
    items: pl.DataFrame | None,
    *,
    without: Collection[str] = (),
) -> Rated:
    """Return the examples of a table of ratings (user_id, item_id, value, timestamp in ms).

    `users` and `items` have more columns of both, with their ids in `user_id` and `item_id`. Fields
    named in `without` are left out, such as `user`, which is who asks.

    Raises:
        ValueError: there are no ratings, or all say the same; or there is no such field.

    >>> n = list(range(40))
    >>> ids = {"user_id": [str(i % 5) for i in n], "item_id": [str(i % 7) for i in n]}
    >>> ratings = pl.DataFrame({**ids, "timestamp": n, "value": [1.0 + i % 5 for i in n]})
    >>> rated = rated_split(ratings, None, None)
    >>> [len(part) for part in (rated.train, rated.validation, rated.test)]
    [25, 3, 4]
    """
    labelled = _labelled(ratings)
    user_ids = labelled["user_id"].unique(maintain_order=True)
    item_ids = labelled["item_id"].unique(maintain_order=True)
    users_E = labelled["user_id"].replace_strict(user_ids, range(len(user_ids))).to_numpy()
    rows_E = 1 + labelled["item_id"].replace_strict(item_ids, range(len(item_ids))).to_numpy()
    parts = _parts(len(labelled))
    of_user = _columns(users, "user_id", user_ids)
    of_item = with_year(_columns(items, "item_id", item_ids))
    seen_U, seen_N = np.unique(users_E[parts[0]]), np.unique(rows_E[parts[0]]) - 1
    schema = Schema(
        (
            row_field("user", "user", 1 + len(user_ids)),
            *_fields("user", of_user, seen_U),
            *TIME_FIELDS,
            row_field("item", "item", 1 + len(item_ids)),
            *_fields("item", of_item, seen_N),
        )
    ).without(without)
    numbers = [str(1 + row) for row in range(max(len(user_ids), len(item_ids)))]
    of_user["user"], of_item["item"] = numbers[: len(user_ids)], numbers[: len(item_ids)]
    times_E = labelled["timestamp"].to_numpy()
    users_US = schema.encode("user", of_user)
    requests_ES = np.concatenate([users_US[users_E], event_ids(schema, times_E)], axis=1)
    items_NS = np.pad(schema.encode("item", of_item), ((1, 0), (0, 0)))
    labels_E = labelled["label"].to_numpy().astype(np.float32)
    in_train_E = np.zeros(len(labelled), np.bool_)
    in_train_E[parts[0]] = True
    past = _past(users_E, times_E, rows_E, in_train_E & (labels_E == 1))
    every = Examples(requests_ES, rows_E.astype(np.int32)[:, None], labels_E[:, None, None], past)
    return Rated(schema, items_NS, *(every.take(part) for part in parts))


def fit_rated(
    model: str,
    rated: Rated,
    *,
    settings: Mapping[str, Any],
    seed: int,
    minutes: float | None,
    progress: Progress,
) -> dict[str, Any]:
    """Return the row of a model of fields: AUC and log loss on the test part, and what they cost.

    Training is stopped by the AUC of the validation part; the test part is looked at once.

    Raises:
        ValueError: the model or a setting is unknown, or a part has one outcome only.

    >>> from ouzel.recommender.options import Silent
    >>> fit_rated("deepmf", None, settings={}, seed=0, minutes=None, progress=Silent())
    Traceback (most recent call last):
    ...
    ValueError: there is no model of fields 'deepmf': did you mean 'deepfm'?
    """
    known = ctr_model_named(model)
    told = told_settings(settings, known.optimizer)
    own = {name: value for name, value in settings.items() if name not in told}
    config = replace(known.presets["S"], **checked_settings(known, "S", own, beside=TOLD))
    torch.manual_seed(seed)
    made = known.build(config, rated.schema, (ACTION,))
    result = fit_ctr(
        made,
        lambda rng: rated.train,
        rated.items_NS,
        CTRSettings(seed=seed, minutes=minutes, **told),
        validate=auc_validator(made, rated.validation, rated.items_NS),
        on_epoch=progress.epoch,
    )
    logits_E = predict(made, rated.test, rated.items_NS)[:, 0, 0]
    labels_E = rated.test.labels_EKA[:, 0, 0]
    return {
        "model": model,
        "split": RANDOM,
        "auc": round(auc(labels_E, logits_E), 6),
        "logloss": round(logloss(labels_E, logits_E), 6),
        "validation_auc": round(result.best_score, 6),
        "num_examples": [len(part) for part in (rated.train, rated.validation, rated.test)],
        "parameters": sum(weights.numel() for weights in made.parameters()),
        "seed": seed,
        "settings": dict(settings),
        "epochs": result.epochs,
        "best_epoch": result.best_epoch,
        "seconds": round(result.seconds, 1),
    }


def _labelled(ratings: pl.DataFrame) -> pl.DataFrame:
    rated = ratings.filter(pl.col("value").is_finite())
    if not len(rated):
        raise ValueError("no event has a value: give ratings, which are what likes are told by")
    low, high = rated["value"].min(), rated["value"].max()
    middle = (float(low) + float(high)) / 2  # type: ignore[arg-type]
    if low == high:
        raise ValueError(f"every value is {low!r}: give ratings that differ")
    return rated.filter(pl.col("value") != middle).with_columns(label=pl.col("value") > middle)


def _parts(count: int) -> list[NDArray[np.int64]]:
    """Return which examples are in each part, drawn at random."""
    order = np.random.default_rng(SPLIT_SEED).permutation(count)
    bounds = np.cumsum(PARTS)[:-1] * count // sum(PARTS)
    return [np.sort(part) for part in np.split(order, bounds)]


def _columns(frame: pl.DataFrame | None, name: str, ids: pl.Series) -> dict[str, list[str]]:
    """Return the columns of a table in the order of `ids`, '' where it says nothing."""
    if frame is None:
        return {}
    ordered = ids.to_frame(name).join(frame.unique(name, keep="first"), on=name, how="left")
    told = [column for column in frame.columns if column != name]
    return {column: ordered[column].fill_null("").to_list() for column in told}


def _fields(
    side: Side, columns: Mapping[str, Sequence[str]], seen: NDArray[np.int64]
) -> tuple[Field, ...]:
    """Return the fields of the columns of those that were seen in training."""
    of_seen = {name: [texts[at] for at in seen.tolist()] for name, texts in columns.items()}
    found = (field_of(name, side, texts) for name, texts in of_seen.items())
    return tuple(field for field in found if field is not None)


def _past(
    users_E: NDArray[np.int64],
    times_E: NDArray[np.int64],
    rows_E: NDArray[np.int64],
    told_E: NDArray[np.bool_],
) -> Past:
    """Return what came before each example: the rows of its user's earlier events in `told_E`."""
    order = np.lexsort((times_E, users_E))
    told = told_E[order]
    before: NDArray[np.int64] = np.cumsum(told) - told
    first = np.concatenate([[True], np.diff(users_E[order]) > 0])
    starts = np.maximum.accumulate(np.where(first, before, 0))
    starts_E: NDArray[np.int64] = np.empty_like(before)
    ends_E: NDArray[np.int64] = np.empty_like(before)
    starts_E[order], ends_E[order] = starts, before
    return Past(rows_E[order][told].astype(np.int32), starts_E, ends_E)
