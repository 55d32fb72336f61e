"""Cleaning of event frames, one function a step; each returns a frame in the order it came.

The steps are those of the source design: missing and abnormal values, duplicates, sparse users
and items, ratings to implicit events, scales. Each says by `len` what it took away.
"""

from __future__ import annotations

from typing import Literal

import polars as pl


def drop_missing_values(frame: pl.DataFrame) -> pl.DataFrame:
    """Return the events that have a value.

    >>> frame = pl.DataFrame({"item_id": ["a", "b"], "value": [1.0, None]})
    >>> drop_missing_values(frame)["item_id"].to_list()
    ['a']
    """
    return frame.filter(pl.col("value").is_not_null() & pl.col("value").is_not_nan())


def drop_abnormal_values(frame: pl.DataFrame, *, spread: float = 3.0) -> pl.DataFrame:
    """Return the events whose value lies within `spread` interquartile ranges of the middle half.

    Events without a value stay. A range of zero removes nothing: then most values are equal
    and the rest are the information.

    Raises: ValueError if `spread` is not positive.

    >>> frame = pl.DataFrame({"value": [1.0, 2.0, 3.0, 4.0, 500.0]})
    >>> drop_abnormal_values(frame)["value"].to_list()
    [1.0, 2.0, 3.0, 4.0]
    """
    if not spread > 0:
        raise ValueError(f"spread {spread} is not positive: give 3 to be lenient, 1.5 to be strict")
    values = frame["value"].drop_nulls().drop_nans().cast(pl.Float64)
    low, high = values.quantile(0.25), values.quantile(0.75)
    if low is None or high is None or low == high:
        return frame
    margin = spread * (high - low)
    inside = pl.col("value").is_between(low - margin, high + margin)
    return frame.filter(pl.col("value").is_null() | pl.col("value").is_nan() | inside)


def drop_repeats(frame: pl.DataFrame, *, keep: Literal["first", "last"] = "last") -> pl.DataFrame:
    """Return one event of each (user, item): the first or the last in (timestamp, file) order.

    >>> frame = pl.DataFrame({"user_id": ["u"] * 2, "item_id": ["a"] * 2, "timestamp": [2, 1]})
    >>> drop_repeats(frame)["timestamp"].to_list()
    [2]
    """
    positioned = frame.with_row_index("_position").sort("timestamp", maintain_order=True)
    single = positioned.unique(["user_id", "item_id"], keep=keep, maintain_order=True)
    return single.sort("_position").drop("_position")


def k_core(frame: pl.DataFrame, *, users: int = 5, items: int = 5) -> pl.DataFrame:
    """Return the largest part in which each user has `users` events and each item `items`.

    Raises: ValueError if a threshold is below 1, or nothing is left.

    >>> frame = pl.DataFrame({"user_id": ["u", "u", "v"], "item_id": ["a", "b", "a"]})
    >>> k_core(frame, users=2, items=1)["item_id"].to_list()
    ['a', 'b']
    """
    if users < 1 or items < 1:
        raise ValueError(f"users {users} and items {items}: give thresholds of at least 1")
    before = -1
    while len(frame) != before:
        before = len(frame)
        frame = frame.filter(pl.len().over("item_id") >= items)
        frame = frame.filter(pl.len().over("user_id") >= users)
    if not len(frame):
        raise ValueError(
            f"no user with {users} events and item with {items} is left: lower the thresholds"
        )
    return frame


def implicit(frame: pl.DataFrame, *, threshold: float) -> pl.DataFrame:
    """Return the events rated `threshold` or better, as `like` without a value.

    Events without a value, such as clicks, stay as they are.

    >>> frame = pl.DataFrame({"event": ["rate"] * 2, "value": [5.0, 2.0]})
    >>> implicit(frame, threshold=4.0).rows()
    [('like', None)]
    """
    rated = pl.col("value").is_not_null()
    return frame.filter(~rated | (pl.col("value") >= threshold)).with_columns(
        event=pl.when(rated).then(pl.lit("like")).otherwise(pl.col("event")),
        value=pl.lit(None, pl.Float32),
    )


def normalise_values(
    frame: pl.DataFrame, *, scale: Literal["unit", "standard", "user_mean"] = "unit"
) -> pl.DataFrame:
    """Return the frame with values on a common scale; absent values stay absent.

    `unit`: 0 to 1 by smallest and largest; `standard`: mean 0, deviation 1; `user_mean`: each
    user's mean taken off, which removes who rates high and who low. Values that are all equal
    become 0.

    >>> frame = pl.DataFrame({"user_id": ["u", "u", "v"], "value": [1.0, 3.0, 5.0]})
    >>> normalise_values(frame)["value"].to_list()
    [0.0, 0.5, 1.0]
    """
    value = pl.col("value").cast(pl.Float64).fill_nan(None)
    if scale == "user_mean":
        centred = value - value.mean().over("user_id")
        return frame.with_columns(centred.cast(pl.Float32).alias("value"))
    middle, width = value.min(), value.max() - value.min()
    if scale == "standard":
        middle, width = value.mean(), value.std(ddof=0)
    scaled = (value - middle) / pl.when(width > 0).then(width).otherwise(1.0)
    return frame.with_columns(scaled.cast(pl.Float32).alias("value"))
