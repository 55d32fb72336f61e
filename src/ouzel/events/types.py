"""What can happen: the closed union of events, as they are stored and sent.

Every event has an `event_id` (a second arrival with the same id changes nothing) and a time in
UTC milliseconds. Events are ordered by (timestamp, log offset), in training and in serving.
"""

from __future__ import annotations

from typing import Any

import msgspec

MAX_ID_BYTES = 256
"""Longest user, session or item id, in UTF-8 bytes."""

MAX_EVENT_ID_BYTES = 128
"""Longest event id, in UTF-8 bytes."""


class Interaction(msgspec.Struct, frozen=True, kw_only=True, tag="interaction"):
    """A person did something with an item: `event` is the verb, such as `click` or `rate`."""

    event_id: str
    timestamp_ms: int
    item_id: str
    event: str
    user_id: str | None = None
    session_id: str | None = None
    value: float | None = None
    request_id: str | None = None
    context: dict[str, Any] | None = None
    properties: dict[str, Any] | None = None


class Impression(msgspec.Struct, frozen=True, kw_only=True, tag="impression", omit_defaults=True):
    """Items were shown, in this order; later clicks name its `request_id`.

    `propensities` are there if chance took part: for each item the probability with which it was
    drawn for its place, given the places before it. Their product is that of the list.
    """

    event_id: str
    timestamp_ms: int
    request_id: str
    item_ids: tuple[str, ...]
    model_version: str
    user_id: str | None = None
    session_id: str | None = None
    context: dict[str, Any] | None = None
    propensities: tuple[float, ...] | None = None


class ItemUpdate(msgspec.Struct, frozen=True, kw_only=True, tag="item"):
    """An item came into the catalogue, or its columns changed."""

    event_id: str
    timestamp_ms: int
    item_id: str
    columns: dict[str, str]


class UserUpdate(msgspec.Struct, frozen=True, kw_only=True, tag="user"):
    """A person's attributes changed."""

    event_id: str
    timestamp_ms: int
    user_id: str
    columns: dict[str, str]


Event = Interaction | Impression | ItemUpdate | UserUpdate
