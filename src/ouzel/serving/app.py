"""The application: routes around an engine, inside the frame."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from starlette.exceptions import HTTPException
from starlette.routing import Route, Router
from starlette.types import ASGIApp, Lifespan, Receive, Scope, Send

from ouzel.serving import read_routes
from ouzel.serving.engine import Engine
from ouzel.serving.events_route import EventsRoute
from ouzel.serving.frame import Frame, Short
from ouzel.serving.items_route import ItemRoute, ItemsRoute
from ouzel.serving.list_routes import ListRoute, PopularRoute
from ouzel.serving.openapi import OpenApiRoute
from ouzel.serving.pages import Pages
from ouzel.serving.problem import ProblemError
from ouzel.serving.read_routes import Answering, ReadRoute
from ouzel.serving.security import Access
from ouzel.serving.stream_route import StreamRoute
from ouzel.serving.wire import RankRequest, RecommendRequest, SimilarRequest
from ouzel.serving.workers import Workers


def build_app(engine: Engine, access: Access, workers: Workers | None = None) -> ASGIApp:
    """Return the application around an engine; it starts and closes the engine, and its workers.

    >>> from types import SimpleNamespace
    >>> engine = SimpleNamespace(metrics=None, direct=None, stream=SimpleNamespace(close=None))
    >>> callable(build_app(engine, Access("127.0.0.1", None)))
    True
    """

    @asynccontextmanager
    async def lifespan(app: Any) -> AsyncIterator[None]:
        try:
            await engine.start()
            if workers is not None:
                await workers.start(frame)
            yield
        finally:
            engine.stream.close()  # A listener at a reader would keep that from ending.
            if workers is not None:
                await workers.close()
            await engine.close()

    short: dict[bytes, Short] = {
        b"/v1/recommend": _recommend(engine).short,
        b"/v1/rank": _rank(engine).short,
        b"/v1/similar": _similar(engine).short,
        b"/v1/events": EventsRoute(engine).short,
    }
    routing = _Routing(engine, lifespan)
    direct = {} if engine.direct is None else {b"/v1/recommend": engine.direct}
    frame = Frame(
        routing,
        access=access,
        metrics=engine.metrics,
        short=short,
        direct=direct,
        stop=engine.stream.close,
    )
    return frame


class _Routing:
    """The router; what it refuses are problems like any other."""

    def __init__(self, engine: Engine, lifespan: Lifespan[Any]) -> None:
        self._router = Router(routes(engine), lifespan=lifespan)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        scope["app"] = self  # so that the router raises what it refuses
        try:
            await self._router(scope, receive, send)
        except HTTPException as error:
            raise _problem(scope, error) from None


def routes(engine: Engine) -> list[Route]:
    """Return every route of the server.

    >>> [route.path for route in routes(engine=None)][:3]
    ['/v1/recommend', '/v1/rank', '/v1/similar']
    """

    def read(path: str, answering: Answering) -> Route:
        return Route(path, ReadRoute(engine, answering.__name__, answering), methods=["GET"])

    pages = Pages()
    return [
        Route("/v1/recommend", _recommend(engine), methods=["GET", "POST"]),
        Route("/v1/rank", _rank(engine), methods=["POST"]),
        Route("/v1/similar", _similar(engine), methods=["GET", "POST"]),
        Route("/v1/events", EventsRoute(engine), methods=["POST"]),
        Route("/v1/popular", PopularRoute(engine), methods=["GET"]),
        Route("/v1/items", _Items(engine), methods=["GET", "PUT"]),
        Route("/v1/items/{item_id:path}", ItemRoute(engine), methods=["GET", "PATCH", "DELETE"]),
        read("/v1/users", read_routes.users),
        Route("/v1/stream", StreamRoute(engine), methods=["GET"]),
        read("/health/live", read_routes.live),
        read("/health/ready", read_routes.ready),
        read("/metrics", read_routes.metrics),
        Route("/openapi.json", OpenApiRoute(), methods=["GET"]),
        Route("/dashboard", pages, methods=["GET"]),
        Route("/dashboard/{file}", pages, methods=["GET"]),
    ]


class _Items:
    """Both methods of `/v1/items`, which are one route so that a third is told of both."""

    def __init__(self, engine: Engine) -> None:
        self._read = ReadRoute(engine, "items", read_routes.items)
        self._put = ItemsRoute(engine)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await (self._put if scope["method"] == "PUT" else self._read)(scope, receive, send)


def _recommend(engine: Engine) -> ListRoute:
    return ListRoute(engine, "recommend", RecommendRequest)


def _rank(engine: Engine) -> ListRoute:
    return ListRoute(engine, "rank", RankRequest)


def _similar(engine: Engine) -> ListRoute:
    return ListRoute(engine, "similar", SimilarRequest)


def _problem(scope: Scope, error: HTTPException) -> ProblemError:
    """Return what the router itself refuses (404, 405) as a problem."""
    detail = {
        404: f"there is no {scope['path'][:200]}: see /openapi.json, or /dashboard in a browser",
        405: f"{scope['method']} is not allowed here: see /openapi.json",
    }.get(error.status_code, error.detail)
    headers = [
        (name.lower().encode("latin-1"), value.encode("latin-1"))
        for name, value in (error.headers or {}).items()
    ]
    return ProblemError(error.status_code, detail, headers=headers)
