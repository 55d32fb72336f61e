"""The description of the API (OpenAPI 3.1), made from the very types that validate it."""

from __future__ import annotations

from typing import Any

import msgspec
from starlette.types import Receive, Scope, Send

from ouzel.serving import wire
from ouzel.serving.http import send_bytes, timing_of
from ouzel.serving.live import Tick
from ouzel.serving.problem import CONTENT_TYPE, ProblemBody
from ouzel.version import __version__

_PROBLEM = CONTENT_TYPE.decode()
_REF = "#/components/schemas/{name}"
_TYPES = (
    wire.EventIn,
    wire.EventsReply,
    wire.RecommendRequest,
    wire.RecommendReply,
    wire.RankRequest,
    wire.RankReply,
    wire.PopularRequest,
    wire.SimilarRequest,
    wire.ItemsRequest,
    wire.ItemsReply,
    wire.ItemChange,
    wire.ItemIn,
    wire.ItemsChanged,
    wire.UsersRequest,
    wire.UsersReply,
    wire.Live,
    wire.Ready,
    Tick,
    ProblemBody,
)
_PROBLEMS = {
    400: "The request is no HTTP, its first line too long, or its body no JSON.",
    401: "The API key is missing or wrong.",
    403: "A page of another site called.",
    405: "The method is not allowed here.",
    413: "The body is too large.",
    415: "The body is compressed.",
    421: "The Host header names another machine.",
    422: "A field is wrong; `errors` says which.",
    503: "Too many requests wait already.",
}
_ANYWHERE = (400, 401, 403, 405, 421)

Json = dict[str, Any]


def openapi() -> Json:
    """Return the whole description as plain JSON values.

    >>> sorted(openapi()["paths"])[:3]
    ['/dashboard', '/dashboard/{file}', '/health/live']
    """
    _, schemas = msgspec.json.schema_components(_TYPES, ref_template=_REF)
    parameters = {kind.__name__: _parameters(schemas.pop(kind.__name__)) for kind in _QUERIES}
    # POST takes as a body what GET takes as a query.
    lists = (wire.RecommendRequest, wire.SimilarRequest)
    _, body = msgspec.json.schema_components(lists, ref_template=_REF)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Ouzel",
            "version": __version__,
            "description": "Real-time recommendations: every event changes the very next list.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "paths": _paths(parameters),
        "components": {
            "schemas": dict(sorted((schemas | body).items())),
            "securitySchemes": {
                "bearer": {"type": "http", "scheme": "bearer"},
                "header": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
            },
        },
        "security": [{}, {"bearer": []}, {"header": []}],
    }


def openapi_json() -> bytes:
    """Return the description as indented JSON: `docs/openapi.json` holds the same bytes.

    >>> msgspec.json.decode(openapi_json()) == openapi()
    True
    """
    return msgspec.json.format(msgspec.json.encode(openapi()), indent=2) + b"\n"


class OpenApiRoute:
    """`GET /openapi.json`."""

    def __init__(self) -> None:
        self._body = openapi_json()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer with the description."""
        timing_of(scope).route = "openapi"
        await send_bytes(send, self._body)


_QUERIES = (
    wire.RecommendRequest,
    wire.SimilarRequest,
    wire.PopularRequest,
    wire.ItemsRequest,
    wire.UsersRequest,
)


def _paths(parameters: dict[str, list[Json]]) -> Json:
    recommend = {"200": _json("The list.", "RecommendReply")}
    return {
        "/v1/recommend": _list(
            "recommend", "A list for a user, a session or anybody", "RecommendRequest", parameters
        ),
        "/v1/rank": {"post": _rank()},
        "/v1/similar": _list("similar", "Items like an item", "SimilarRequest", parameters),
        "/v1/events": {"post": _events()},
        "/v1/popular": {
            "get": {
                "summary": "What most people liked, over all time or recently",
                "operationId": "popular",
                "parameters": parameters["PopularRequest"],
                "responses": recommend | _problems(422),
            }
        },
        "/v1/items": _get("items", "Items by title", "ItemsReply", parameters["ItemsRequest"])
        | {"put": _put_items()},
        "/v1/items/{item_id}": _item(),
        "/v1/users": _get("users", "Some known users", "UsersReply", parameters["UsersRequest"]),
        "/v1/stream": _stream(),
        "/health/live": _get("live", "Whether the process answers", "Live", []),
        "/health/ready": _ready(),
        "/metrics": _text("metrics", "Counts in the format of Prometheus", "text/plain"),
        "/openapi.json": _text("openapi", "This description", "application/json"),
        "/dashboard": _text("dashboard", "The live page", "text/html"),
        "/dashboard/{file}": _page_file(),
    }


def _list(operation: str, summary: str, request: str, parameters: dict[str, list[Json]]) -> Json:
    answer = {"200": _json("The list.", "RecommendReply")}
    return {
        "post": {
            "summary": summary,
            "operationId": operation,
            "requestBody": _body({"application/json": _ref(request)}),
            "responses": answer | _problems(413, 415, 422, 503),
        },
        "get": {
            "summary": "The same, by query parameters; lists repeat their parameter",
            "operationId": f"{operation}_by_query",
            "parameters": parameters[request],
            "responses": answer | _problems(422, 503),
        },
    }


def _rank() -> Json:
    return {
        "summary": "The caller's own candidates, in order for a user or a session",
        "operationId": "rank",
        "requestBody": _body({"application/json": _ref("RankRequest")}),
        "responses": {"200": _json("The candidates in order.", "RankReply")}
        | _problems(413, 415, 422, 503),
    }


def _put_items() -> Json:
    many = {"type": "array", "items": _ref("ItemIn"), "minItems": 1, "maxItems": wire.MAX_ITEMS}
    return {
        "summary": "Store items that are new or have changed; the next request sees them",
        "operationId": "put_items",
        "requestBody": _body({"application/json": many}),
        "responses": {
            "200": _json("Stored on the disk.", "ItemsChanged"),
            "503": _problem("The disk refuses; nothing was stored."),
        }
        | _problems(413, 415, 422),
    }


def _item() -> Json:
    shown = {
        "200": _json("The item as it is now.", "ItemEntry"),
        "404": _problem("There is no such item."),
    }
    stored = shown | {"503": _problem("The disk refuses; nothing was stored.")}
    item_id = {"name": "item_id", "in": "path", "required": True}
    named = [item_id | {"schema": {"type": "string", "minLength": 1}}]
    return {
        "get": {
            "parameters": named,
            "summary": "One item",
            "operationId": "item",
            "responses": shown | _problems(),
        },
        "patch": {
            "parameters": named,
            "summary": "Change an item",
            "operationId": "change_item",
            "requestBody": _body({"application/json": _ref("ItemChange")}),
            "responses": stored | _problems(413, 415, 422),
        },
        "delete": {
            "parameters": named,
            "summary": "Hide an item: the same as to change `available` to false",
            "operationId": "hide_item",
            "responses": stored | _problems(),
        },
    }


def _stream() -> Json:
    data = "Each event has the type `tick` and, as JSON, the schema `Tick` as its data."
    events = {"schema": {"type": "string", "description": data}}
    return {
        "get": {
            "summary": "What the server does, told every second, without end",
            "description": "Server-sent events. Who reads slowly misses some. They carry no id, "
            "and a Last-Event-ID is ignored: each tells of the second before it, none is kept.",
            "operationId": "stream",
            "responses": {
                "200": {"description": "Events.", "content": {"text/event-stream": events}},
                "503": _problem("Too many clients listen already."),
            }
            | _problems(),
        }
    }


def _ready() -> Json:
    return {
        "get": {
            "summary": "Whether requests and events are welcome",
            "operationId": "ready",
            "responses": {
                "200": _json("Ready.", "Ready"),
                "503": _json("Not ready; `reasons` says why.", "Ready"),
            }
            | _problems(),
        }
    }


def _page_file() -> Json:
    file = {"name": "file", "in": "path", "required": True}
    return {
        "get": {
            "summary": "A file of the live page",
            "operationId": "dashboard_file",
            "parameters": [file | {"schema": {"type": "string", "minLength": 1}}],
            "responses": {
                "200": {"description": "The file.", "content": {"*/*": {}}},
                "404": _problem("There is no such file."),
            }
            | _problems(),
        }
    }


def _events() -> Json:
    many: Json = {
        "type": "array",
        "items": _ref("EventIn"),
        "minItems": 1,
        "maxItems": wire.MAX_EVENTS,
    }
    return {
        "summary": "Store events; the next list of their users knows them",
        "operationId": "events",
        "requestBody": _body(
            {
                "application/json": {"anyOf": [_ref("EventIn"), many]},
                "application/x-ndjson": {"type": "string"},
            }
        ),
        "responses": {
            "200": _json("Stored on the disk, but for those in `rejected`.", "EventsReply"),
            "503": _problem("The disk refuses; nothing was stored."),
        }
        | _problems(413, 415, 422),
    }


def _get(operation: str, summary: str, reply: str, parameters: list[Json]) -> Json:
    return {
        "get": {
            "summary": summary,
            "operationId": operation,
            "parameters": parameters,
            "responses": {"200": _json("The answer.", reply)}
            | _problems(*([422] if parameters else [])),
        }
    }


def _text(operation: str, summary: str, content_type: str) -> Json:
    return {
        "get": {
            "summary": summary,
            "operationId": operation,
            "responses": {"200": {"description": "The text.", "content": {content_type: {}}}}
            | _problems(),
        }
    }


def _body(content: dict[str, Json]) -> Json:
    return {
        "required": True,
        "content": {kind: {"schema": schema} for kind, schema in content.items()},
    }


def _parameters(schema: Json) -> list[Json]:
    """Return the fields of a struct as query parameters; nested objects have no such form."""
    return [
        {
            "name": name,
            "in": "query",
            "required": name in schema.get("required", []),
            "schema": _without_null(field),
        }
        for name, field in schema["properties"].items()
        if _is_flat(field)
    ]


def _is_flat(field: Json) -> bool:
    """Return whether a query string can hold a field: a value, or a list of values."""
    field = _without_null(field)
    if "$ref" in field or field.get("type") == "object":
        return False
    return "items" not in field or _is_flat(field["items"])


def _without_null(field: Json) -> Json:
    kinds = [kind for kind in field.get("anyOf", []) if kind.get("type") != "null"]
    return (
        kinds[0]
        if kinds
        else {key: field[key] for key in field if key != "default"}
        | ({"default": field["default"]} if field.get("default") is not None else {})
    )


def _ref(name: str) -> Json:
    return {"$ref": _REF.format(name=name)}


def _json(text: str, name: str) -> Json:
    return {"description": text, "content": {"application/json": {"schema": _ref(name)}}}


def _problem(text: str) -> Json:
    return {"description": text, "content": {_PROBLEM: {"schema": _ref("ProblemBody")}}}


def _problems(*statuses: int) -> Json:
    """Return the error answers of an operation; some can happen anywhere."""
    answers = {str(status): _problem(_PROBLEMS[status]) for status in (*statuses, *_ANYWHERE)}
    # What is no HTTP is answered below this application, in plain text.
    answers["400"]["content"]["text/plain"] = {}
    return answers
