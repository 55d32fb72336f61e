"""The data of the serving benchmark: a large catalogue, and users with long histories.

Vectors for a large catalogue are trained vectors resampled with noise: every new item has a parent
among the trained ones, keeps a part of its parent's vector, and gets the rest as noise, so that
mean and variance of each dimension stay and neighbours stay neighbours. Where nothing was trained,
the parents are the centres of clusters of very unequal size. A user likes a few parents and takes
most items from among their children, the others by popularity.

Shape legend: N = catalogue rows (row 0 is padding), P = parents, D = dim, U = users, L = length.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ouzel.events.columns import EventColumns

NOISE_SHARE = 0.25
"""The part of an item's variance that is its own and not its parent's."""

ITEMS_AT_ONCE = 250_000
"""Vectors drawn in one go: ten million at once would take four times the memory of the result."""

FAVOURITES = 4
FAVOURITE_SHARE = 0.7
START_MS = 1_767_225_600_000
"""1 January 2026: every history begins in the minute after it."""


@dataclass(frozen=True)
class Workload:
    """`vectors_ND` float32, and `histories_UL` int32 rows, oldest first; users are `u0`, `u1`, ...

    The first `num_live` users have their states in the pool when measuring begins. The others are
    for the requests that miss it. Row r is the item `i<r>`.
    """

    vectors_ND: NDArray[np.float32]
    histories_UL: NDArray[np.int32]
    num_live: int

    @property
    def num_items(self) -> int:
        """Return the number of items, padding not counted."""
        return len(self.vectors_ND) - 1

    def item_ids(self) -> list[str]:
        """Return the ids of rows 1 to N - 1, in order."""
        return [f"i{row}" for row in range(1, len(self.vectors_ND))]

    def user_ids(self) -> list[str]:
        """Return the ids of all users, the live ones first."""
        return [f"u{user}" for user in range(len(self.histories_UL))]

    def times_ms(self, users: slice) -> NDArray[np.int64]:
        """Return when the events of some users happened, shaped as their histories."""
        length = self.histories_UL.shape[1]
        users_U1 = np.arange(len(self.histories_UL), dtype=np.int64)[users, None]
        return START_MS + 60_000 * np.arange(length) + 1_000 * ((users_U1 * 7) % 53)

    def columns(self, users: slice) -> EventColumns:
        """Return the histories of some users as clicks to import, a minute apart."""
        histories_UL = self.histories_UL[users]
        numbers_UL = np.arange(self.histories_UL.size).reshape(self.histories_UL.shape)[users]
        rows = histories_UL.ravel().tolist()
        return EventColumns(
            user_ids=np.repeat(self.user_ids()[users], histories_UL.shape[1]).tolist(),
            item_ids=[f"i{row}" for row in rows],
            verbs=["click"] * len(rows),
            timestamps_ms_E=self.times_ms(users).ravel(),
            values_E=np.full(len(rows), np.nan, np.float32),
            numbers_E=numbers_UL.ravel(),
        )


def cluster_centres(num_parents: int, dim: int, *, seed: int) -> NDArray[np.float32]:
    """Return parents (P + 1, D) for a model that was not trained; row 0 is padding.

    The spectrum decays, as that of trained vectors does.

    >>> cluster_centres(10, 4, seed=0).shape
    (11, 4)
    """
    rng = np.random.default_rng(seed)
    scale_D = np.arange(1, dim + 1) ** -0.5
    parents_PD = (rng.standard_normal((num_parents + 1, dim)) * scale_D).astype(np.float32)
    parents_PD[0] = 0.0
    return parents_PD


def make_workload(
    parents_PD: NDArray[np.float32],
    *,
    num_items: int,
    num_live: int,
    num_cold: int,
    length: int = 200,
    skew: float = 0.0,
    seed: int = 0,
) -> Workload:
    """Return a workload over `num_items` items resampled from `parents_PD` (row 0 is padding).

    Parents have about equally many children, or as many as Zipf's law with exponent `skew` says.

    Raises: ValueError if there are no parents or fewer items than a history is long.

    >>> parents = cluster_centres(10, 4, seed=0)
    >>> work = make_workload(parents, num_items=50, num_live=3, num_cold=2, length=20, seed=1)
    >>> work.vectors_ND.shape, work.histories_UL.shape
    ((51, 4), (5, 20))
    >>> len(work.columns(slice(0, 2)))
    40
    """
    if len(parents_PD) < 2:
        raise ValueError("parents_PD has no rows but the padding: give at least one parent")
    if num_items < length:
        raise ValueError(f"num_items {num_items} is less than a history of {length}: give more")
    rng = np.random.default_rng(seed)
    weights_P = rng.permutation(np.arange(1.0, len(parents_PD)) ** -skew)
    chosen_N = rng.choice(len(weights_P), num_items, p=weights_P / weights_P.sum())
    vectors_ND = _resample(parents_PD[1:], chosen_N, rng)
    histories_UL = _histories(chosen_N, num_live + num_cold, length, rng)
    return Workload(vectors_ND, histories_UL, num_live)


def _resample(
    parents_PD: NDArray[np.float32], chosen_N: NDArray[np.int64], rng: np.random.Generator
) -> NDArray[np.float32]:
    mean_D, deviation_D = parents_PD.mean(axis=0), parents_PD.std(axis=0)
    centred_PD = (parents_PD - mean_D) * np.float32(np.sqrt(1.0 - NOISE_SHARE))
    own_D = deviation_D * np.float32(np.sqrt(NOISE_SHARE))
    vectors_ND = np.zeros((len(chosen_N) + 1, len(mean_D)), np.float32)
    for start in range(0, len(chosen_N), ITEMS_AT_ONCE):
        chosen_n = chosen_N[start : start + ITEMS_AT_ONCE]
        noise_nD = rng.standard_normal((len(chosen_n), len(mean_D)), np.float32)
        made_nD = vectors_ND[start + 1 : start + 1 + len(chosen_n)]
        made_nD[:] = mean_D + centred_PD[chosen_n] + noise_nD * own_D
    return vectors_ND


def _histories(
    chosen_N: NDArray[np.int64], num_users: int, length: int, rng: np.random.Generator
) -> NDArray[np.int32]:
    """Return item rows (U, L): mostly children of the favourites of the user."""
    by_parent_N = np.argsort(chosen_N, kind="stable")
    counts_P = np.bincount(chosen_N)
    starts_P = np.concatenate([[0], np.cumsum(counts_P)[:-1]])
    shape = (num_users, length)
    favourites_UF = chosen_N[rng.integers(0, len(chosen_N), (num_users, FAVOURITES))]
    picked_UL = rng.integers(0, FAVOURITES, shape)
    parents_UL = np.take_along_axis(favourites_UF, picked_UL, axis=1)
    place_UL = (rng.random(shape) * counts_P[parents_UL]).astype(np.int64)
    liked_UL = by_parent_N[starts_P[parents_UL] + place_UL]
    # the square makes low rows popular: a third of the picks fall on a ninth of the catalogue
    others_UL = (len(chosen_N) * rng.random(shape) ** 2).astype(np.int64)
    rows_UL = np.where(rng.random(shape) < FAVOURITE_SHARE, liked_UL, others_UL)
    return (rows_UL + 1).astype(np.int32)
