from __future__ import annotations

import re

import pytest
from prometheus_client.parser import text_string_to_metric_families

from ouzel.serving.metrics import BOUNDS_MS, MOST_NOTED, Histogram, Metrics
from ouzel.serving.timing import Timing


def samples(text):
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_a_histogram_counts_each_duration_once():
    histogram = Histogram()
    histogram.observe([0, 0.05, 0.051])
    histogram.observe([3, 1e9])
    buckets = dict(histogram.buckets())
    assert buckets["5e-05"] == 2
    assert buckets["0.0001"] == 3
    assert buckets["0.003"] == 4
    assert buckets["1"] == 4
    assert buckets["+Inf"] == 5
    assert len(buckets) == len(BOUNDS_MS) + 1
    assert histogram.sum_ms == pytest.approx(1e9 + 3.101)


def test_requests_are_counted_by_route_part_and_stage():
    metrics = Metrics()
    timing = Timing()
    timing.route = "recommend"
    timing.split([("T", "read"), ("P", "state"), ("A", "search")], [0.2, 1.5, 40])
    metrics.request(timing, 200)
    found = samples(metrics.text().decode())
    assert found["ouzel_requests_total", (("route", "recommend"), ("status", "200"))] == 1
    key = (("part", "P"), ("route", "recommend"))
    assert found["ouzel_part_seconds_count", key] == 1
    assert found["ouzel_part_seconds_sum", key] == pytest.approx(0.0015)
    stage = (("le", "0.05"), ("route", "recommend"), ("stage", "search"))
    assert found["ouzel_stage_seconds_bucket", stage] == 1


def test_the_page_of_a_server_in_use(client):
    event = {"event_id": "1", "event": "click", "user_id": "ada", "item_id": "i20"}
    client.post("/v1/events", json=event)
    client.post("/v1/events", json=[event, {**event, "event_id": "2", "user_id": "\n"}])
    client.get("/v1/recommend?user_id=ada")
    client.get("/nowhere/ada")
    reply = client.get("/metrics")
    assert reply.headers["content-type"].startswith("text/plain; version=0.0.4")
    found = samples(reply.text)
    assert found["ouzel_events_total", (("outcome", "accepted"),)] == 1
    assert found["ouzel_events_total", (("outcome", "duplicate"),)] == 1
    assert found["ouzel_events_total", (("outcome", "rejected"),)] == 1
    assert found["ouzel_requests_total", (("route", "other"), ("status", "404"))] == 1
    assert found["ouzel_now", (("of", "states"),)] == 2
    assert found["ouzel_log_writer_total", (("of", "commits"),)] >= 2
    # No label holds what a client made up.
    assert "ada" not in reply.text
    assert "nowhere" not in reply.text


def test_many_answers_are_counted_once_each():
    metrics = Metrics()
    for _ in range(2 * MOST_NOTED + 3):
        timing = Timing()
        timing.split([("A", "search")], [1.0])
        metrics.request(timing, 200)
    for _ in range(2):
        found = samples(metrics.text().decode())
        key = (("route", "other"), ("status", "200"))
        assert found["ouzel_requests_total", key] == 2 * MOST_NOTED + 3
        key = (("route", "other"), ("stage", "search"))
        assert found["ouzel_stage_seconds_count", key] == 2 * MOST_NOTED + 3


def test_what_another_process_counted_is_added_once():
    here, there = Metrics(), Metrics()
    for metrics in (here, there, there):
        metrics.request(answered("recommend"), 200)
        metrics.degraded["state"] += 1
    here.add(there.take())
    here.add(there.take())
    text = here.text().decode()
    assert 'ouzel_requests_total{route="recommend",status="200"} 3.0' in text
    assert 'ouzel_degraded_total{stage="state"} 3.0' in text
    assert re.search(r'ouzel_part_seconds_count{part="A",route="recommend"} 3.0', text)


def answered(route):
    timing = Timing()
    timing.route = route
    timing.mark("A", "encode")
    return timing


def test_answers_that_went_different_ways_are_counted_together_and_a_stage_as_often_as_it_ran():
    metrics = Metrics()
    for names, spent_ms in (
        ([("T", "read"), ("A", "search"), ("A", "search")], [0.1, 2.5, 40]),
        ([("A", "search")], [2.6]),
        ([], []),
    ):
        timing = Timing()
        timing.split(names, spent_ms)
        metrics.request(timing, 200)
    metrics.count()
    stages, parts = metrics.stages["other", "search"], metrics.parts["other", "A"]
    assert stages.counts.sum() == 3 and stages.sum_ms == pytest.approx(45.1)
    assert stages.counts[[9, 15]].tolist() == [2, 1]  # up to 3 ms and up to 50 ms
    assert parts.counts[[0, 9, 15]].tolist() == [1, 1, 1]
    assert metrics.answers["other",].counts.sum() == 3
