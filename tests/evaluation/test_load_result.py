import numpy as np
import pytest

from ouzel.evaluation.load_result import Record, summarise
from ouzel.evaluation.load_spec import LoadSpec


def record(latency_ms, *, lag_ms=0.0, status=200):
    count = len(latency_ms)
    return Record(
        np.full(count, lag_ms / 1e3),
        np.array(latency_ms) / 1e3,
        np.full(count, status),
        np.zeros(count, np.bool_),
        np.zeros(count, np.bool_),
    )


def summary(given, counted=None):
    count = len(given.lag_R)
    spec = LoadSpec(
        host="h", port=1, rate=1, users=["u"], event_share=0, miss_share=0, mark_ms=50.0
    )
    counted_R = np.ones(count, np.bool_) if counted is None else counted
    return summarise(
        spec, given, np.zeros(count, np.int8), counted_R, client_cpu_share=0.0, server=None
    )


def test_percentiles_are_values_that_were_seen():
    latency = summary(record(np.arange(1, 1001))).latency["all"]
    assert [round(value) for value in (latency.p50_ms, latency.p99_ms, latency.p999_ms)] == [
        500,
        990,
        999,
    ]
    assert round(latency.max_ms) == 1000


def test_a_laggard_generator_voids_its_run():
    assert not summary(record([1.0] * 10, lag_ms=0.9)).void
    assert summary(record([1.0] * 10, lag_ms=1.1)).void


def test_fast_errors_are_not_within_the_mark():
    assert summary(record([1.0, 60.0])).within_mark == 0.5
    assert summary(record([1.0, 1.0], status=500)).within_mark == 0


def test_warm_up_does_not_count_and_something_must():
    given = record([1000.0, 1.0])
    assert summary(given, np.array([False, True])).latency["all"].max_ms == pytest.approx(1.0)
    with pytest.raises(ValueError, match="longer"):
        summary(given, np.array([False, False]))
