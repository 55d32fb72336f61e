from __future__ import annotations

import json

import pytest

from ouzel.evaluation import ingestion
from ouzel.evaluation.ingestion import BATCH, measure_ingestion


def measure(monkeypatch, post, behind=lambda: 0.0):
    monkeypatch.setattr(ingestion, "_post", post)
    return measure_ingestion(1, ["u", "v"], ["i", "j"], seconds=0.1, behind=behind, seed=0)


def test_every_batch_that_was_taken_counts(monkeypatch):
    sent = []
    row = measure(monkeypatch, lambda connection, body: sent.append(body))
    events = [event for body in sent for event in json.loads(body)]
    assert {event["user_id"] for event in events} == {"u", "v"}
    assert len(json.loads(sent[0])) == BATCH
    assert row["events_per_s"] == pytest.approx(len(events) / 0.1, rel=0.5)


def test_a_batch_that_is_refused_ends_it(monkeypatch):
    def refuse(connection, body):
        raise ValueError("answered 503")

    with pytest.raises(ValueError, match="503"):
        measure(monkeypatch, refuse)


def test_states_that_never_catch_up_are_told_as_such(monkeypatch):
    monkeypatch.setattr(ingestion, "LONGEST_BEHIND_S", 0.05)
    row = measure(monkeypatch, lambda connection, body: None, behind=lambda: 1.0)
    assert row["states_behind_s"] is None


def test_it_waits_until_the_last_state_is_current(monkeypatch):
    left = iter([3.0, 1.0, 0.0])
    row = measure(monkeypatch, lambda connection, body: None, behind=lambda: next(left))
    assert row["states_behind_s"] >= 0.03
