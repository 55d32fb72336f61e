"""The few moves of HTTP that every route shares, close to ASGI: read a body, send an answer."""

from __future__ import annotations

import asyncio
from urllib.parse import parse_qsl

from starlette.types import Receive, Scope, Send

from ouzel.serving.problem import CONTENT_TYPE, FieldError, ProblemError, invalid
from ouzel.serving.timing import Timing

MAX_BODY_BYTES = 1 << 20
"""Largest body of any route but events: 1 MiB."""

BODY_SECONDS = 30.0
"""How long a client may take to send one body."""

MAX_PARAMETERS = 2000

JSON = b"application/json"
_CLOSE = [(b"connection", b"close")]


def timing_of(scope: Scope) -> Timing:
    """Return the stop-watch that the frame gave this request.

    >>> timing_of({"ouzel.timing": Timing()}).route
    'other'
    """
    timing: Timing = scope["ouzel.timing"]
    return timing


def header(scope: Scope, name: bytes) -> bytes | None:
    """Return the first value of a request header, None if absent; `name` in lower case.

    >>> header({"headers": [(b"host", b"localhost")]}, b"host")
    b'localhost'
    """
    by_name: dict[bytes, bytes] | None = scope.get("ouzel.headers")
    if by_name is None:
        # Several are asked for on the way of a request. Backwards, so that the first one counts.
        by_name = scope["ouzel.headers"] = dict(reversed(scope["headers"]))
    return by_name.get(name)


async def read_body(scope: Scope, receive: Receive, *, limit: int = MAX_BODY_BYTES) -> bytes:
    """Return the whole request body; the limit counts what arrives, whatever was announced.

    Raises:
        ProblemError: 413 over the limit, 415 if compressed, 408 if too slow, 400 if broken off.

    >>> async def receive():
    ...     return {"type": "http.request", "body": b"{}"}
    >>> asyncio.run(read_body({"headers": []}, receive))
    b'{}'
    """
    encoding = header(scope, b"content-encoding")
    if encoding not in (None, b"", b"identity"):
        raise ProblemError(415, "compressed bodies are not accepted: send the JSON as it is")
    announced = header(scope, b"content-length")
    if announced is not None and announced.isdigit():
        digits = announced.lstrip(b"0")
        if len(digits) > len(str(limit)) or int(digits or b"0") > limit:
            raise _too_large(limit)
    try:
        async with asyncio.timeout(BODY_SECONDS):
            return await _collect(receive, limit)
    except TimeoutError:
        detail = f"the body did not arrive within {BODY_SECONDS:.0f} s: send it faster"
        raise ProblemError(408, detail, headers=_CLOSE) from None


async def _collect(receive: Receive, limit: int) -> bytes:
    chunks: list[bytes] = []
    size = 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ProblemError(400, "the client went away before the body was complete")
        chunk: bytes = message.get("body", b"")
        size += len(chunk)
        if size > limit:
            raise _too_large(limit)
        if not message.get("more_body", False):
            return chunk if not chunks else b"".join([*chunks, chunk])
        chunks.append(chunk)


def _too_large(limit: int) -> ProblemError:
    detail = f"the body is over {limit} bytes: send it in parts"
    return ProblemError(413, detail, headers=_CLOSE)


def parameters(scope: Scope, *, lists: frozenset[str] = frozenset()) -> dict[str, str | list[str]]:
    """Return the query string as fields; names in `lists` may be repeated and become lists.

    Raises:
        ProblemError: 422 if a single field is given twice, or the text is not UTF-8.

    >>> parameters({"query_string": b"n=5&items=a&items=b"}, lists=frozenset({"items"}))
    {'n': '5', 'items': ['a', 'b']}
    """
    fields: dict[str, str | list[str]] = {}
    for name, text in _pairs(scope["query_string"]):
        if name in lists:
            fields.setdefault(name, []).append(text)  # type: ignore[union-attr]
        elif name in fields:
            raise invalid([FieldError(name, "repeated", f"{name} is given twice: give it once")])
        else:
            fields[name] = text
    return fields


def _pairs(query: bytes) -> list[tuple[str, str]]:
    try:
        return parse_qsl(
            query.decode("ascii"),
            keep_blank_values=True,
            errors="strict",
            max_num_fields=MAX_PARAMETERS,
        )
    except ValueError as error:
        detail = f"the query string cannot be read ({error}): percent-encode UTF-8"
        raise invalid([FieldError("query", "invalid", detail)]) from None


async def send_bytes(
    send: Send,
    body: bytes,
    *,
    status: int = 200,
    content_type: bytes = JSON,
    headers: list[tuple[bytes, bytes]] | None = None,
) -> None:
    """Send a whole answer.

    >>> async def send(message):
    ...     print(message.get("status") or message["body"])
    >>> asyncio.run(send_bytes(send, b"{}"))
    200
    b'{}'
    """
    start = [(b"content-type", content_type), (b"content-length", b"%d" % len(body))]
    if headers:
        start += headers
    await send({"type": "http.response.start", "status": status, "headers": start})
    await send({"type": "http.response.body", "body": body})


async def send_problem(send: Send, problem: ProblemError) -> None:
    """Send an error as `application/problem+json`.

    >>> async def send(message):
    ...     print(message.get("status") or message["body"][-13:])
    >>> asyncio.run(send_problem(send, ProblemError(404, "no such page")))
    404
    b',"errors":[]}'
    """
    await send_bytes(
        send,
        problem.encode(),
        status=problem.status,
        content_type=CONTENT_TYPE,
        headers=problem.headers,
    )
