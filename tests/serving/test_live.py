"""What a tick tells is what the counts gained in between."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ouzel.serving.live import Live, Spread
from ouzel.serving.metrics import (
    BOUNDS_MS,
    FORWARDED,
    Family,
    Histogram,
    Metrics,
    quantile_ms,
)
from ouzel.serving.timing import Timing


def answered(metrics, *, route="recommend", status=200, search_ms=1.0):
    timing = Timing()
    timing.route = route
    timing.names = [("T", "read"), ("A", "search")]
    timing.spent_ms = [0.1, search_ms]
    metrics.request(timing, status)


def live_of(metrics, *, seconds=2.0):
    now = itertools.count(0.0, seconds)
    return Live(metrics, monotonic=lambda: next(now))


def test_only_what_came_since_the_last_tick_counts():
    metrics = Metrics()
    live = live_of(metrics)
    for _ in range(100):
        answered(metrics, search_ms=200.0)
    live.tick()
    for _ in range(300):
        answered(metrics, search_ms=1.9)
    metrics.events["accepted"] += 10
    tick = live.tick()
    assert (tick.seconds, tick.requests, tick.events) == (2.0, 150.0, 5.0)
    assert tick.answers["recommend"].per_s == 150.0
    assert 1.5 <= tick.stages["search"].p50_ms <= tick.stages["search"].p99_ms <= 2
    assert tick.parts["P"] == Spread(150.0, 0.025, 0.0495)  # nothing: the first bucket
    assert live.tick().answers == {}


def test_refusals_failures_and_degraded_lists_are_told_apart():
    metrics = Metrics()
    live = live_of(metrics, seconds=1.0)
    for status in (200, 404, 422, 500):
        answered(metrics, status=status)
    metrics.degraded["state"] += 3
    tick = live.tick()
    assert (tick.requests, tick.refused, tick.failed, tick.degraded) == (4, 2, 1, 3)


def test_what_another_process_answered_counts_once():
    metrics = Metrics()
    live = live_of(metrics, seconds=1.0)
    answered(metrics, route=FORWARDED)
    answered(metrics, route="recommend")
    tick = live.tick()
    assert tick.requests == 1 and set(tick.answers) == {"recommend"}


def test_parts_and_stages_are_those_of_lists():
    metrics = Metrics()
    live = live_of(metrics)
    answered(metrics, route="similar")
    answered(metrics, route="recommend")
    answered(metrics, route="events", search_ms=500)
    tick = live.tick()
    assert set(tick.answers) == {"similar", "recommend", "events"}
    assert tick.stages["search"].per_s == 1.0
    assert tick.stages["search"].p99_ms <= 1.0


def test_found_is_of_the_time_between():
    metrics = Metrics()
    counts = {"hits": 10, "misses": 10, "audits": 4, "audit_failures": 1}
    caches = {"lists_hits": 1, "lists_misses": 1, "lists_bytes": 7}
    now = {"states": 3, "state_slots": 8, "state_bytes": 300, "state_audit_max_error": 1e-6}
    now |= {"waiting_requests": 2, "waiting_events": 5}
    metrics.families += [
        Family("counter", "ouzel_states", "", lambda: counts),
        Family("counter", "ouzel_cache", "", lambda: caches),
        Family("gauge", "ouzel_now", "", lambda: now),
    ]
    live = live_of(metrics)
    counts["hits"] += 3
    counts["misses"] += 1
    tick = live.tick()
    assert (tick.pool.found.hits, tick.pool.found.misses, tick.pool.found.share) == (3, 1, 0.75)
    assert (tick.pool.states, tick.pool.slots, tick.pool.bytes) == (3, 8, 300)
    assert set(tick.caches) == {"lists"}
    assert tick.caches["lists"].share is None
    assert tick.waiting == {"requests": 2, "events": 5}
    assert (tick.audit.max_error, tick.audit.audits, tick.audit.failures) == (1e-6, 4, 1)


def test_a_server_of_which_nobody_keeps_families_can_be_told_of():
    tick = live_of(Metrics()).tick()
    assert tick.caches == {} and tick.pool.slots == 0


@given(
    st.lists(st.floats(0.001, 900), min_size=1, max_size=200),
    st.floats(0.01, 1.0),
)
def test_a_quantile_lies_in_the_bucket_of_the_exact_one(durations, share):
    histogram = Histogram()
    histogram.observe(durations)
    exact = np.quantile(durations, share, method="inverted_cdf")
    bucket = int(np.searchsorted(BOUNDS_MS, exact))
    lower = BOUNDS_MS[bucket - 1] if bucket else 0.0
    found = quantile_ms(histogram.counts.tolist(), share)
    # A share that is a whole number of durations may round to either side of a bound.
    assert found <= BOUNDS_MS[bucket] + 1e-9 or np.isclose(share * len(durations) % 1, 0, atol=1e-6)
    assert found >= lower - 1e-9


def test_what_is_beyond_all_bounds_counts_as_the_last():
    histogram = Histogram()
    histogram.observe([1e6])
    assert quantile_ms(histogram.counts.tolist(), 0.99) == BOUNDS_MS[-1]
    assert quantile_ms([0] * 20, 0.5) == 0.0


def test_whole_answers_are_on_the_page_of_metrics():
    metrics = Metrics()
    answered(metrics, search_ms=2.4)
    text = metrics.text().decode()
    assert 'ouzel_answer_seconds_count{route="recommend"} 1.0' in text
    total = text.partition('ouzel_answer_seconds_sum{route="recommend"} ')[2].split()[0]
    assert float(total) == pytest.approx(0.0025)
