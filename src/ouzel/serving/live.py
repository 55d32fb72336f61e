"""What a server did in the last moment: rates, and quantiles from what its histograms gained.

Nothing is measured for this. Two readings of the counts that `/metrics` shows are held against
each other, and only while somebody listens.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import msgspec
import numpy as np
from numpy.typing import NDArray

from ouzel.events import clock
from ouzel.serving.metrics import FORWARDED, Histograms, Metrics, quantile_ms

LISTS = ("recommend", "similar", "popular", "rank")
"""The routes whose parts and stages are told together."""

STATES, CACHES, NOW = "ouzel_states", "ouzel_cache", "ouzel_now"
"""Names of the families (see `Metrics`) that a tick tells of."""

Counts = dict[tuple[str, ...], NDArray[np.int64]]


class Spread(msgspec.Struct, frozen=True):
    """How long something took, in milliseconds, and how often it happened a second.

    A quantile is exact to the bucket of the histogram: to about a third of its value.
    """

    per_s: float
    p50_ms: float
    p99_ms: float


class Found(msgspec.Struct, frozen=True):
    """How often something was there already; `share` is of those who looked, null if none did."""

    hits: int
    misses: int
    share: float | None


class PoolTick(msgspec.Struct, frozen=True):
    """User states: how many are held, of how many at most, their bytes, and who was found."""

    states: int
    slots: int
    bytes: int
    found: Found


class AuditTick(msgspec.Struct, frozen=True):
    """States compared with a full re-encode: how far the worst ever was, and counts since start."""

    max_error: float
    audits: int
    failures: int


class Tick(msgspec.Struct, frozen=True):
    """What happened in the last `seconds`, up to `time_ms`, and what there is now.

    `lists` are answers that are lists, null if there were none; `answers` are by route, `parts` and
    `stages` those of all lists together. `refused` are answers of 4xx, `failed` those of 5xx,
    `degraded` lists for which a stage had to be replaced; all three, as `requests` and `events`, a
    second. `waiting` is who waits now: requests for a pass, events for the disk.
    """

    time_ms: int
    seconds: float
    requests: float
    events: float
    refused: float
    failed: float
    degraded: float
    lists: Spread | None
    answers: dict[str, Spread]
    parts: dict[str, Spread]
    stages: dict[str, Spread]
    waiting: dict[str, int]
    caches: dict[str, Found]
    pool: PoolTick
    audit: AuditTick


@dataclass(slots=True)
class _Reading:
    """All counts at one moment."""

    at: float = 0.0
    counts: dict[str, float] = field(default_factory=dict)
    lists: Counts = field(default_factory=dict)
    answers: Counts = field(default_factory=dict)
    parts: Counts = field(default_factory=dict)
    stages: Counts = field(default_factory=dict)
    states: Mapping[str, float] = field(default_factory=dict)
    caches: Mapping[str, float] = field(default_factory=dict)


class Live:
    """Tells of the time since it last told.

    >>> from ouzel.serving.timing import Timing
    >>> metrics, now = Metrics(), iter([0.0, 2.0])
    >>> live = Live(metrics, monotonic=lambda: next(now))
    >>> metrics.request(Timing(), 404)
    >>> tick = live.tick()
    >>> tick.seconds, tick.requests, tick.refused, list(tick.answers)
    (2.0, 0.5, 0.5, ['other'])
    """

    def __init__(
        self, metrics: Metrics, *, monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        self._metrics = metrics
        self._monotonic = monotonic
        self._last = self._reading()

    def restart(self) -> None:
        """Let the next tick tell of the time from now on."""
        self._last = self._reading()

    def tick(self) -> Tick:
        """Return what happened since the last tick, and what there is now."""
        before, now = self._last, self._reading()
        self._last = now
        seconds = max(now.at - before.at, 1e-3)
        rates = {
            name: round((count - before.counts[name]) / seconds, 3)
            for name, count in now.counts.items()
        }
        state = self._family(NOW)
        states = _gain(before.states, now.states)
        return Tick(
            time_ms=clock.now_ms(),
            seconds=round(seconds, 3),
            **rates,
            lists=_spreads(before.lists, now.lists, seconds).get(""),
            answers=_spreads(before.answers, now.answers, seconds),
            parts=_spreads(before.parts, now.parts, seconds),
            stages=_spreads(before.stages, now.stages, seconds),
            waiting={kind: int(state.get(f"waiting_{kind}", 0)) for kind in ("requests", "events")},
            caches=_caches(_gain(before.caches, now.caches)),
            pool=PoolTick(
                int(state.get("states", 0)),
                int(state.get("state_slots", 0)),
                int(state.get("state_bytes", 0)),
                _found(states.get("hits", 0), states.get("misses", 0)),
            ),
            audit=AuditTick(
                state.get("state_audit_max_error", 0.0),
                int(now.states.get("audits", 0)),
                int(now.states.get("audit_failures", 0)),
            ),
        )

    def _reading(self) -> _Reading:
        metrics = self._metrics
        metrics.count()
        statuses: defaultdict[int, int] = defaultdict(int)
        for (route, status), count in metrics.requests.items():
            if route != FORWARDED:  # The writer counts them by their own.
                statuses[status // 100] += count
        return _Reading(
            self._monotonic(),
            {
                "requests": sum(statuses.values()),
                "events": metrics.events.get("accepted", 0),
                "refused": statuses[4],
                "failed": statuses[5],
                "degraded": sum(metrics.degraded.values()),
            },
            _of_lists(metrics.answers),
            {
                key: histogram.counts.copy()
                for key, histogram in metrics.answers.items()
                if key[0] != FORWARDED
            },
            _of_lists(metrics.parts),
            _of_lists(metrics.stages),
            dict(self._family(STATES)),
            dict(self._family(CACHES)),
        )

    def _family(self, name: str) -> Mapping[str, float]:
        readings = (family.reading for family in self._metrics.families if family.name == name)
        return next((reading() for reading in readings), {})


def _of_lists(histograms: Histograms) -> Counts:
    """Return the counts of the routes that make lists, added up; by "" where they have no name."""
    counts: Counts = {}
    for (route, *name), histogram in histograms.items():
        if route in LISTS:
            key = (name[0] if name else "",)
            counts[key] = counts.get(key, 0) + histogram.counts
    return counts


def _spreads(before: Counts, now: Counts, seconds: float) -> dict[str, Spread]:
    """Return the spread of what was counted in between, where there was anything."""
    spreads: dict[str, Spread] = {}
    for key, counts in now.items():
        gained = (counts - before[key] if key in before else counts).tolist()
        total = sum(gained)
        if total:
            spreads[key[0]] = Spread(
                round(total / seconds, 3),
                round(quantile_ms(gained, 0.5), 4),
                round(quantile_ms(gained, 0.99), 4),
            )
    return spreads


def _gain(before: Mapping[str, float], now: Mapping[str, float]) -> dict[str, float]:
    return {name: value - before.get(name, 0) for name, value in now.items()}


def _caches(gained: Mapping[str, float]) -> dict[str, Found]:
    """Return what each cache was found to hold; its counts end in `_hits` and `_misses`."""
    names = [name.removesuffix("_hits") for name in gained if name.endswith("_hits")]
    return {name: _found(gained[f"{name}_hits"], gained[f"{name}_misses"]) for name in names}


def _found(hits: float, misses: float) -> Found:
    looked = hits + misses
    return Found(int(hits), int(misses), round(hits / looked, 4) if looked else None)
