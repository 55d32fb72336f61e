"""Interactions as a sparse matrix of users and items, each pair once.

Shape legend: U = users, N = catalogue rows with the padding row 0, E = entries, T = events, P =
pairs of entries of one user, B = lines of a chunk, L = longest of them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ouzel.events.interactions import Interactions

BLOCK_PAIRS = 1 << 18
"""Pairs that are counted at once, so that they stay in cache; a row with more is a block."""

COUNTED_CELLS = 1 << 22
"""Largest block that is counted in a dense array; larger ones are sorted."""

DENSE_ROWS = 16_000
"""Up to here the whole product may be made as a dense matrix: 1 GiB."""

DENSE_GAIN = 200
"""Multiply-adds of a dense product that take as long as counting one pair."""

DENSE_BLOCK = 1 << 24
"""Cells of the lines that are multiplied at once."""

CHUNK_CELLS = 1 << 22
"""Numbers that are gathered at once: 16 MiB of float32."""


@dataclass(frozen=True)
class Matrix:
    """Line u holds the distinct rows `rows_E[offsets_U1[u]:offsets_U1[u + 1]]`, ascending.

    Transposed, the lines are catalogue rows and what they hold are users.
    """

    offsets_U1: NDArray[np.int64]
    rows_E: NDArray[np.int32]
    num_rows: int

    @property
    def num_users(self) -> int:
        """Return U, the number of lines."""
        return len(self.offsets_U1) - 1

    def __len__(self) -> int:
        return len(self.rows_E)

    def line(self, user: int) -> NDArray[np.int32]:
        """Return the rows of one line."""
        return self.rows_E[self.offsets_U1[user] : self.offsets_U1[user + 1]]

    def lengths_U(self) -> NDArray[np.int64]:
        """Return the number of rows in each line."""
        return np.diff(self.offsets_U1)

    def counts_N(self) -> NDArray[np.int64]:
        """Return in how many lines each row is."""
        return np.bincount(self.rows_E, minlength=self.num_rows)

    def users_E(self) -> NDArray[np.int32]:
        """Return the line of each entry."""
        return np.repeat(np.arange(self.num_users, dtype=np.int32), self.lengths_U())

    def padded(self, lines_B: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the rows (B, L) of some lines, padded with 0."""
        starts_B = self.offsets_U1[lines_B]
        lengths_B = self.offsets_U1[lines_B + 1] - starts_B
        column_L = np.arange(max(1, int(lengths_B.max())))
        there_BL = column_L < lengths_B[:, None]
        places_BL = np.where(there_BL, starts_B[:, None] + column_L, 0)
        return np.where(there_BL, self.rows_E[places_BL], 0).astype(np.int64)

    def transposed(self) -> Matrix:
        """Return the same entries with lines and rows exchanged."""
        order = np.argsort(self.rows_E, kind="stable")
        offsets = np.concatenate([[0], np.cumsum(self.counts_N())]).astype(np.int64)
        return Matrix(offsets, self.users_E()[order], self.num_users)


@dataclass(frozen=True)
class OrderedMatrix(Matrix):
    """A matrix that knows the T events too: who, what came right before (0: nothing), and what."""

    users_T: NDArray[np.int64]
    before_T: NDArray[np.int32]
    next_T: NDArray[np.int32]


def ordered_matrix_of(interactions: Interactions) -> OrderedMatrix:
    """Return who had to do with what, and in which order.

    Raises:
        ValueError: there is nothing in it, or a row is outside the catalogue.

    >>> from ouzel.events.interactions import History, from_histories
    >>> visit = History(np.array([3, 1, 3], np.int32), np.array([10, 20, 30]))
    >>> ordered_matrix_of(from_histories([visit, visit.last(1)], num_rows=4)).before_T
    array([0, 3, 1, 0], dtype=int32)
    """
    matrix, lengths_U = matrix_of(interactions), interactions.lengths_U()
    before_T = np.concatenate([[0], interactions.rows_E[:-1]]).astype(np.int32)
    before_T[interactions.offsets_U1[:-1][lengths_U > 0]] = 0
    users_T = np.repeat(np.arange(interactions.num_users), lengths_U)
    parts = (matrix.offsets_U1, matrix.rows_E, matrix.num_rows)
    return OrderedMatrix(*parts, users_T, before_T, interactions.rows_E)


@dataclass(frozen=True)
class RatedMatrix:
    """The same with a value for each pair: `values_E` float32, none of them NaN."""

    pairs: Matrix
    values_E: NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.pairs)

    def transposed(self) -> RatedMatrix:
        """Return the same entries with lines and rows exchanged."""
        order = np.argsort(self.pairs.rows_E, kind="stable")
        return RatedMatrix(self.pairs.transposed(), self.values_E[order])


def rated_matrix_of(interactions: Interactions) -> RatedMatrix:
    """Return who rated what, and how: the newest value of each pair.

    Events without a value are left out.

    Raises:
        ValueError: no event has a value, all values are the same, one is infinite, or a row is
            outside the catalogue.

    >>> from ouzel.events.interactions import group_by_user
    >>> users, rows, times = np.zeros(3, np.int64), np.array([2, 1, 2], np.int32), np.arange(3)
    >>> x = group_by_user(users, rows, times, np.array([1, 5, 3], np.float32), num_rows=3)
    >>> rated = rated_matrix_of(x)
    >>> rated.pairs.line(0).tolist(), rated.values_E.tolist()
    ([1, 2], [5.0, 3.0])
    """
    there_E = ~np.isnan(interactions.values_E)
    if not there_E.any():
        raise ValueError(
            f"none of {len(interactions):,} events has a value: add a column `value` (or name the "
            "one there is with --map value=NAME), or take a model that needs none, such as ials"
        )
    rated = interactions.keep(there_E)
    low, high = float(rated.values_E.min()), float(rated.values_E.max())
    if not (np.isfinite(low) and np.isfinite(high)):
        raise ValueError(f"values reach from {low} to {high}: leave out those that are infinite")
    if low == high:
        raise ValueError(
            f"all {len(rated):,} ratings are {low:g}, which tells no item from another: take a "
            "model that needs no values, such as ials"
        )
    pairs = matrix_of(rated)
    users_E = np.repeat(np.arange(rated.num_users), rated.lengths_U())
    codes_E = users_E * rated.num_rows + rated.rows_E
    _, newest = np.unique(codes_E[::-1], return_index=True)
    return RatedMatrix(pairs, rated.values_E[::-1][newest])


def matrix_of(interactions: Interactions) -> Matrix:
    """Return who had to do with what, however often.

    Raises:
        ValueError: there is nothing in it, or a row is outside the catalogue.

    >>> from ouzel.events.interactions import History, from_histories
    >>> visit = History(np.array([3, 1, 3], np.int32), np.array([10, 20, 30]))
    >>> matrix_of(from_histories([visit], num_rows=4)).line(0)
    array([1, 3], dtype=int32)
    """
    if not len(interactions):
        raise ValueError("there are no interactions to fit a model to: add data")
    rows_E, num_rows = interactions.rows_E, interactions.num_rows
    if int(rows_E.min()) < 1 or int(rows_E.max()) >= num_rows:
        raise ValueError(
            f"rows reach from {rows_E.min()} to {rows_E.max()}: a catalogue of {num_rows} rows has "
            f"1 to {num_rows - 1}"
        )
    users_E = np.repeat(np.arange(interactions.num_users), interactions.lengths_U())
    return matrix_of_pairs(users_E, rows_E, num_users=interactions.num_users, num_rows=num_rows)


def matrix_of_pairs(
    users_E: NDArray[np.int64], rows_E: NDArray[np.int32], *, num_users: int, num_rows: int
) -> Matrix:
    """Return pairs of users and rows, in any order and however often, as a matrix.

    >>> matrix = matrix_of_pairs(np.array([1, 1]), np.array([2, 2]), num_users=2, num_rows=3)
    >>> matrix.offsets_U1.tolist(), matrix.rows_E.tolist()
    ([0, 0, 1], [2])
    """
    pairs = np.unique(users_E * num_rows + rows_E)
    lengths = np.bincount(pairs // num_rows, minlength=num_users)
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    return Matrix(offsets, (pairs % num_rows).astype(np.int32), num_rows)


def chunks(lengths_U: NDArray[np.int64], dim: int) -> Iterator[NDArray[np.int64]]:
    """Yield lines (B,) of like length, few enough for a vector of each of their rows.

    Vectors are of `dim` numbers; a matrix (dim, dim) for each line has room too.

    >>> [chunk.tolist() for chunk in chunks(np.array([5, 1, 4]), 8)]
    [[1, 2, 0]]
    """
    order = np.argsort(lengths_U, kind="stable")
    stop = len(order)
    while stop:
        longest = max(1, int(lengths_U[order[stop - 1]]))
        start = max(0, stop - max(1, CHUNK_CELLS // (dim * max(longest, dim))))
        yield order[start:stop]
        stop = start


def cooccurrences(
    matrix: Matrix, weights_U: NDArray[np.float64] | None = None
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]]:
    """Yield rows, other rows and in how many lines they are together, ascending, block by block.

    A line counts as its weight. A row is with itself in every line that it is in. Cost: the sum of
    the squares of the lengths of all lines, or U N^2 / 2 multiply-adds where that is less work.

    >>> both = Matrix(np.array([0, 2, 3]), np.array([1, 2, 2], np.int32), 3)
    >>> [[part.tolist() for part in block] for block in cooccurrences(both)]
    [[[1, 1, 2, 2], [1, 2, 1, 2], [1.0, 1.0, 1.0, 2.0]]]
    """
    lengths_U, num_rows = matrix.lengths_U(), matrix.num_rows
    dense = matrix.num_users * num_rows**2 // (2 * DENSE_GAIN)
    if num_rows <= DENSE_ROWS and dense < int((lengths_U**2).sum()):
        yield from _multiplied(matrix, weights_U)
        return
    lines = matrix.transposed()
    pairs_E1 = np.concatenate([[0], np.cumsum(lengths_U[lines.rows_E])])
    pairs_N1 = pairs_E1[lines.offsets_U1]
    first = 0
    while first < num_rows:
        mark = pairs_N1[first] + BLOCK_PAIRS
        stop = max(first + 1, int(np.searchsorted(pairs_N1, mark, side="right")) - 1)
        span = slice(lines.offsets_U1[first], lines.offsets_U1[stop])
        users, lengths = lines.rows_E[span], lengths_U[lines.rows_E[span]]
        local = np.repeat(np.arange(stop - first), np.diff(lines.offsets_U1[first : stop + 1]))
        before = np.cumsum(lengths) - lengths
        places = np.repeat(matrix.offsets_U1[users] - before, lengths) + np.arange(lengths.sum())
        codes = np.repeat(local * num_rows, lengths) + matrix.rows_E[places]
        weights = None if weights_U is None else np.repeat(weights_U[users], lengths)
        found, sums = _summed(codes, weights, (stop - first) * num_rows)
        if len(found):
            yield first + found // num_rows, found % num_rows, sums
        first = stop


def _multiplied(
    matrix: Matrix, weights_U: NDArray[np.float64] | None
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]]:
    """Yield what `cooccurrences` does, from one dense product."""
    num_rows = matrix.num_rows
    product_NN = np.zeros((num_rows, num_rows), np.float32)
    step = max(1, DENSE_BLOCK // num_rows)
    for first in range(0, matrix.num_users, step):
        stop = min(first + step, matrix.num_users)
        lengths = matrix.lengths_U()[first:stop]
        span = slice(matrix.offsets_U1[first], matrix.offsets_U1[stop])
        block = np.zeros((stop - first, num_rows), np.float32)
        roots = np.ones(len(block)) if weights_U is None else np.sqrt(weights_U[first:stop])
        lines = np.repeat(np.arange(len(block)), lengths)
        block[lines, matrix.rows_E[span]] = roots[lines]
        product_NN += block.T @ block
    rows, others = np.nonzero(product_NN)
    yield rows, others, product_NN[rows, others].astype(np.float64)


def _summed(
    codes_P: NDArray[np.int64], weights_P: NDArray[np.float64] | None, size: int
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Return the distinct codes, ascending, and the sum of the weights of each."""
    if size <= COUNTED_CELLS:
        counts = np.bincount(codes_P)
        found = np.flatnonzero(counts)
        sums = counts if weights_P is None else np.bincount(codes_P, weights_P)
        return found, sums[found].astype(np.float64)
    found, places = np.unique(codes_P, return_inverse=True)
    return found, np.bincount(places, weights_P).astype(np.float64)
