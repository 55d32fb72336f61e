"""Sessions cut from histories, as arrays: what neighbours are searched among.

Shape legend: S = sessions, I = items of all sessions, N = catalogue rows, P = postings, E =
interactions.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from ouzel.events.interactions import Interactions

PAUSE_MS = 30 * 24 * 3600 * 1000
"""A pause of thirty days ends a session. Chosen with `LONGEST` on validation events of
MovieTweetings and ML-1M: half an hour loses every visitor who rates a film a week."""

LONGEST = 20
"""Events after which a session ends anyhow: a history of hundreds resembles everybody's."""


@dataclass(frozen=True, slots=True)
class Sessions:
    """Session s holds the distinct rows `rows_I[offsets[s]:offsets[s + 1]]`, ascending.

    Session numbers rise with the time of the session's last event.
    """

    offsets_S1: NDArray[np.int64]
    rows_I: NDArray[np.int32]
    num_rows: int

    def __len__(self) -> int:
        return len(self.offsets_S1) - 1

    def rows_of(self, sessions: NDArray[np.int64]) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
        """Return the rows of `sessions`, one session after another, and each one's length."""
        starts = self.offsets_S1[sessions]
        lengths = self.offsets_S1[sessions + 1] - starts
        before = np.cumsum(lengths) - lengths
        return self.rows_I[np.repeat(starts - before, lengths) + np.arange(lengths.sum())], lengths

    def newest_per_item(self, count: int) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
        """Return offsets (N + 1,) and, ascending, each row's `count` newest sessions (P,)."""
        sessions_I = np.repeat(np.arange(len(self)), np.diff(self.offsets_S1))
        order = np.argsort(self.rows_I, kind="stable")
        counts_N = np.bincount(self.rows_I, minlength=self.num_rows)
        from_end = np.repeat(np.cumsum(counts_N), counts_N) - np.arange(len(order))
        kept_N1 = np.concatenate([[0], np.cumsum(np.minimum(counts_N, count))])
        return kept_N1.astype(np.int64), sessions_I[order[from_end <= count]].astype(np.int32)

    def to_tensors(self) -> dict[str, NDArray[np.generic]]:
        """Return `offsets` (S + 1,), `rows` (I,) and `num_rows` (1,)."""
        return {
            "offsets": self.offsets_S1,
            "rows": self.rows_I,
            "num_rows": np.array([self.num_rows], np.int64),
        }

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, NDArray[np.generic]]) -> Self:
        """Return the sessions that `to_tensors` described.

        Raises:
            ValueError: a tensor is missing, or the offsets or rows reach outside.
        """
        if missing := {"offsets", "rows", "num_rows"} - set(tensors):
            raise ValueError(f"tensor {sorted(missing)[0]!r} is missing: the file is damaged")
        offsets = np.asarray(tensors["offsets"], np.int64)
        rows = np.asarray(tensors["rows"], np.int32)
        num_rows = int(np.asarray(tensors["num_rows"], np.int64)[0])
        if offsets[0] != 0 or offsets[-1] != len(rows) or (np.diff(offsets) < 0).any():
            raise ValueError("tensor 'offsets' does not fit the tensor 'rows': the file is damaged")
        if len(rows) and not (rows.min() > 0 and rows.max() < num_rows):
            raise ValueError(f"tensor 'rows' reaches outside 1..{num_rows - 1}: damaged file")
        return cls(offsets, rows, num_rows)


def cut_sessions(x: Interactions, *, gap_ms: int = PAUSE_MS, longest: int = LONGEST) -> Sessions:
    """Return the sessions of `x`: histories cut at pauses over `gap_ms` and every `longest` events.

    Sessions with one distinct item say nothing about what goes together and are left out.

    Raises:
        ValueError: `gap_ms` is negative or `longest` is under 2.

    >>> from ouzel.events.interactions import History, from_histories
    >>> visit = History(np.array([2, 1, 3, 1], np.int32), np.array([0, 5, 90, 95]))
    >>> cut_sessions(from_histories([visit], num_rows=4), gap_ms=30).rows_I
    array([1, 2, 1, 3], dtype=int32)
    """
    if gap_ms < 0 or longest < 2:
        raise ValueError(
            f"gap_ms is {gap_ms}, longest is {longest}: give a pause of 0 or more and at least 2"
        )
    begins_E = np.zeros(len(x), np.bool_)
    begins_E[x.offsets_U1[:-1][x.lengths_U() > 0]] = True
    begins_E[1:] |= np.diff(x.times_ms_E) > gap_ms
    firsts_E = np.flatnonzero(begins_E)[np.cumsum(begins_E) - 1]
    begins_E |= (np.arange(len(x)) - firsts_E) % longest == 0
    numbers_E = np.cumsum(begins_E) - 1
    last_S = np.append(np.flatnonzero(begins_E)[1:], len(x))[: int(begins_E.sum())] - 1
    by_time_S = np.argsort(x.times_ms_E[last_S], kind="stable")
    rank_S = np.empty_like(by_time_S)
    rank_S[by_time_S] = np.arange(len(by_time_S))
    pairs = np.unique(rank_S[numbers_E] * x.num_rows + x.rows_E)
    lengths_S = np.bincount(pairs // x.num_rows, minlength=len(rank_S))
    kept = pairs[np.repeat(lengths_S, lengths_S) > 1]
    offsets = np.concatenate([[0], np.cumsum(lengths_S[lengths_S > 1])]).astype(np.int64)
    return Sessions(offsets, (kept % x.num_rows).astype(np.int32), x.num_rows)
