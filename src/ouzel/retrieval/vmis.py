"""VMIS-kNN: the sessions most like this one vote for what comes next.

An inverted index gives, for each item, the newest sessions that held it. A query walks the lists
of its last items, keeps the `recent` newest sessions met, of these the `neighbours` with the
largest overlap, and sums their votes. Later items of the query weigh more, common items less.
Needs no training beyond sorting, and answers for a visitor of one click.

Cost: fit sorts E interactions; a query sorts at most `last * recent` session numbers, then the
items of `neighbours` sessions. Nothing grows with the number of sessions or items.
Shape legend: N = catalogue rows, S = sessions, P = postings, I = items of all sessions.

References:
    Kersbergen, Sprangers, Schelter: Serenade - Low-Latency Session-Based Recommendation in
    e-Commerce at Scale, SIGMOD 2022 (algorithm VMIS-kNN).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from ouzel.events.interactions import Interactions
from ouzel.retrieval.sessions import LONGEST, PAUSE_MS, Sessions, cut_sessions
from ouzel.retrieval.topk import top_k
from ouzel.retrieval.types import Candidates, Query, visible

MATCH_REACH = 10
"""Votes fade by a tenth per step since the newest shared item, so older matches count nothing."""


@dataclass(frozen=True, slots=True)
class VMISConfig:
    """How far a query looks: `last` items, `recent` sessions, `neighbours` that vote.

    Raises:
        ValueError: a number is out of range.
    """

    recent: int = 1000
    neighbours: int = 200
    last: int = 9

    def __post_init__(self) -> None:
        if self.recent < 1 or self.neighbours < 1:
            raise ValueError(f"recent {self.recent}, neighbours {self.neighbours}: give 1 or more")
        if not 1 <= self.last < MATCH_REACH:
            raise ValueError(f"last is {self.last}: give 1 to {MATCH_REACH - 1}")


class Neighbourhood(NamedTuple):
    """What votes are counted with: the newest sessions of rows, the rows of sessions, weights.

    Row n was in the sessions `postings_P[starts_N1[n]:starts_N1[n + 1]]`, ascending.
    """

    starts_N1: NDArray[np.int64]
    postings_P: NDArray[np.int32]
    sessions: Sessions
    idf_N: NDArray[np.float32]
    config: VMISConfig


class VMISkNN:
    """Session neighbours as arrays; also a candidate source.

    >>> from ouzel.events.interactions import History, from_histories
    >>> visits = [History(np.array(rows, np.int32), np.array([1, 2])) for rows in ([1, 2], [3, 4])]
    >>> model = VMISkNN.fit(from_histories(visits, num_rows=5))
    >>> rows, scores = model.scores(np.array([1], np.int32))
    >>> rows
    array([1, 2], dtype=int32)
    """

    name = "vmis"

    def __init__(self, sessions: Sessions, config: VMISConfig) -> None:
        self._config = config
        self._sessions = sessions
        self._starts_N1, self._postings_P = sessions.newest_per_item(config.recent)
        counts_N = np.bincount(sessions.rows_I, minlength=sessions.num_rows)
        self._idf_N = np.log(max(1, len(sessions)) / np.maximum(1, counts_N)).astype(np.float32)

    @classmethod
    def fit(
        cls,
        x: Interactions,
        config: VMISConfig | None = None,
        *,
        gap_ms: int = PAUSE_MS,
        longest: int = LONGEST,
    ) -> Self:
        """Return the index of `x`, its histories cut into sessions as `cut_sessions` does."""
        sessions = cut_sessions(x, gap_ms=gap_ms, longest=longest)
        return cls(sessions, config or VMISConfig())

    @property
    def num_rows(self) -> int:
        """Return N."""
        return self._sessions.num_rows

    @property
    def neighbourhood(self) -> Neighbourhood:
        """Return what it counts with, for compiled code."""
        return Neighbourhood(
            self._starts_N1, self._postings_P, self._sessions, self._idf_N, self._config
        )

    def scores(self, rows_n: NDArray[np.int32]) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
        """Return the rows that neighbours of the session `rows_n` (oldest first) held, and votes.

        Rows are ascending and include those of the session itself. An item that every session
        holds has weight log(1) = 0. Rows the index does not know are passed over.
        """
        recent = _last_distinct(rows_n[(rows_n > 0) & (rows_n < self.num_rows)], self._config.last)
        sessions, votes = self._neighbours(recent)
        if not len(sessions):
            return np.empty(0, np.int32), np.empty(0, np.float32)
        rows_V, lengths = self._sessions.rows_of(sessions)
        # Integers all the way: equal votes are equal in whatever order they are added.
        packed = np.sort((rows_V.astype(np.int64) << 32) | np.repeat(votes, lengths))
        rows = packed >> 32
        starts = np.flatnonzero(np.diff(rows, prepend=-1))
        sums = np.add.reduceat(packed & 0xFFFFFFFF, starts)
        found = rows[starts].astype(np.int32)
        scale = 1.0 / (len(recent) * MATCH_REACH)
        return found, (sums * scale * self._idf_N[found]).astype(np.float32)

    def _neighbours(self, recent: NDArray[np.int32]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return the neighbour sessions and their votes; `recent` is newest last."""
        lists = [
            (self._newest_sessions(row) << 8) | position
            for position, row in enumerate(recent.tolist(), 1)
        ]
        if not lists:
            return np.empty(0, np.int64), np.empty(0, np.int64)
        packed = np.sort(np.concatenate(lists))
        ends = np.flatnonzero(np.diff(packed >> 8, append=-1))[-self._config.recent - 1 :]
        if len(ends) > self._config.recent:
            packed, ends = packed[ends[0] + 1 :], ends[1:] - ends[0] - 1
        if not len(ends):
            return np.empty(0, np.int64), np.empty(0, np.int64)
        positions = packed & 0xFF
        overlaps = np.add.reduceat(positions, np.concatenate([[0], ends[:-1] + 1]))
        # Session numbers rise with time, so the packed order breaks ties by recency.
        best = np.argsort((overlaps << 32) | np.arange(len(ends)))[-self._config.neighbours :]
        newest_shared = len(recent) + 1 - positions[ends[best]]
        return packed[ends[best]] >> 8, overlaps[best] * (MATCH_REACH - newest_shared)

    def _newest_sessions(self, row: int) -> NDArray[np.int64]:
        first, end = self._starts_N1[row : row + 2]
        return self._postings_P[first:end].astype(np.int64)

    def candidates(self, query: Query, k: int) -> Candidates:
        """Return the k rows with most votes for the query's history, none forbidden."""
        rows, scores = self.scores(query.history.rows)
        allowed = (scores > 0) & ~np.isin(rows, query.forbidden)
        if query.hidden is not None:
            allowed &= visible(rows, query.hidden)
        rows, scores = rows[allowed], scores[allowed]
        best = top_k(scores, k)
        return Candidates.of(self.name, rows[best], scores[best])

    def to_tensors(self) -> dict[str, NDArray[np.generic]]:
        """Return the sessions and the three numbers of the config; the rest follows from them."""
        config = self._config
        return {
            **self._sessions.to_tensors(),
            "config": np.array([config.recent, config.neighbours, config.last], np.int64),
        }

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, NDArray[np.generic]]) -> Self:
        """Return the model that `to_tensors` described.

        Raises:
            ValueError: a tensor is missing or does not fit the others.
        """
        if "config" not in tensors or tensors["config"].shape != (3,):
            raise ValueError("tensor 'config' is missing or has the wrong shape: damaged file")
        recent, neighbours, last = (int(value) for value in tensors["config"].tolist())
        return cls(Sessions.from_tensors(tensors), VMISConfig(recent, neighbours, last))


def _last_distinct(rows_n: NDArray[np.int32], count: int) -> NDArray[np.int32]:
    """Return the `count` newest distinct rows, newest last."""
    newest_first = dict.fromkeys(rows_n[::-1].tolist())
    return np.array(list(newest_first)[:count][::-1], np.int32)
