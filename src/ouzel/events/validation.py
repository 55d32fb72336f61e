"""Checks of what enters: ids, verbs, times, values. Serving and data use the same ones."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from ouzel.events.types import (
    MAX_EVENT_ID_BYTES,
    MAX_ID_BYTES,
    Event,
    Impression,
    Interaction,
    ItemUpdate,
    UserUpdate,
)
from ouzel.events.verbs import check_verb

MAX_TIMESTAMP_MS = 253_402_300_799_999
"""The last millisecond of the year 9999; times before 1970 are refused too."""

MAX_COLUMN_BYTES = 65_536
"""Longest text of one item or user column, in UTF-8 bytes."""

_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")
_COLUMN = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,63}")


def check_id(value: str, name: str = "item_id", *, max_bytes: int = MAX_ID_BYTES) -> str:
    """Return `value` if it can be an id: 1 to `max_bytes` UTF-8 bytes, no control characters.

    Raises: ValueError with the value, what is wrong and what to do.

    >>> check_id("ünïcode/1")
    'ünïcode/1'
    >>> check_id("")
    Traceback (most recent call last):
    ValueError: item_id '' is empty: give every item_id at least one character
    """
    if not value:
        raise ValueError(f"{name} '' is empty: give every {name} at least one character")
    try:
        size = len(value) if value.isascii() else len(value.encode())
    except UnicodeEncodeError as error:
        raise ValueError(f"{name} {value!r} is not valid Unicode: send it as UTF-8") from error
    if size > max_bytes:
        raise ValueError(
            f"{name} {value[:40]!r}... has {size} bytes: at most {max_bytes} are allowed,"
            " so send a shorter key or its hash"
        )
    # What can be printed has no control character, and that is found out sooner.
    if not value.isprintable() and _CONTROL.search(value):
        raise ValueError(f"{name} {value!r} has a control character: remove it")
    return value


def check_timestamp_ms(value: int) -> int:
    """Return `value` if it is UTC milliseconds between 1970 and 9999.

    Raises: ValueError otherwise.

    >>> check_timestamp_ms(978_300_760_000)
    978300760000
    """
    if not 0 <= value <= MAX_TIMESTAMP_MS:
        raise ValueError(
            f"timestamp {value} is out of range: give UTC milliseconds between 1970 and 9999"
        )
    return value


LARGEST_VALUE = 3.4e38
"""Just below what float32 holds."""


def check_value(value: float | None) -> float | None:
    """Return `value` if it is finite in float32, as it is kept, or absent.

    Raises: ValueError for NaN and infinities, and what is too large.

    >>> check_value(4.5)
    4.5
    """
    if value is not None and not abs(value) <= LARGEST_VALUE:
        raise ValueError(f"value {value} is not finite: leave it out or give a number")
    return value


def check_columns(columns: Mapping[str, str]) -> Mapping[str, str]:
    """Return `columns` if names are identifiers and texts are valid, short enough Unicode.

    Raises: ValueError naming the column.

    >>> check_columns({"title": "Toy Story (1995)"})
    {'title': 'Toy Story (1995)'}
    """
    for name, text in columns.items():
        if not _COLUMN.fullmatch(name):
            raise ValueError(f"column name {name!r} is refused: use 1-64 of a-z, A-Z, 0-9 and _")
        try:
            size = len(text.encode())
        except UnicodeEncodeError as error:
            raise ValueError(f"column {name} is not valid Unicode: send it as UTF-8") from error
        if size > MAX_COLUMN_BYTES:
            raise ValueError(f"column {name} has {size} bytes: at most {MAX_COLUMN_BYTES}")
    return columns


def check_event(event: Event) -> Event:
    """Return `event` if every field of it may be stored.

    Raises: ValueError naming the field, its value and the remedy.

    >>> check_event(ItemUpdate(event_id="e1", timestamp_ms=0, item_id="a", columns={})).item_id
    'a'
    """
    check_id(event.event_id, "event_id", max_bytes=MAX_EVENT_ID_BYTES)
    check_timestamp_ms(event.timestamp_ms)
    match event:
        case Interaction():
            _check_interaction(event)
        case Impression():
            _check_actor(event.user_id, event.session_id)
            check_id(event.request_id, "request_id")
            _check_ids(event.item_ids)
            _check_propensities(event)
        case ItemUpdate():
            check_id(event.item_id)
            check_columns(event.columns)
        case UserUpdate():
            check_id(event.user_id, "user_id")
            check_columns(event.columns)
    return event


def _check_interaction(event: Interaction) -> None:
    if event.user_id is None and event.session_id is None:
        raise ValueError("user_id is missing: give user_id, session_id or both")
    _check_actor(event.user_id, event.session_id)
    check_id(event.item_id)
    check_verb(event.event)
    check_value(event.value)
    if event.request_id is not None:
        check_id(event.request_id, "request_id")


def _check_propensities(event: Impression) -> None:
    propensities = event.propensities
    if propensities is None:
        return
    if len(propensities) != len(event.item_ids):
        raise ValueError(
            f"propensities has {len(propensities)} numbers for {len(event.item_ids)} items:"
            " give one for each"
        )
    for propensity in propensities:
        if not 0 < propensity <= 1:
            raise ValueError(f"propensities has {propensity}: give numbers above 0, up to 1")


def _check_actor(user_id: str | None, session_id: str | None) -> None:
    if user_id is not None:
        check_id(user_id, "user_id")
    if session_id is not None:
        check_id(session_id, "session_id")


def _check_ids(item_ids: Sequence[str]) -> None:
    """Return if each can be an id; where all are plainly so, in a third of the time."""
    joined = "".join(item_ids)
    plain = joined.isascii() and joined.isprintable() and all(item_ids)
    if plain and max(map(len, item_ids), default=0) <= MAX_ID_BYTES:
        return
    for item_id in item_ids:
        check_id(item_id)
