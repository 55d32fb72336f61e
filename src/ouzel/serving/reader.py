"""A reader: a process that answers for users whose state the writer holds, on the same port.

It reads user states in place, histories from the log, and tables and index from the memory that it
shares with the writer since its fork. Whatever it cannot know or do, it forwards: so every answer
is one that the writer could have given at that moment. A user's acknowledged event is counted in
shared memory before its acknowledgement leaves, whichever process took it, so the next answer here
cannot overlook it.
"""

from __future__ import annotations

import asyncio
import gc
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
from starlette.types import ASGIApp

from ouzel.events.catalog import Catalog
from ouzel.events.log_view import LogView
from ouzel.events.types import Impression
from ouzel.inference.no_states import SharedNothing
from ouzel.inference.shared import SharedStates
from ouzel.ranking.filters import Filters
from ouzel.ranking.paths import paths
from ouzel.ranking.pipeline import Pipeline, Stage
from ouzel.ranking.scoring import RankCandidates
from ouzel.ranking.stages import EncodeUser, SearchIndex
from ouzel.serving.answers import Answer, Answers
from ouzel.serving.engine import Engine
from ouzel.serving.forward import Forward
from ouzel.serving.frame import Frame, Short
from ouzel.serving.link import Body, Counted, Head, Hello, Link, Message, Shown, Stop
from ouzel.serving.list_routes import ListRoute
from ouzel.serving.metrics import Metrics
from ouzel.serving.queries import ListRequest
from ouzel.serving.security import Access
from ouzel.serving.timing import Timing
from ouzel.serving.visitors import Visitors
from ouzel.serving.wire import ModelName, RankRequest, RecommendRequest, SimilarRequest
from ouzel.serving.writer import LINGER_SECONDS

COUNT_SECONDS = 1.0
"""How often a reader tells what it has counted."""

WARM_UP_REQUESTS = 8

HERE = frozenset(
    {
        "user_id",
        "session_id",
        "item_id",
        "items",
        "n",
        "exclude_seen",
        "exclude_items",
        "context",
    }
)
"""Fields of requests that a reader understands; one that asks for more is forwarded."""


class ElsewhereError(Exception):
    """The writer has to answer this request."""


@dataclass(frozen=True, slots=True)
class Inherited:
    """What a reader has from the process that it was forked from."""

    stages: Sequence[Stage]
    states: SharedStates | SharedNothing
    catalog: Catalog
    filters: Filters
    model: ModelName
    num_rows: int
    valued: bool


def inherited(engine: Engine) -> Inherited:
    """Return what a process forked from the one of this engine can read.

    Raises:
        ValueError: the states of the engine are its own.

    >>> from types import SimpleNamespace
    >>> parts = SimpleNamespace(
    ...     states=SimpleNamespace(shared=lambda: "states"),
    ...     pipeline=SimpleNamespace(stages=()),
    ...     model="model",
    ...     num_rows=3,
    ...     visitors=SimpleNamespace(valued=False),
    ... )
    >>> inherited(SimpleNamespace(parts=parts, catalog="catalog", filters="filters")).states
    'states'
    """
    parts = engine.parts
    return Inherited(
        stages=parts.pipeline.stages,
        states=parts.states.shared(),
        catalog=engine.catalog,
        filters=engine.filters,
        model=parts.model,
        num_rows=parts.num_rows,
        valued=parts.visitors.valued,
    )


class Reader:
    """The part of an engine that lists need, and the way to the writer for everything else."""

    def __init__(self, inherited: Inherited, log: LogView, *, stop: asyncio.Event) -> None:
        self.model = inherited.model
        self.catalog = inherited.catalog
        self.metrics = Metrics()
        # A list that many get is kept by the writer alone, which knows when it is out of date.
        self.lists = None
        self.served_version = None
        self.link = Link(self._hear, self._lost)
        self.forward = Forward(self.link)
        self.writer = Shows(self.link)
        self._stop = stop
        stages = [_reading(stage, inherited.states) for stage in inherited.stages]
        visitors = Visitors(
            log,
            _Settled(),
            num_rows=inherited.num_rows,
            changes=inherited.states.directory.changes,
            valued=inherited.valued,
        )
        answers = Answers(
            paths(Pipeline(stages), inherited.catalog),
            visitors,
            inherited.catalog,
            states=inherited.states,
            filters=inherited.filters,
            num_rows=inherited.num_rows,
        )
        self.answers = LocalAnswers(answers, visitors, inherited)
        self._counting: asyncio.TimerHandle | None = None

    async def start(self, end: socket.socket) -> None:
        """Answer a few requests to warm up."""
        await self.link.open(end)
        await self.answers.warm_up()
        gc.collect()
        gc.freeze()
        self._count()

    def listening(self) -> None:
        """Tell the writer that requests are welcome here."""
        self.link.send(Hello())

    def close(self) -> None:
        """Tell the writer all that it has not been told yet."""
        if self._counting is not None:
            self._counting.cancel()
        self.writer.flush()
        self._tell_counts()
        self.link.close()

    def app(self, access: Access) -> ASGIApp:
        """Return the application: lists where that is possible, the writer for the rest."""
        kinds: dict[bytes, type[ListRequest]] = {
            b"recommend": RecommendRequest,
            b"similar": SimilarRequest,
        }
        short: dict[bytes, Short] = {
            b"/v1/" + name: ListOrForward(ListRoute(self, name.decode(), kind), self).short
            for name, kind in kinds.items()
        }
        short[b"/v1/events"] = self._events
        return Frame(self.forward, access=access, metrics=self.metrics, short=short)

    async def _events(self, scope: Mapping[str, Any], body: bytes) -> bytes:
        # What was shown before goes into the log before what was done with it.
        self.writer.flush()
        return await self.forward.fetch(dict(scope), body)

    def _tell_counts(self) -> None:
        hits, failures, overruns = self.answers.take_counts()
        self.link.send(Counted(self.metrics.take(), hits, failures, overruns))

    def _count(self) -> None:
        self._tell_counts()
        loop = asyncio.get_running_loop()
        self._counting = loop.call_later(COUNT_SECONDS, self._count)

    def _hear(self, message: Message) -> None:
        if isinstance(message, Head | Body):
            self.forward.receive(message)
        elif isinstance(message, Stop):
            self._stop.set()

    def _lost(self) -> None:
        self.forward.end()
        self._stop.set()


class ListOrForward:
    """A route of lists that are made here if possible, else by the writer."""

    def __init__(self, route: ListRoute, reader: Reader) -> None:
        self._route = route
        self._forward = reader.forward

    async def short(self, scope: Any, body: bytes) -> bytes:
        """Return the answer to a `POST` as JSON."""
        try:
            return await self._route.short(scope, body)
        except ElsewhereError:
            return await self._forward.fetch(scope, body)


class LocalAnswers:
    """Answers of a reader: those that are what the writer would give."""

    def __init__(self, answers: Answers, visitors: Visitors, inherited: Inherited) -> None:
        self._answers = answers
        self._visitors = visitors
        self._catalog = inherited.catalog
        self._states = inherited.states

    async def answer(self, request: ListRequest, timing: Timing) -> Answer:
        """Return the list for one request.

        Raises:
            ElsewhereError: the writer has to answer it.
            ProblemError: as `Answers.answer`.
        """
        user = self._user(request)
        answer = await self._answers.answer(request, timing)
        if user in self._states.lost:
            self._states.lost.discard(user)
            raise ElsewhereError
        if user >= 0 and answer.degraded == RankCandidates.name:
            raise ElsewhereError  # It was there for the search and had moved when it was ranked.
        return answer

    def take_counts(self) -> tuple[int, dict[str, int], dict[str, int]]:
        """Return states found, failures and overruns by stage since the last call."""
        hits, self._states.hits = self._states.hits, 0
        failures, overruns = self._answers.paths.take_counts()
        return hits, failures, overruns

    async def warm_up(self) -> None:
        """Answer a few requests, so that the first real one finds everything in place."""
        item_ids = self._catalog.ids(range(1, min(len(self._catalog), WARM_UP_REQUESTS + 1)))
        for item_id in item_ids:
            await self._answers.answer(RecommendRequest(items=[item_id]), Timing())

    def _user(self, request: ListRequest) -> int:
        """Return whose state the answer needs, -1 if it needs none."""
        if isinstance(request, RankRequest):
            raise ElsewhereError
        fields = zip(request.__struct_fields__, _DEFAULTS[type(request)], strict=True)
        for name, default in fields:
            if name not in HERE and getattr(request, name) != default:
                raise ElsewhereError
        session: list[str] = getattr(request, "items", [])
        alike = [request.item_id] if isinstance(request, SimilarRequest) else []
        if not all(self._catalog.row(one) for one in (*session, *alike, *request.exclude_items)):
            raise ElsewhereError  # It may have come since the fork.
        if request.user_id is None and request.session_id is None:
            return -1
        try:
            visitor = self._visitors.find(request.user_id, request.session_id)
        except Exception as error:
            raise ElsewhereError from error  # The writer knows how to go on without a history.
        if visitor is None or not len(visitor.known):
            return -1
        if self._states.directory.changes(visitor.user) is None:
            raise ElsewhereError
        if session or isinstance(request, SimilarRequest):
            return -1
        if not self._states.contains(visitor.user):
            raise ElsewhereError
        return visitor.user


class Shows:
    """Tells the writer what was shown, a moment's lists at a time."""

    def __init__(self, link: Link) -> None:
        self._link = link
        self._gathered: list[Impression] = []
        self._flushing: asyncio.TimerHandle | None = None

    def append_later(self, event: Impression) -> None:
        """Let the writer put this into the log soon."""
        self._gathered.append(event)
        if self._flushing is None:
            loop = asyncio.get_running_loop()
            self._flushing = loop.call_later(LINGER_SECONDS, self.flush)

    def flush(self) -> None:
        """Tell now."""
        if self._flushing is not None:
            self._flushing.cancel()
            self._flushing = None
        gathered, self._gathered = self._gathered, []
        if gathered:
            self._link.send(Shown(gathered))


class _Settled:
    """The tickets of one who writes nothing."""

    submitted = 0
    settled = 0


def _reading(stage: Stage, states: SharedStates | SharedNothing) -> Stage:
    """Return the stage as it is in a reader."""
    if isinstance(states, SharedStates):
        if isinstance(stage, EncodeUser):
            return EncodeUser(states)
        if isinstance(stage, RankCandidates):
            return stage.over(states)
    return SearchIndex(stage.index) if isinstance(stage, SearchIndex) else stage


def _defaults(kind: type[msgspec.Struct]) -> tuple[Any, ...]:
    return tuple(
        field.default_factory() if field.default_factory is not msgspec.NODEFAULT else field.default
        for field in msgspec.structs.fields(kind)
    )


_DEFAULTS = {kind: _defaults(kind) for kind in (RecommendRequest, SimilarRequest)}
