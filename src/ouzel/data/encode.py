"""From ids to rows without a log: for evaluation, tests and benchmarks on a frame alone."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import polars as pl
from numpy.typing import NDArray

from ouzel.events.interactions import Interactions, group_by_user
from ouzel.events.verbs import enters_history


@dataclass(frozen=True)
class Encoded:
    """Interactions, and the ids behind their numbers.

    `item_ids[row - 1]` is the item of a row, `user_ids[u]` the user at position u.
    """

    interactions: Interactions
    user_ids: pl.Series
    item_ids: pl.Series


def encode(frame: pl.DataFrame) -> Encoded:
    """Return the history events of a canonical frame as rows, numbered by first appearance.

    Numbers are those that an empty log would hand out; ties in time keep the frame's order.

    >>> rows = {"user_id": ["u", "v", "u"], "item_id": ["b", "a", "a"], "timestamp": [2, 1, 1]}
    >>> frame = pl.DataFrame(rows).with_columns(event=pl.lit("view"), value=pl.lit(None))
    >>> encoded = encode(frame)
    >>> encoded.interactions.history(0).rows.tolist(), encoded.item_ids.to_list()
    ([2, 1], ['b', 'a'])
    """
    verbs = [verb for verb in frame["event"].unique().to_list() if enters_history(verb)]
    users, user_ids = _numbers(frame["user_id"])
    items, item_ids = _numbers(frame["item_id"])
    kept = frame["event"].is_in(verbs).to_numpy()
    values = frame["value"].cast(pl.Float32).fill_null(float("nan")).to_numpy()
    interactions = group_by_user(
        users[kept],
        (items[kept] + 1).astype(np.int32),
        frame["timestamp"].to_numpy()[kept],
        values[kept],
        num_rows=len(item_ids) + 1,
    )
    return Encoded(interactions, user_ids.gather(interactions.users_U), item_ids)


def _numbers(ids: pl.Series) -> tuple[NDArray[np.int64], pl.Series]:
    distinct = ids.unique(maintain_order=True)
    return ids.cast(pl.Enum(distinct)).to_physical().to_numpy().astype(np.int64), distinct
