from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ouzel.events.validation import LARGEST_VALUE
from ouzel.serving.ingest import MAX_SKEW_MS, ingest, is_ndjson, to_ms
from ouzel.serving.problem import ProblemError

NOW_MS = 1_800_000_000_000
texts = st.text(
    st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=30
)  # fmt: skip
sent = st.fixed_dictionaries(
    {
        "event": st.sampled_from(["click", "view", "my_own_verb"]),
        "item_id": texts,
        "user_id": texts,
    },
    optional={
        "event_id": texts,
        "value": st.floats(-LARGEST_VALUE, LARGEST_VALUE),
        "timestamp": st.integers(0, 1_800_000_000) | st.integers(10**11, NOW_MS + MAX_SKEW_MS),
        "properties": st.dictionaries(texts, st.integers() | texts, max_size=3),
    },
)


@given(events=st.lists(sent, min_size=1, max_size=6))
def test_every_form_of_a_body_gives_the_same_events(events):
    array = json.dumps(events).encode()
    lines = "\n".join(json.dumps(event) for event in events).encode()
    found = ingest(array, ndjson=False, now_ms=NOW_MS)
    by_line = ingest(lines, ndjson=True, now_ms=NOW_MS)
    assert not found.rejected
    assert not by_line.rejected
    for event, line, given_event in zip(found.events, by_line.events, events, strict=True):
        assert event.item_id == line.item_id == given_event["item_id"]
        assert event.timestamp_ms == line.timestamp_ms
        assert event.properties == given_event.get("properties")
        assert event.value == given_event.get("value")
    if len(events) > 1:
        assert is_ndjson(None, lines)
    assert not is_ndjson(b"application/json", array)


@given(event=sent)
def test_no_valid_json_is_taken_for_lines(event):
    for indent in (None, 0, 2):
        assert not is_ndjson(None, json.dumps({"a": [event, {}], "b": {}}, indent=indent).encode())


@given(moment=st.datetimes(datetime(1970, 1, 2), datetime(9000, 1, 1)), hours=st.integers(-23, 23))
def test_text_times_are_exact_in_any_zone(moment, hours):
    utc = moment.replace(tzinfo=UTC)
    ms = (utc - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(milliseconds=1)
    zone = f"{'-' if hours < 0 else '+'}{abs(hours):02}:00"
    local = (utc + timedelta(hours=hours)).replace(tzinfo=None)
    assert to_ms(local.isoformat() + zone) == ms


@given(ms=st.integers(100_000_000_000, 253_402_300_799_999))
def test_numbers_are_told_apart_by_their_size(ms):
    assert to_ms(ms) == ms
    if ms // 1000 < 100_000_000_000:
        assert to_ms(ms // 1000) == ms // 1000 * 1000
        assert to_ms(ms / 1000) == pytest.approx(ms, abs=1)


def test_escaped_names_do_not_get_round_the_count():
    event = b'{"\\u0065vent":"click","user_id":"u","item_id":"i"}'
    for count, refused in ((1000, False), (1001, True)):
        body = b"[" + b",".join([event] * count) + b"]"
        if refused:
            with pytest.raises(ProblemError, match="at most 1000"):
                ingest(body, ndjson=False, now_ms=NOW_MS)
        else:
            assert len(ingest(body, ndjson=False, now_ms=NOW_MS).events) == 1000


def test_a_thousand_and_one_lines():
    body = b'{"event":"click","user_id":"u","item_id":"i"}\n' * 1001
    with pytest.raises(ProblemError, match="at most 1000"):
        ingest(body, ndjson=True, now_ms=NOW_MS)
