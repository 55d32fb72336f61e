"""What `/metrics` tells, in the text format of Prometheus; labels are of bounded variety.

Counting must cost next to nothing on the way of an answer: what was timed is only noted there, and
counted a few dozen answers at a time, or when somebody asks.

Shape legend: G = answers of one kind, S = stages, C = durations counted of each, B = buckets.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Literal, NamedTuple

import msgspec
import numpy as np
from numpy.typing import ArrayLike, NDArray
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from ouzel.serving.timing import Timing

BOUNDS_MS = (0.05, 0.1, 0.2, 0.3, 0.5, 0.75, 1, 1.5, 2, 3, 5, 7.5, 10, 15, 25, 50, 100, 250, 1000)
"""Upper bounds of the latency buckets in milliseconds."""

_BOUNDS_MS = np.array(BOUNDS_MS)

MOST_NOTED = 64
"""Answers that are noted before they are counted: these take under a millisecond."""

FORWARDED = "forwarded"
"""The route of what another process of the server answered, which counts it by its own."""

Reading = Callable[[], Mapping[str, float]]
"""Gives the present values of a family, by the value of its label; "" for the one without."""


class Family(NamedTuple):
    """Counters or gauges that are kept elsewhere and read when `/metrics` is asked for."""

    kind: Literal["counter", "gauge"]
    name: str
    text: str
    reading: Reading


Told = list[tuple[list[str], list[int], float]]
"""Histograms as they are told to another process: labels, counts by bucket, milliseconds in all."""


class Counts(msgspec.Struct, frozen=True, array_like=True):
    """What a server counted in a while, as it is told to another process."""

    requests: list[tuple[str, int, int]]
    histograms: tuple[Told, Told, Told]
    degraded: dict[str, int]


class Histogram:
    """Counts of durations by bucket.

    >>> histogram = Histogram()
    >>> histogram.observe([0.25, 5000])
    >>> histogram.buckets()[3], histogram.buckets()[-1]
    (('0.0003', 1), ('+Inf', 2))
    """

    __slots__ = ("counts", "sum_ms")

    def __init__(self) -> None:
        self.counts = np.zeros(len(BOUNDS_MS) + 1, np.int64)
        self.sum_ms = 0.0

    def observe(self, spent_ms: ArrayLike) -> None:
        """Count durations."""
        durations = np.asarray(spent_ms, np.float64)
        buckets = np.searchsorted(BOUNDS_MS, durations)
        self.counts += np.bincount(buckets, minlength=len(self.counts))
        self.sum_ms += float(durations.sum())

    def buckets(self) -> list[tuple[str, float]]:
        """Return (upper bound in seconds, how many are not above it) for each bucket."""
        names = [f"{bound / 1000:g}" for bound in BOUNDS_MS] + ["+Inf"]
        total = 0
        result: list[tuple[str, float]] = []
        for name, count in zip(names, self.counts.tolist(), strict=True):
            total += count
            result.append((name, total))
        return result


def quantile_ms(counts: Sequence[int], share: float) -> float:
    """Return the duration that a `share` of the counted ones do not exceed, 0 if there are none.

    `counts` are as in `Histogram`: within a bucket durations count as evenly spread, and those
    above the last bound as equal to it.

    >>> counts = [0, 0, 10, 0]  # ten durations from 0.1 to 0.2 ms
    >>> round(quantile_ms(counts, 0.5), 3), quantile_ms([], 0.5)
    (0.15, 0.0)
    """
    wanted = share * sum(counts)
    below = 0.0
    for count, bound in zip(counts, BOUNDS_MS, strict=False):
        if count >= wanted > 0:
            return below + (bound - below) * wanted / count
        wanted -= count
        below = bound
    return below if wanted > 0 else 0.0


Histograms = defaultdict[tuple[str, ...], Histogram]
"""Histograms by their labels, the route first."""

Names = tuple[tuple[str, str], ...]
"""Parts and names of the stages of an answer, in order."""


class Metrics(Collector):
    """The counts of one server, and the `families` that others keep."""

    def __init__(self) -> None:
        self.requests: defaultdict[tuple[str, int], int] = defaultdict(int)
        self.answers: Histograms = defaultdict(Histogram)
        self.parts: Histograms = defaultdict(Histogram)
        self.stages: Histograms = defaultdict(Histogram)
        self.events: defaultdict[str, int] = defaultdict(int)
        self.degraded: defaultdict[str, int] = defaultdict(int)
        self.families: list[Family] = []
        self._noted: list[tuple[Timing, int]] = []
        self._registry = CollectorRegistry(auto_describe=False)
        self._registry.register(self)

    def request(self, timing: Timing, status: int) -> None:
        """Count an answered request by the route, parts and stages of its stop-watch."""
        self._noted.append((timing, status))
        if len(self._noted) >= MOST_NOTED:
            self.count()

    def count(self) -> None:
        """Count what was only noted so far."""
        noted, self._noted = self._noted, []
        alike: defaultdict[tuple[str, Names], list[list[float]]] = defaultdict(list)
        for timing, status in noted:
            self.requests[timing.route, status] += 1
            alike[timing.route, tuple(timing.names)].append(timing.spent_ms)
        for (route, names), spent in alike.items():
            self.count_alike(route, names, np.array(spent, np.float64))

    def count_alike(self, route: str, names: Names, spent_GS: NDArray[np.float64]) -> None:
        """Count G answers of one route that went through the same S stages."""
        parts_G = [
            spent_GS[:, [part == of for of, _ in names]].sum(axis=1) for part in ("T", "P", "A")
        ]
        spent_GC = np.column_stack([spent_GS, *parts_G, spent_GS.sum(axis=1)])
        columns = [self.stages[route, name] for _, name in names]
        columns += [self.parts[route, part] for part in ("T", "P", "A")]
        columns.append(self.answers[route,])
        # One search and one count for all: column c counts in buckets c B to c B + B - 1.
        num_buckets = len(BOUNDS_MS) + 1
        buckets_GC = np.searchsorted(_BOUNDS_MS, spent_GC) + num_buckets * np.arange(len(columns))
        counts = np.bincount(buckets_GC.ravel(), minlength=num_buckets * len(columns))
        for histogram, counts_B, sum_ms in zip(
            columns, counts.reshape(-1, num_buckets), spent_GC.sum(axis=0).tolist(), strict=True
        ):
            histogram.counts += counts_B
            histogram.sum_ms += sum_ms

    def take(self) -> Counts:
        """Return what was counted, and begin anew."""
        self.count()
        counts = Counts(
            [(route, status, count) for (route, status), count in self.requests.items()],
            (_told(self.answers), _told(self.parts), _told(self.stages)),
            dict(self.degraded),
        )
        for kept in (self.requests, self.answers, self.parts, self.stages, self.degraded):
            kept.clear()
        return counts

    def add(self, counts: Counts) -> None:
        """Add what another process counted."""
        for route, status, count in counts.requests:
            self.requests[route, status] += count
        for stage, count in counts.degraded.items():
            self.degraded[stage] += count
        ours = (self.answers, self.parts, self.stages)
        for histograms, told in zip(ours, counts.histograms, strict=True):
            for labels, by_bucket, sum_ms in told:
                histograms[tuple(labels)].counts += by_bucket
                histograms[tuple(labels)].sum_ms += sum_ms

    def text(self) -> bytes:
        """Return everything in the text format 0.0.4."""
        return generate_latest(self._registry)

    def collect(self) -> Iterator[Metric]:
        """Yield every metric family; prometheus_client calls this."""
        self.count()
        requests = CounterMetricFamily(
            "ouzel_requests", "Answers by route and status.", labels=["route", "status"]
        )
        for (route, status), count in self.requests.items():
            requests.add_metric([route, str(status)], count)
        yield requests
        yield _histograms(
            "ouzel_answer_seconds", "Time of whole answers by route.", ["route"], self.answers
        )
        yield _histograms(
            "ouzel_part_seconds", "Time of T, P and A by route.", ["route", "part"], self.parts
        )
        yield _histograms(
            "ouzel_stage_seconds", "Time of each stage by route.", ["route", "stage"], self.stages
        )
        yield _counts("ouzel_events", "Events by outcome.", "outcome", self.events)
        yield _counts("ouzel_degraded", "Degraded answers by stage.", "stage", self.degraded)
        for kind, name, text, reading in self.families:
            metric = CounterMetricFamily if kind == "counter" else GaugeMetricFamily
            values = reading()
            family = metric(name, text, labels=[] if "" in values else ["of"])
            for of, value in values.items():
                family.add_metric([of] if of else [], value)
            yield family


def _told(histograms: Mapping[tuple[str, ...], Histogram]) -> Told:
    return [
        (list(labels), histogram.counts.tolist(), histogram.sum_ms)
        for labels, histogram in histograms.items()
    ]


def _counts(name: str, text: str, label: str, counts: Mapping[str, float]) -> Metric:
    family = CounterMetricFamily(name, text, labels=[label])
    for value, count in counts.items():
        family.add_metric([value], count)
    return family


def _histograms(
    name: str, text: str, labels: list[str], histograms: Mapping[tuple[str, ...], Histogram]
) -> Metric:
    family = HistogramMetricFamily(name, text, labels=labels)
    for values, histogram in histograms.items():
        family.add_metric(list(values), histogram.buckets(), sum_value=histogram.sum_ms / 1000)
    return family
