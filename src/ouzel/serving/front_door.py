"""The front door of an engine: when there is one, and what becomes of what it did."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Callable, Sequence
from typing import Self

import numpy as np

from ouzel.inference.states import UserStates
from ouzel.ranking.direct import DIRECT_BYTES, DirectSearch
from ouzel.ranking.stages import SearchIndex
from ouzel.retrieval.live import LiveIndex
from ouzel.retrieval.scan import ScanIndex
from ouzel.serving.engine import Engine
from ouzel.serving.front import NOTHING, STAGES, Front
from ouzel.serving.metrics import Family

logger = logging.getLogger(__name__)

COLLECT_SECONDS = 0.02
"""How often the log and the metrics hear of what was answered at the front door: seldom enough to
take many at once, and so often that they hold nobody up who waits for the log."""

IDLE_SECONDS = 0.05
"""How often, while nothing is answered there."""


class FrontDoor:
    """Opens with a server and closes with it; lives in the event loop of the engine."""

    def __init__(self, engine: Engine, front: Front, states: UserStates) -> None:
        self._engine = engine
        self._front = front
        self._states = states
        self._steps = [step for step, (_, name) in enumerate(STAGES) if name in front.steps]
        self._last = NOTHING
        self._timer: asyncio.TimerHandle | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        states.follow(front)
        if engine.direct is not None:
            engine.direct.learned = front.let_in
            engine.direct.answered = front.put
        engine.metrics.families.append(
            Family(
                "counter",
                "ouzel_front_door",
                "Requests answered at the front door, and passed on from there.",
                lambda: {"answered": self._last.answered, "passed_on": self._last.passed_on},
            )
        )

    @classmethod
    def of(cls, engine: Engine) -> Self | None:
        """Return the front door of an engine, None if there can be none.

        >>> from types import SimpleNamespace
        >>> FrontDoor.of(SimpleNamespace(parts=SimpleNamespace(workers=2))) is None
        True
        """
        parts = engine.parts
        if parts.workers > 1 or not Front.works():
            return None
        direct = DirectSearch.of(parts.pipeline)
        blend = None if direct is None or direct.blend is None else direct.blend.kernel
        if direct is None or (blend is None and direct.blend is not None):
            return None
        searches = [
            stage.index for stage in parts.pipeline.stages if isinstance(stage, SearchIndex)
        ]
        match (parts.states, *searches):
            case (UserStates() as states, LiveIndex(engine=ScanIndex() as index) as live):
                if states.graphs.steps is None or live.query_bytes > DIRECT_BYTES or live.changed:
                    return None
                if blend is not None and blend.num_rows > len(index.vectors_ND):
                    return None  # It could propose what has no vector, and no id here.
            case _:
                return None
        front = Front(
            states,
            index,
            parts.visitors,
            engine.catalog,
            hidden=engine.hidden_rows,
            model=engine.model,
            blend=blend,
        )
        return cls(engine, front, states)

    def open(
        self,
        listener: socket.socket,
        protocol: Callable[[], asyncio.Protocol],
        cores: Sequence[int],
    ) -> None:
        """Serve a bound socket; what is not answered at the door is served by `protocol`.

        Raises:
            OSError: it cannot listen.
            RuntimeError: the system gives no thread.
        """
        self._loop = asyncio.get_running_loop()
        self._front.open(listener, protocol, self._loop, cores)
        for user in self._states.pool.users():
            self._front.put(user)
        self._collect()

    def leave(self) -> None:
        """Let nobody in any more, and take in what was answered until now."""
        self._front.leave()
        if self._timer is not None:
            self._timer.cancel()
        self._take()

    def close(self) -> None:
        """End it: whoever is still connected has been answered."""
        if self._loop is not None:
            self._front.close(self._loop)

    def _collect(self) -> None:
        taken = 0
        try:
            taken = self._take()
        except Exception:
            logger.exception("what was answered at the front door could not be counted")
        if self._loop is not None:
            pause = COLLECT_SECONDS if taken else IDLE_SECONDS
            self._timer = self._loop.call_later(pause, self._collect)

    def _take(self) -> int:
        """Take in what was answered; return how many answers that were."""
        taken = self._front.take()
        if taken is None:
            return 0
        engine = self._engine
        if taken.num_answers:
            names = tuple(STAGES[step] for step in self._steps)
            spent_GS = taken.spent_ms[:, self._steps].astype(np.float64)
            engine.metrics.count_alike("recommend", names, spent_GS)
            engine.metrics.requests["recommend", 200] += taken.num_answers
            self._states.stats.hits += taken.num_answers
        if taken.num_shown:
            engine.writer.append_shown(taken.shown, taken.num_shown)
        engine.writer.stats.dropped += taken.dropped - self._last.dropped
        self._last = taken._replace(spent_ms=NOTHING.spent_ms, shown=b"")
        return taken.num_answers
