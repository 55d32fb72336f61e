"""Bodies of `POST /v1/events` as checked events: one object, an array, or NDJSON."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from ouzel.events.ids import time_ordered_id
from ouzel.events.types import Event, Impression, Interaction
from ouzel.events.validation import check_event
from ouzel.serving.problem import (
    DECODE_ERRORS,
    FieldError,
    field_error,
    invalid,
    undecodable,
)
from ouzel.serving.wire import MAX_EVENTS, EventIn, Rejected

MAX_SKEW_MS = 5 * 60 * 1000
"""How far ahead of the server's clock an event's time may be."""

MAX_DEPTH = 32
"""How deep `context` and `properties` may nest."""

SECONDS_BELOW = 100_000_000_000
"""Epoch numbers below this are seconds (year 5138), from it on milliseconds (since 1973)."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_decode_one = msgspec.json.Decoder(EventIn).decode
_decode_many = msgspec.json.Decoder(
    Annotated[list[EventIn], Meta(min_length=1, max_length=MAX_EVENTS)]
).decode
_decode_raw = msgspec.json.Decoder(list[msgspec.Raw]).decode


@dataclass(slots=True)
class Ingested:
    """The events of one body that may be stored, and those that may not, by their index."""

    events: list[Event]
    rejected: list[tuple[int, FieldError]]

    def replies(self) -> list[Rejected]:
        """Return the rejected events as the answer shows them."""
        return [
            Rejected(index, error.code, f"{error.loc}: {error.detail}")
            for index, error in self.rejected
        ]


def ingest(body: bytes, *, ndjson: bool, now_ms: int) -> Ingested:
    """Return the events of a body, checked one by one.

    Raises:
        ProblemError: 400 if the body is no JSON at all, 422 if it holds no event, more than
            1,000, or none that may be stored.

    >>> one = b'{"event": "click", "event_id": "e1", "user_id": "u", "item_id": "heat"}'
    >>> ingest(one, ndjson=False, now_ms=5).events[0].timestamp_ms
    5
    """
    found = _checked(_split(body, ndjson), now_ms)
    if not found.events:
        errors = [
            FieldError(f"[{index}].{error.loc}", error.code, error.detail)
            for index, error in found.rejected
        ]
        raise invalid(errors)
    return found


def is_ndjson(content_type: bytes | None, body: bytes) -> bool:
    """Return whether a body is one JSON document per line.

    What follows a document on the next line can be no part of valid JSON, so the sign is sure.

    >>> is_ndjson(None, b'{"a":1}\\n{"a":2}'), is_ndjson(b"application/x-ndjson", b"{}")
    (True, True)
    """
    named = content_type is not None and (b"ndjson" in content_type or b"jsonl" in content_type)
    return named or (body[:1] == b"{" and (b"}\n{" in body or b"}\r\n{" in body))


def _split(body: bytes, ndjson: bool) -> list[EventIn | FieldError]:
    if ndjson:
        lines = [line for line in body.splitlines() if line.strip()]
        _check_count(len(lines))
        return [_one(line) for line in lines]
    text = body.lstrip()
    if not text.startswith(b"["):
        one = _one(text, alone=True)
        return [one]
    # Each event names its verb, so this bounds their number before any is built.
    if text.count(b'"event"') <= MAX_EVENTS:
        try:
            return list(_decode_many(text))
        except DECODE_ERRORS:
            pass  # The slow way below finds out which event is at fault.
    try:
        parts = _decode_raw(text)
    except DECODE_ERRORS as error:
        raise undecodable(error) from None
    _check_count(len(parts))
    return [_one(bytes(part)) for part in parts]


def _one(text: bytes, *, alone: bool = False) -> EventIn | FieldError:
    try:
        return _decode_one(text)
    except msgspec.ValidationError as error:
        return field_error(error, EventIn)
    except DECODE_ERRORS as error:
        if alone:
            raise undecodable(error) from None
        return FieldError("event", "malformed", undecodable(error).detail)


def _check_count(count: int) -> None:
    if count == 0:
        raise invalid([FieldError("body", "empty", "there is no event: send at least one")])
    if count > MAX_EVENTS:
        detail = f"{count} events in one request: send at most {MAX_EVENTS}"
        raise invalid([FieldError("body", "too_many", detail)])


def _checked(parts: list[EventIn | FieldError], now_ms: int) -> Ingested:
    found = Ingested([], [])
    for index, part in enumerate(parts):
        event = part if isinstance(part, FieldError) else to_event(part, now_ms)
        if isinstance(event, FieldError):
            found.rejected.append((index, event))
        else:
            found.events.append(event)
    return found


def to_event(sent: EventIn, now_ms: int) -> Event | FieldError:
    """Return the event to store, or the field that forbids it.

    >>> to_event(EventIn(event="click", user_id="u"), 0)
    FieldError(loc='item_id', code='missing', detail='a click needs an item_id: send it')
    """
    try:
        timestamp_ms = now_ms if sent.timestamp is None else to_ms(sent.timestamp)
    except ValueError as error:
        return FieldError("timestamp", "invalid", str(error))
    if timestamp_ms > now_ms + MAX_SKEW_MS:
        detail = f"{sent.timestamp} is more than 5 minutes ahead of the server: set the clock"
        return FieldError("timestamp", "in_the_future", detail)
    for name, nested in (("context", sent.context), ("properties", sent.properties)):
        fault = check_nested(name, nested)
        if fault is not None:
            return fault
    event_id = sent.event_id if sent.event_id is not None else time_ordered_id(now_ms)
    made = _impression if sent.event == "impression" else _interaction
    event = made(sent, event_id, timestamp_ms)
    return event if isinstance(event, FieldError) else _storable(event)


def to_ms(timestamp: str | float) -> int:
    """Return UTC milliseconds from RFC 3339 text or from epoch seconds or milliseconds.

    Raises:
        ValueError: the text is no RFC 3339 time with a zone, or the number is out of range.

    >>> to_ms("2001-01-01T00:00:00Z") == to_ms(978307200) == to_ms(978307200000)
    True
    """
    if isinstance(timestamp, str):
        return _text_to_ms(timestamp)
    if not 0 <= timestamp < 1e15:
        raise ValueError(f"{timestamp!r} is out of range: give seconds or milliseconds since 1970")
    return round(timestamp * 1000 if timestamp < SECONDS_BELOW else timestamp)


def _text_to_ms(text: str) -> int:
    remedy = "write it like 2001-01-31T23:59:59Z"
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise ValueError(f"{text[:40]!r} is no RFC 3339 time: {remedy}") from None
    if moment.tzinfo is None:
        raise ValueError(f"{text!r} names no time zone: {remedy}")
    return (moment - _EPOCH) // timedelta(milliseconds=1)


def _impression(sent: EventIn, event_id: str, timestamp_ms: int) -> Impression | FieldError:
    if sent.request_id is None:
        detail = "an impression needs the request_id of the list shown: send it"
        return FieldError("request_id", "missing", detail)
    if (sent.items is None) == (sent.item_id is None):
        return FieldError("items", "invalid", "an impression needs items or item_id: send one")
    for name, unused in (("value", sent.value), ("properties", sent.properties)):
        if unused is not None:
            return FieldError(name, "invalid", "an impression has none: put it into context")
    return Impression(
        event_id=event_id,
        timestamp_ms=timestamp_ms,
        request_id=sent.request_id,
        item_ids=tuple(sent.items or [sent.item_id or ""]),
        model_version="",
        user_id=sent.user_id,
        session_id=sent.session_id,
        context=sent.context,
    )


def _interaction(sent: EventIn, event_id: str, timestamp_ms: int) -> Interaction | FieldError:
    if sent.items is not None:
        return FieldError("items", "invalid", "only impressions have items: send one event each")
    if sent.item_id is None:
        return FieldError("item_id", "missing", f"a {sent.event[:64]} needs an item_id: send it")
    return Interaction(
        event_id=event_id,
        timestamp_ms=timestamp_ms,
        item_id=sent.item_id,
        event=sent.event,
        user_id=sent.user_id,
        session_id=sent.session_id,
        value=sent.value,
        request_id=sent.request_id,
        context=sent.context,
        properties=sent.properties,
    )


def _storable(event: Interaction | Impression) -> Event | FieldError:
    try:
        return check_event(event)
    except ValueError as error:
        return FieldError(str(error).partition(" ")[0], "invalid", str(error))


def check_nested(name: str, value: dict[str, Any] | None) -> FieldError | None:
    """Return what keeps free JSON from being stored, None if nothing does.

    >>> check_nested("context", {"page": "home"}) is None
    True
    """
    if value is None or _is_shallow(value, MAX_DEPTH):
        return None
    return FieldError(name, "too_deep", f"it nests over {MAX_DEPTH} levels: flatten it")


def _is_shallow(value: Any, levels: int) -> bool:
    if isinstance(value, dict):
        return levels > 0 and all(_is_shallow(inner, levels - 1) for inner in value.values())
    if isinstance(value, list):
        return levels > 0 and all(_is_shallow(inner, levels - 1) for inner in value)
    return True
