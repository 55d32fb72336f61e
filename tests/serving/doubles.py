"""A home whose model is arithmetic: after item r the best item is r + 1, then r + 2, ...

The log is the real one; only the graphs are replaced, so what is tested here needs no training.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import numpy as np

from ouzel.events.interactions import History
from ouzel.events.log import EventLog
from ouzel.events.types import Interaction, ItemUpdate
from ouzel.inference.states import StateStats
from ouzel.ranking.pipeline import Pipeline
from ouzel.ranking.stages import DropForbidden, EncodeUser, FillFrom, SearchIndex, TopK
from ouzel.retrieval.exact import ExactIndex
from ouzel.retrieval.popular import PopularSource
from ouzel.retrieval.vmis import VMISkNN
from ouzel.serving.engine import Engine, Parts
from ouzel.serving.visitors import Visitors
from ouzel.serving.wire import ModelName
from ouzel.serving.writer import LogWriter

NUM_ITEMS = 40
NUM_ROWS = NUM_ITEMS + 1
HOSTILE = "<img src=x onerror=alert(1)>"


@dataclass
class Pool:
    states: OrderedDict[int, list[int]]
    num_slots: int = 8
    evictions: int = 0

    def __len__(self) -> int:
        return len(self.states)

    @property
    def bytes(self) -> int:
        return 100 * len(self.states)

    def users(self) -> list[int]:
        return list(self.states)


class NextItemStates:
    """Keeps the promises of `UserStates`; the vector of a history points at its last row + 1."""

    def __init__(self, load_history: Callable[[int], History]) -> None:
        self.stats = StateStats()
        self.pool = Pool(OrderedDict())
        self.broken: Exception | None = None
        self._load_history = load_history

    def observe(self, user: int, row: int, time_ms: int) -> None:
        if user in self.pool.states:
            times = self._load_history(user).times_ms
            if len(times) and time_ms < times[-1]:
                self.forget(user)
            else:
                self.pool.states[user].append(row)

    def forget(self, user: int) -> None:
        self.pool.states.pop(user, None)

    behind = 0

    def drain(self, most: int) -> int:
        return 0

    def contains(self, user: int) -> bool:
        return user in self.pool.states

    def query(self, users: Sequence[int], now_ms: int):
        if self.broken is not None:
            raise self.broken
        for user in users:
            if user not in self.pool.states:
                self.pool.states[user] = self._load_history(user).rows.tolist()
        vectors = [_vector(self.pool.states[user]) for user in users]
        return np.stack([_zero() if v is None else v for v in vectors]), [
            v is not None for v in vectors
        ]

    def query_session(self, history: History, now_ms: int):
        if self.broken is not None:
            raise self.broken
        return _vector(history.rows.tolist())

    def begin_audit(self, user: int) -> SimpleNamespace:
        same = self.pool.states[user] == self._load_history(user).rows.tolist()
        return SimpleNamespace(error=lambda: 0.0 if same else float("inf"))

    def end_audit(self, user: int, error: float) -> float:
        self.stats.audits += 1
        return error


def _zero():
    return np.zeros(NUM_ROWS, np.float32)


def _vector(rows):
    known = [row for row in rows if row < NUM_ROWS]
    if not known:
        return None
    places = np.arange(NUM_ROWS)
    return (-np.abs(places - (known[-1] + 1.1))).astype(np.float32)


def seed_log(log: EventLog) -> None:
    """Give the log 40 items and two users with a history; item 7 is everybody's favourite."""
    events = [
        ItemUpdate(
            event_id=f"item-{row}",
            timestamp_ms=row,
            item_id=f"i{row}",
            columns={"title": HOSTILE if row == 3 else f"Film number {row}", "genres": "Drama"},
        )
        for row in range(1, NUM_ROWS)
    ]
    for user, rows in (("ada", (10, 11, 12)), ("bo", (30, 31))):
        events += [
            Interaction(
                event_id=f"{user}-{row}",
                timestamp_ms=1_000_000 + row,
                item_id=f"i{row}",
                event="view",
                user_id=user,
            )
            for row in rows
        ]
    log.append(events)


def make_engine(home: Path, *, synchronous: str = "FULL") -> Engine:
    """Return an engine on the log in `home`, seeded on first use."""
    log = EventLog.open(home / "events.db", synchronous=synchronous)
    seed_log(log)
    writer = LogWriter(log)
    visitors = Visitors(log, writer, num_rows=NUM_ROWS)
    states = NextItemStates(visitors.history)
    counts = np.arange(NUM_ROWS, 0, -1).astype(np.float32)
    counts[[0, 7]] = 0, 1000
    popular = PopularSource(counts)
    neighbours = VMISkNN.fit(log.interactions())
    return Engine(
        Parts(
            log=log,
            states=states,
            pipeline=Pipeline(
                [
                    EncodeUser(states),
                    SearchIndex(ExactIndex(np.eye(NUM_ROWS, dtype=np.float32))),
                    FillFrom(neighbours, needs_history=True, optional=True),
                    FillFrom(popular),
                    DropForbidden(),
                    TopK(),
                ]
            ),
            popular={"popular": popular, "recent": PopularSource(counts[::-1], name="recent")},
            model=ModelName("NextItem", "0123456789abcdef+0"),
            num_rows=NUM_ROWS,
            visitors=visitors,
            writer=writer,
        )
    )
