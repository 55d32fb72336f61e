"""Everything behind the routes: the log and its writer, the model's parts, who comes lately."""

from __future__ import annotations

import asyncio
import gc
import logging
import random
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ouzel.events.availability import Availability
from ouzel.events.log import EventLog
from ouzel.events.types import Event, Interaction, ItemUpdate
from ouzel.events.verbs import enters_history
from ouzel.inference.no_states import NoStates
from ouzel.inference.states import UserStates
from ouzel.ranking.direct import DirectSearch
from ouzel.ranking.filters import Filters
from ouzel.ranking.paths import paths
from ouzel.ranking.pipeline import Pipeline
from ouzel.ranking.scoring import RankCandidates
from ouzel.ranking.stages import SearchIndex
from ouzel.retrieval.scan_worker import ScanWorker
from ouzel.retrieval.trending import TrendingSource
from ouzel.retrieval.types import Source
from ouzel.serving.answers import Answers
from ouzel.serving.cache import ITEM_BYTES, LIST_BYTES, Cache
from ouzel.serving.child import core_numbers
from ouzel.serving.direct import Direct
from ouzel.serving.draining import Draining
from ouzel.serving.live import Live
from ouzel.serving.live_titles import LiveTitles
from ouzel.serving.memory import give_back
from ouzel.serving.metrics import Family, Metrics
from ouzel.serving.rebuilds import Encoder, Rebuilds
from ouzel.serving.stream import Stream
from ouzel.serving.threads import bound_threads_beside
from ouzel.serving.timing import Timing
from ouzel.serving.titles import TitleSearch
from ouzel.serving.visitors import Visitors
from ouzel.serving.warm_up import warm_up_requests
from ouzel.serving.wire import MAX_USERS, ModelName, ShownItem
from ouzel.serving.writer import LogWriter, Written

logger = logging.getLogger(__name__)

COLLECT_AFTER = (50_000, 20, 50)
"""Thresholds of Python's collector. With its own it goes over all visitors every few seconds."""

AUDIT_SECONDS = 5.0
"""How often the state of one live user is compared with a full re-encode."""

NEWEST_EVENTS = 50_000
"""How far back in the log the trending list begins: a tenth of a second's reading."""

TITLE = "title"
"""The column that items are found by."""


@dataclass(frozen=True, slots=True)
class Parts:
    """What is served: the log, the stages with their state pool, and the popular lists.

    `workers` is how many processes answer; the cores behind theirs are for what goes on beside.
    Answers that many get alike are kept in `cache_bytes`; 0 keeps none.
    """

    log: EventLog
    states: UserStates | NoStates
    pipeline: Pipeline
    popular: dict[str, Source]
    model: ModelName
    num_rows: int
    visitors: Visitors
    writer: LogWriter
    encoder: Encoder | None = None
    workers: int = 1
    cache_bytes: int = LIST_BYTES + ITEM_BYTES


class Engine:
    """A home in service. `start` and `close` frame its life in one event loop."""

    def __init__(self, parts: Parts) -> None:
        self.parts = parts
        self.log = parts.log
        self.model = parts.model
        self._trending = TrendingSource(parts.num_rows)
        self._trending.observe_all(parts.log.newest(NEWEST_EVENTS))
        self.popular: dict[str, Source] = {**parts.popular, "trending": self._trending}
        self.writer = parts.writer
        self.catalog = parts.log.catalog
        self._titles = LiveTitles(lambda: self.catalog.column(TITLE))
        self._availability = Availability(self.catalog, num_rows=parts.num_rows)
        self.filters = Filters(self.catalog, self._availability, num_rows=parts.num_rows)
        self.users = _some_users(parts.log)
        item_bytes = parts.cache_bytes * ITEM_BYTES // (LIST_BYTES + ITEM_BYTES)
        self.lists: Cache[list[ShownItem]] = Cache(max_bytes=parts.cache_bytes - item_bytes)
        self.items: Cache[bytes] = Cache(max_bytes=item_bytes)
        self._items_version = 0
        self.metrics = Metrics()
        self.ready = False
        self._rebuilds = None
        if parts.encoder is not None and not isinstance(parts.states, NoStates):
            self._rebuilds = Rebuilds(parts.states, parts.encoder)
        self.answers = Answers(
            paths(parts.pipeline, self.catalog, extra=[self._trending]),
            parts.visitors,
            self.catalog,
            states=parts.states,
            filters=self.filters,
            num_rows=parts.num_rows,
            rebuilds=self._rebuilds,
        )
        self.direct = self._direct()
        self._encoder = None if parts.encoder is None else parts.encoder.child
        self._states = parts.states
        self._visitors = parts.visitors
        self._searches = [s for s in parts.pipeline.stages if isinstance(s, SearchIndex)]
        self._beside = [
            s for s in parts.pipeline.stages if isinstance(s, SearchIndex | RankCandidates)
        ]
        # Asked for now: once the server runs, this thread keeps to the first one.
        self._other_cores = set(core_numbers()[parts.workers :])
        self._scanning: ScanWorker | None = None
        self._audits: asyncio.Task[None] | None = None
        self._draining = Draining(parts.states, self._other_cores)
        self._random = random.Random()
        self.metrics.families += self._families()
        self.stream = Stream(Live(self.metrics))

    @property
    def served_version(self) -> tuple[str, int]:
        """Return what changes with anything that an answer of nobody in particular is made from.

        Take it before making an answer that is to be kept under it.
        """
        return self.model.version, self._items_version

    def _direct(self) -> Direct | None:
        """Return what answers the plainest requests, if the standard path allows it."""
        search = DirectSearch.of(self.parts.pipeline)
        if search is None:
            return None
        return Direct(
            search,
            self.parts.visitors,
            self.catalog,
            hidden=lambda: self.filters.hidden(None),
            model=self.model,
            writer=self.writer,
            metrics=self.metrics,
            encodes=self._rebuilds is None,
        )

    @property
    def titles(self) -> TitleSearch:
        """Return the search of titles as it is now."""
        return self._titles.search

    @property
    def hidden_rows(self) -> tuple[NDArray[np.bool_], NDArray[np.int64]]:
        """Return the mask (N,) of what nobody may see, and (1,) how many it hides, as they are."""
        return self._availability.shared

    async def start(self) -> None:
        """Begin to write and audit, answer a few requests to warm up, then be ready."""
        bound_threads_beside()
        self.writer.start(self._apply, self._other_cores)
        self._scan_beside()
        if self._encoder is not None:
            self._encoder.start()
        asked = warm_up_requests(self.log, self.users)
        # All together first: that way an encoding process, if there is one, makes the states.
        await asyncio.gather(*(self.answers.answer(request, Timing()) for request in asked))
        for request in asked:
            self.answers.rank([request], [Timing()])
        gc.collect()
        give_back()
        # What lives now lives as long as the server: the collector need not visit it again.
        gc.freeze()
        gc.set_threshold(*COLLECT_AFTER)
        self._audits = asyncio.get_running_loop().create_task(self._audit_forever())
        self.ready = True

    async def close(self) -> None:
        """Write what waits, then close the log."""
        self.ready = False
        self.stream.close()
        self._titles.close()
        if self._audits is not None:
            self._audits.cancel()
        self._draining.close()
        if self._encoder is not None:
            self._encoder.close()
        if self._scanning is not None:
            asyncio.get_running_loop().remove_reader(self._scanning.fileno())
            # Who still waits for a pass is answered in the loop.
            for stage in self._beside:
                stage.work_with(None)
            self._scanning.close()
            self._scanning = None
        await self.writer.close()
        self.log.close()

    def _scan_beside(self) -> None:
        """Let the other cores search and rank, if there are some and kernels for it."""
        if not self._other_cores or not any(s.work_with(None) for s in self._beside):
            return
        try:
            self._scanning = ScanWorker(self._other_cores)
        except RuntimeError as error:
            logger.warning("searches stay in the event loop: %s", error)
            return
        for stage in self._beside:
            stage.work_with(self._scanning)
        asyncio.get_running_loop().add_reader(self._scanning.fileno(), self._scanning.collect)

    def why_not_ready(self) -> list[str]:
        """Return the reasons why requests or events are not welcome, none if they are."""
        reasons = [] if self.ready else ["the server is starting or stopping"]
        if self.writer.failure is not None:
            reasons.append(self.writer.failure)
        return reasons

    async def audit_one(self) -> float | None:
        """Return how far the state of a random live user is from a full re-encode.

        None if there is no live user, or if events are on their way, when log and state may
        rightly differ. The re-encode runs beside the loop: answers do not wait for it.
        """
        users = self._states.pool.users()
        if not users or self.writer.settled < self.writer.submitted:
            return None
        user = self._random.choice(users)
        # The history comes from the log itself, so that this audits what is held here as well.
        self._visitors.drop(user)
        audit = self._states.begin_audit(user)
        if audit is None:
            return None
        if self._rebuilds is None:
            error = await asyncio.to_thread(audit.error)
        else:
            error = await self._rebuilds.error_of(audit)
        failures = self._states.stats.audit_failures
        self._states.end_audit(user, error)
        if self._states.stats.audit_failures > failures:
            logger.warning("the state of a user was off by %g from its re-encode: dropped", error)
        return error

    async def _audit_forever(self) -> None:
        while True:
            await asyncio.sleep(AUDIT_SECONDS)
            try:
                await self.audit_one()
            except Exception:
                logger.exception("the audit of a user state failed")

    def _apply(self, events: Sequence[Event], receipts: Sequence[Written], ticket: int) -> None:
        # First, so that it holds even for changes that cannot take effect.
        self._items_version += any(isinstance(event, ItemUpdate) for event in events)
        try:
            for event, receipt in zip(events, receipts, strict=True):
                if receipt.status != "accepted":
                    continue
                if isinstance(event, ItemUpdate):
                    self._apply_item(event, receipt.row)
                elif isinstance(event, Interaction) and enters_history(event.event):
                    self._trending.observe(receipt.row, event.timestamp_ms)
            self._visitors.apply(self._states, events, receipts, ticket)
            self._prefetch(events, receipts)
            if self._states.behind:
                self._draining.soon()
        except Exception:
            # The log has the events: what is made anew from it has them too.
            for user in {receipt.user for receipt in receipts}:
                self._visitors.drop(user)
                self._states.forget(user)
            raise

    def _prefetch(self, events: Sequence[Event], receipts: Sequence[Written]) -> None:
        """Have the states made of users who begin to do something: they are likely to ask next."""
        if self._rebuilds is None or not self.ready:
            return
        for event, receipt in zip(events, receipts, strict=True):
            if isinstance(event, Interaction) and receipt.status == "accepted":
                self._rebuilds.prefetch(receipt.user)

    def _apply_item(self, item: ItemUpdate, row: int) -> None:
        self._availability.change(row, item.columns)
        self.filters.change(row)
        if TITLE in item.columns:
            self._titles.change(row, item.columns[TITLE])

    def _families(self) -> list[Family]:
        """Return what the metrics show of what is kept elsewhere."""
        return [
            Family("counter", "ouzel_states", "What happened to user states.", self._state_counts),
            Family(
                "gauge",
                "ouzel_state_audit_max_error",
                "Largest difference of an audited state from its full re-encode.",
                lambda: {"": self._states.stats.audit_max_error},
            ),
            Family(
                "counter",
                "ouzel_cache",
                "Answers that were kept and found, or not: lists for nobody in particular, items.",
                lambda: self.lists.counts("lists") | self.items.counts("items"),
            ),
            Family(
                "counter", "ouzel_log_writer", "What the writer of the log did.", self._log_counts
            ),
            Family(
                "counter",
                "ouzel_stage_failures",
                "Passes in which a stage raised.",
                lambda: self.answers.paths.failures,
            ),
            Family(
                "counter",
                "ouzel_stage_overruns",
                "Passes in which a stage went over its budget.",
                lambda: self.answers.paths.overruns,
            ),
            Family(
                "gauge",
                "ouzel_now",
                "State pool, states that lack an event, largest audited error, waiting requests "
                "and events, who listens to the stream, bytes of histories and of kept answers, "
                "recall of the item index (@10; of lists @100), readiness, if a process that "
                "encodes lives (0 where none is needed).",
                self._now,
            ),
        ]

    def _state_counts(self) -> dict[str, float]:
        stats = self._states.stats
        return {
            "hits": stats.hits,
            "misses": stats.misses,
            "appends": stats.appends,
            "rebuilds": stats.rebuilds,
            "invalidations": stats.invalidations,
            "evictions": self._states.pool.evictions,
            "audits": stats.audits,
            "audit_failures": stats.audit_failures,
            "prefetches": stats.prefetches,
        }

    def _log_counts(self) -> dict[str, float]:
        stats = self.writer.stats
        return {
            "commits": stats.commits,
            "events": stats.events,
            "seconds": stats.seconds,
            "failures": stats.failures,
            "dropped_impressions": stats.dropped,
        }

    def _now(self) -> dict[str, float]:
        stats, writer, pool = self._states.stats, self.writer, self._states.pool
        return {
            "states": len(pool),
            "state_slots": pool.num_slots if pool.bytes else 0,
            "states_behind": self._states.behind,
            "state_bytes": pool.bytes,
            "state_audit_max_error": stats.audit_max_error,
            "waiting_requests": self.answers.waiting
            + (0 if self.direct is None else self.direct.waiting),
            "waiting_events": writer.waiting,
            "stream_listeners": len(self.stream),
            "history_bytes": self._visitors.bytes,
            "cache_bytes": self.lists.bytes + self.items.bytes,
            "index_recall": min((s.index.recall for s in self._searches), default=1.0),
            "encoder": self._encoder is not None and self._encoder.alive,
            "reads": self.ready,
            "writes": writer.failure is None,
        }


def _some_users(log: EventLog) -> list[str]:
    """Return the ids of up to `MAX_USERS` users, spread over all rows; sessions left out."""
    rows = np.unique(np.linspace(0, log.num_users - 1, MAX_USERS).astype(int))
    ids = log.user_ids(rows.tolist()) if log.num_users else []
    return [
        user_id
        for row, user_id in zip(rows.tolist(), ids, strict=False)
        if log.user_row(user_id=user_id) == row
    ]
