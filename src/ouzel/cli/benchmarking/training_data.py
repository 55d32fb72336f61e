"""The events that training is measured on: a data set, or one made up of the size of ML-1M.

Shape legend: E = events, U = users, N = catalogue rows with the padding row 0.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ouzel.events.interactions import Interactions, group_by_user

NUM_USERS, NUM_ITEMS, NUM_EVENTS = 6_040, 3_706, 1_000_209
"""Of ML-1M."""

TASTES = 20
QUICK_SHARE = 10
"""A quick run has this many times fewer users."""


@dataclass(frozen=True)
class Stream:
    """Events in the order of time: `users_E`, `rows_E` from 1 on, `times_ms_E`, `values_E`."""

    users_E: NDArray[np.int64]
    rows_E: NDArray[np.int32]
    times_ms_E: NDArray[np.int64]
    values_E: NDArray[np.float32]

    @property
    def num_users(self) -> int:
        """Return U."""
        return int(self.users_E.max()) + 1

    @property
    def num_rows(self) -> int:
        """Return N."""
        return int(self.rows_E.max()) + 1

    def __len__(self) -> int:
        return len(self.rows_E)

    def first(self, count: int) -> Stream:
        """Return the first `count` events."""
        return Stream(
            self.users_E[:count],
            self.rows_E[:count],
            self.times_ms_E[:count],
            self.values_E[:count],
        )

    def interactions(self) -> Interactions:
        """Return the events by user."""
        return group_by_user(
            self.users_E, self.rows_E, self.times_ms_E, self.values_E, num_rows=self.num_rows
        )


def stream_of(data: Path | None, *, seed: int, quick: bool) -> Stream:
    """Return the events of a file or folder, or made up ones if there is none; fewer if `quick`.

    Raises:
        ValueError: the data cannot be read.

    >>> stream = stream_of(None, seed=0, quick=True)
    >>> 50_000 < len(stream) < 200_000, bool((np.diff(stream.times_ms_E) >= 0).all())
    (True, True)
    """
    if data is None:
        return made_up(NUM_USERS // (QUICK_SHARE if quick else 1), seed=seed)
    from ouzel.data.read import read

    columns = read(data).columns()
    order = np.argsort(columns.timestamps_ms_E, kind="stable")
    users, rows = _numbered(columns.user_ids, order), _numbered(columns.item_ids, order)
    stream = Stream(
        users,
        (rows + 1).astype(np.int32),
        columns.timestamps_ms_E[order],
        np.nan_to_num(columns.values_E[order], nan=1.0).astype(np.float32),
    )
    return stream.first(len(stream) // QUICK_SHARE) if quick else stream


def _numbered(ids: Sequence[str], order: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the number of each id in an order, from 0 on as they first appear."""
    numbers: dict[str, int] = {}
    found = [numbers.setdefault(ids[place], len(numbers)) for place in order.tolist()]
    return np.array(found, np.int64)


def made_up(num_users: int, *, seed: int) -> Stream:
    """Return events of users with tastes over items of unequal popularity, and ratings of 1 to 5.

    >>> made_up(20, seed=0).num_rows <= NUM_ITEMS + 1
    True
    """
    rng = np.random.default_rng(seed)
    taste_of_item = rng.integers(TASTES, size=NUM_ITEMS)
    taste_of_user = rng.integers(TASTES, size=num_users)
    popularity = -0.8 * np.log(1 + rng.permutation(NUM_ITEMS))
    lengths = np.clip(rng.lognormal(4.6, 1.0, num_users), 20, 2000).astype(int)
    lengths = np.clip(lengths * NUM_EVENTS // NUM_USERS // int(lengths.mean()), 20, 2000)
    users, rows = [], []
    for user, length in enumerate(lengths.tolist()):
        liked = 2.0 * (taste_of_item == taste_of_user[user])
        keys = popularity + liked + rng.gumbel(size=NUM_ITEMS)
        rows.append(1 + np.argsort(-keys)[:length])
        users.append(np.full(length, user))
    users_E, rows_E = np.concatenate(users), np.concatenate(rows)
    alike_E = taste_of_user[users_E] == taste_of_item[rows_E - 1]
    ratings_E = np.rint(3.2 + 0.8 * alike_E + rng.normal(0, 0.9, len(rows_E))).clip(1, 5)
    starts_U = rng.integers(10**10, size=num_users)
    times_E = starts_U[users_E] + rng.integers(10**8, size=len(rows_E))
    order = np.argsort(times_E, kind="stable")
    numbers = _numbered([str(user) for user in users_E], order)
    columns = (rows_E[order].astype(np.int32), times_E[order], ratings_E[order].astype(np.float32))
    return Stream(numbers, *columns)
