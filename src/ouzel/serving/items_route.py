"""`/v1/items`: what may be shown and what people read about it, changed while the server runs.

A change is an event in the log: on the disk before it is acknowledged, and in effect for the next
request.
"""

from __future__ import annotations

import os
from collections.abc import Sequence

import msgspec
from starlette.types import Receive, Scope, Send

from ouzel.events import availability, clock
from ouzel.events.types import ItemUpdate
from ouzel.events.validation import check_event
from ouzel.serving.engine import Engine
from ouzel.serving.events_route import durably
from ouzel.serving.http import read_body, send_bytes, timing_of
from ouzel.serving.problem import (
    DECODE_ERRORS,
    FieldError,
    ProblemError,
    invalid,
    undecodable,
)
from ouzel.serving.wire import MAX_ITEMS, ItemChange, ItemEntry, ItemIn, ItemsChanged

MAX_FIELD_NAMES = 256
"""Most different fields that all items have: each takes 8 bytes of every item."""

_CHANGING = ("PATCH", "DELETE")

_decode_items = msgspec.json.Decoder(list[ItemIn]).decode
_decode_change = msgspec.json.Decoder(ItemChange).decode
_encode = msgspec.json.Encoder().encode


class ItemsRoute:
    """`PUT /v1/items`: items that are new or have changed, up to `MAX_ITEMS`."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer once the items are on the disk and the next request sees them."""
        timing = timing_of(scope)
        timing.route = "items"
        body = await read_body(scope, receive)
        timing.mark("T", "read")
        try:
            items = _decode_items(body)
        except DECODE_ERRORS as error:
            raise undecodable(error) from None
        if not 1 <= len(items) <= MAX_ITEMS:
            detail = f"{len(items)} items: send 1 to {MAX_ITEMS} at once"
            raise invalid([FieldError("body", "invalid", detail)])
        updates = _updates(self._engine, items)
        timing.mark("T", "decode")
        receipts = await durably(self._engine, updates)
        timing.mark("P", "commit")
        offset = max(receipt.offset for receipt in receipts)
        await send_bytes(send, _encode(ItemsChanged(accepted=len(receipts), offset=offset)))


class ItemRoute:
    """`GET`, `PATCH` and `DELETE /v1/items/{item_id}`: one item is read, changed, hidden."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer with the item as it is afterwards."""
        timing = timing_of(scope)
        timing.route = "item"
        item_id: str = scope["path_params"]["item_id"]
        key = (self._engine.served_version, item_id)
        kept = self._engine.items.get(key) if scope["method"] not in _CHANGING else None
        if kept is not None:
            timing.mark("A", "cache")
            await send_bytes(send, kept)
            return
        if item_id not in self._engine.catalog:
            detail = f"there is no item {item_id[:256]!r}: PUT /v1/items makes one"
            raise ProblemError(404, detail)
        if scope["method"] in _CHANGING:
            change = ItemChange(available=False)
            if scope["method"] == "PATCH":
                change = await _change(scope, receive)
            item = ItemIn(item_id=item_id, fields=change.fields, available=change.available)
            updates = _updates(self._engine, [item])
            timing.mark("T", "decode")
            await durably(self._engine, updates)
            timing.mark("P", "commit")
        shown = _encode(_shown(self._engine, item_id))
        if scope["method"] not in _CHANGING:
            self._engine.items.put(key, shown, len(shown) + len(item_id))
        await send_bytes(send, shown)


async def _change(scope: Scope, receive: Receive) -> ItemChange:
    body = await read_body(scope, receive)
    timing_of(scope).mark("T", "read")
    try:
        return _decode_change(body)
    except DECODE_ERRORS as error:
        raise undecodable(error) from None


def _updates(engine: Engine, items: Sequence[ItemIn]) -> list[ItemUpdate]:
    """Return the events of these changes.

    Raises:
        ProblemError: 422 naming the field that may not be stored.
    """
    names = {name for item in items for name in item.fields} | set(engine.catalog.column_names)
    if len(names) > MAX_FIELD_NAMES:
        detail = f"items would have {len(names)} fields: {MAX_FIELD_NAMES} names at most"
        raise invalid([FieldError("fields", "invalid", detail)])
    now_ms = clock.now_ms()
    request = f"item-{now_ms:012x}{os.urandom(10).hex()}"
    updates: list[ItemUpdate] = []
    faults: list[FieldError] = []
    for place, item in enumerate(items):
        columns = {name: str(value) for name, value in item.fields.items()}
        if availability.COLUMN in columns:
            detail = f"{availability.COLUMN} is no field: give it beside `fields`, true or false"
            faults.append(FieldError(f"[{place}].fields", "invalid", detail))
        if item.available is not None:
            columns[availability.COLUMN] = "true" if item.available else "false"
        update = ItemUpdate(
            event_id=f"{request}-{place}",
            timestamp_ms=now_ms,
            item_id=item.item_id,
            columns=columns,
        )
        try:
            check_event(update)
        except ValueError as error:
            faults.append(FieldError(f"[{place}]", "invalid", str(error)))
        updates.append(update)
    if faults:
        raise invalid(faults)
    return updates


def _shown(engine: Engine, item_id: str) -> ItemEntry:
    row = engine.catalog.row(item_id)
    columns = {name: engine.catalog.column(name)[row] for name in engine.catalog.column_names}
    available = not availability.is_hiding(columns.pop(availability.COLUMN, ""))
    fields = {name: text for name, text in columns.items() if text}
    return ItemEntry(item_id=item_id, fields=fields, available=available)
