"""The application: routes around an engine, inside the frame."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from ouzel.serving import read_routes
from ouzel.serving.engine import Engine
from ouzel.serving.events_route import EventsRoute
from ouzel.serving.frame import Frame
from ouzel.serving.home import default_state_bytes, open_home
from ouzel.serving.openapi import OpenApiRoute
from ouzel.serving.pages import Pages
from ouzel.serving.problem import CONTENT_TYPE, ProblemError
from ouzel.serving.read_routes import Answering, ReadRoute
from ouzel.serving.recommend_route import PopularRoute, RecommendRoute
from ouzel.serving.security import Access


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How a home is served. `state_bytes` bounds the memory of user states."""

    host: str = "127.0.0.1"
    api_key: str | None = field(default=None, repr=False)
    state_bytes: int = field(default_factory=default_state_bytes)


def create_app(home: Path, *, settings: Settings) -> Starlette:
    """Return the application that serves a home.

    Raises:
        ValueError: the binding needs a key (see `check_binding`), or the home cannot be served
            (see `open_home`).

    >>> create_app(Path("no-such-home"), settings=Settings())
    Traceback (most recent call last):
    ...
    ValueError: no-such-home has no model yet: run `ouzel train --data PATH --out no-such-home`
    """
    access = Access(settings.host, settings.api_key)
    return build_app(open_home(home, state_bytes=settings.state_bytes), access)


def build_app(engine: Engine, access: Access) -> Starlette:
    """Return the application around an engine; it starts and closes the engine.

    >>> from types import SimpleNamespace
    >>> engine = SimpleNamespace(metrics=None)
    >>> app = build_app(engine, Access("127.0.0.1", None))
    >>> [route.path for route in app.routes][:3]
    ['/v1/recommend', '/v1/events', '/v1/popular']
    """

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        await engine.start()
        try:
            yield
        finally:
            await engine.close()

    return Starlette(
        routes=_routes(engine),
        middleware=[Middleware(Frame, access=access, metrics=engine.metrics)],
        exception_handlers={HTTPException: _http_problem},
        lifespan=lifespan,
    )


def _routes(engine: Engine) -> list[Route]:
    def read(path: str, answering: Answering) -> Route:
        return Route(path, ReadRoute(engine, answering.__name__, answering), methods=["GET"])

    pages = Pages()
    return [
        Route("/v1/recommend", RecommendRoute(engine), methods=["GET", "POST"]),
        Route("/v1/events", EventsRoute(engine), methods=["POST"]),
        Route("/v1/popular", PopularRoute(engine), methods=["GET"]),
        read("/v1/items", read_routes.items),
        read("/v1/users", read_routes.users),
        read("/health/live", read_routes.live),
        read("/health/ready", read_routes.ready),
        read("/metrics", read_routes.metrics),
        Route("/openapi.json", OpenApiRoute(), methods=["GET"]),
        Route("/dashboard", pages, methods=["GET"]),
        Route("/dashboard/{file}", pages, methods=["GET"]),
    ]


async def _http_problem(request: Request, error: Exception) -> Response:
    """Return what the router itself refuses (404, 405) as a problem document."""
    status = error.status_code if isinstance(error, HTTPException) else 500
    headers = dict(error.headers or {}) if isinstance(error, HTTPException) else {}
    detail = {
        404: f"there is no {request.url.path[:200]}: see /openapi.json",
        405: f"{request.method} is not allowed here: see /openapi.json",
    }.get(status, str(error))
    return Response(
        ProblemError(status, detail).encode(),
        status_code=status,
        headers=headers,
        media_type=CONTENT_TYPE.decode(),
    )
