"""Interactions as columns: what training, evaluation and neighbours read.

Shape legend: E = interactions, U = users, N = catalogue rows (row 0 is padding).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class History:
    """One user's interactions, oldest first: `rows` (n,) int32 and `times_ms` (n,) int64.

    `values` (n,) float32, such as ratings, are NaN where absent; None: nobody looked for them.
    """

    rows: NDArray[np.int32]
    times_ms: NDArray[np.int64]
    values: NDArray[np.float32] | None = None

    def __len__(self) -> int:
        return len(self.rows)

    def last(self, count: int) -> History:
        """Return the newest `count` interactions (all of them if there are fewer)."""
        return self.chosen(slice(max(0, len(self.rows) - count), None))

    def chosen(self, places: slice | NDArray[np.integer] | NDArray[np.bool_]) -> History:
        """Return the interactions at some places, in the order given."""
        values = None if self.values is None else self.values[places]
        return History(self.rows[places], self.times_ms[places], values)

    def followed_by(self, other: History) -> History:
        """Return these interactions and then others, with values if these have any."""
        values = self.values
        if values is not None:
            missing = np.full(len(other), np.nan, np.float32)
            values = np.concatenate([values, missing if other.values is None else other.values])
        return History(
            np.concatenate([self.rows, other.rows]),
            np.concatenate([self.times_ms, other.times_ms]),
            values,
        )


@dataclass(frozen=True)
class Interactions:
    """All interactions, grouped by user, each user's in (timestamp, log offset) order.

    `offsets_U1` (U+1,) int64: user u owns the slice `offsets[u]:offsets[u+1]` of the columns.
    `rows_E` int32 catalogue rows (>= 1), `times_ms_E` int64, `values_E` float32 (NaN if absent).
    `users_U` (U,) int64: the log's user row of each user here. `num_rows` counts catalogue rows
    with the padding row, so a table of item vectors has `num_rows` rows.
    """

    offsets_U1: NDArray[np.int64]
    rows_E: NDArray[np.int32]
    times_ms_E: NDArray[np.int64]
    values_E: NDArray[np.float32]
    users_U: NDArray[np.int64]
    num_rows: int

    @property
    def num_users(self) -> int:
        """Return U."""
        return len(self.users_U)

    def __len__(self) -> int:
        return len(self.rows_E)

    def history(self, user: int) -> History:
        """Return the history of the user at position `user` (0 <= user < U)."""
        span = slice(self.offsets_U1[user], self.offsets_U1[user + 1])
        return History(self.rows_E[span], self.times_ms_E[span], self.values_E[span])

    def lengths_U(self) -> NDArray[np.int64]:
        """Return the number of interactions of each user."""
        return np.diff(self.offsets_U1)

    def keep(self, mask_E: NDArray[np.bool_]) -> Interactions:
        """Return the interactions where `mask_E` holds; users left with none stay, empty."""
        counts = np.add.reduceat(np.append(mask_E, False).astype(np.int64), self.offsets_U1[:-1])
        counts[self.lengths_U() == 0] = 0
        return Interactions(
            np.concatenate([[0], np.cumsum(counts)]).astype(np.int64),
            self.rows_E[mask_E],
            self.times_ms_E[mask_E],
            self.values_E[mask_E],
            self.users_U,
            self.num_rows,
        )


@dataclass(frozen=True)
class Entries:
    """Interactions in the order of the log: `offsets_E` and `users_E` int64, `rows_E` int32."""

    offsets_E: NDArray[np.int64]
    users_E: NDArray[np.int64]
    rows_E: NDArray[np.int32]

    def __len__(self) -> int:
        return len(self.rows_E)


def group_by_user(
    users_E: NDArray[np.int64],
    rows_E: NDArray[np.int32],
    times_ms_E: NDArray[np.int64],
    values_E: NDArray[np.float32],
    *,
    num_rows: int,
) -> Interactions:
    """Return columns in log order as `Interactions`: a stable sort by (user, timestamp).

    >>> users, rows = np.array([7, 4, 7]), np.array([1, 2, 3], np.int32)
    >>> x = group_by_user(users, rows, np.array([30, 20, 10]), np.ones(3, np.float32), num_rows=4)
    >>> x.users_U.tolist(), x.history(1).rows.tolist()
    ([4, 7], [3, 1])
    """
    order = np.lexsort((times_ms_E, users_E))
    users, counts = np.unique(users_E, return_counts=True)
    return Interactions(
        np.concatenate([[0], np.cumsum(counts)]).astype(np.int64),
        rows_E[order],
        times_ms_E[order],
        values_E[order],
        users.astype(np.int64),
        num_rows,
    )


def from_histories(histories: Sequence[History], *, num_rows: int) -> Interactions:
    """Return `Interactions` whose user u is `histories[u]`, values absent.

    >>> visit = History(np.array([2, 1], np.int32), np.array([10, 20], np.int64))
    >>> x = from_histories([visit, visit.last(1)], num_rows=3)
    >>> x.offsets_U1.tolist(), x.rows_E.tolist()
    ([0, 2, 3], [2, 1, 1])
    """
    lengths = [len(history) for history in histories]
    rows = [history.rows for history in histories] or [np.empty(0, np.int32)]
    times = [history.times_ms for history in histories] or [np.empty(0, np.int64)]
    total = sum(lengths)
    return Interactions(
        np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
        np.concatenate(rows).astype(np.int32),
        np.concatenate(times).astype(np.int64),
        np.full(total, np.nan, np.float32),
        np.arange(len(lengths), dtype=np.int64),
        num_rows,
    )
