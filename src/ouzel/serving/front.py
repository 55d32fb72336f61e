"""The front door: a thread of compiled code that answers the plainest requests without Python.

It holds the connections of clients (`front.cpp`). A request for a list, of a user whose state is
current, is answered there by the kernels that answer it here, from the same pool and index; every
other request is passed on through a socket pair, on which uvicorn serves as on any connection. So
what the interpreter does, and what holds it up, does not hold up who asks for nothing new.

Who may be answered there is told from here: a state that is current is put in, and taken out
before an event of its user is acknowledged. So the next list knows of the event, as ever.

There is none without the kernels, with several workers, where a search takes long enough to go
beside the loop anyway, or where more than a search and a blend makes a list.
"""

from __future__ import annotations

import asyncio
import ctypes
import importlib.util
import os
import socket
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any, NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from ouzel.events.catalog import Catalog
from ouzel.features.addresses import address_of
from ouzel.inference.gated_steps import GatedSteps
from ouzel.inference.states import UserStates
from ouzel.ranking.blend_kernel import BlendKernel, blend_layout
from ouzel.ranking.stages import SEQUENCE
from ouzel.retrieval.scan import SPARE, Arguments, ScanIndex
from ouzel.serving.direct import PROPOSERS
from ouzel.serving.timing import Part
from ouzel.serving.visitors import Visitors
from ouzel.serving.wire import ModelName

USER_BYTES = 64 << 20
"""Memory for who may be answered, with what they have seen."""

IDLE_SECONDS = 5.0
"""How long a connection may stay open between two requests."""

BACKLOG = 2048

STAGES: tuple[tuple[Part, str], ...] = (
    ("T", "decode"),
    ("P", "state"),
    ("A", "search"),
    ("A", "blend"),
    ("A", "encode"),
)
"""What is timed of an answer of the front door, with the part that each belongs to. Where lists are
not blended, that takes no time."""

_ANSWER_BYTES = len(STAGES) * np.dtype(np.float32).itemsize
_encode = msgspec.json.Encoder().encode


class Taken(NamedTuple):
    """What the front door did since the last look, and what it counts since it opened.

    `spent_ms` (G, S) are the stages of G answers, `shown` their lists for `EventLog.append_shown`,
    `num_shown` of them; those that found no more room are `dropped`.
    """

    spent_ms: NDArray[np.float32]
    shown: bytes
    answered: int
    passed_on: int
    connections: int
    num_answers: int
    num_shown: int
    dropped: int


NOTHING = Taken(np.empty((0, len(STAGES)), np.float32), b"", 0, 0, 0, 0, 0, 0)


class Front:
    """The thread, and what it is told. All but the thread lives in one event loop."""

    def __init__(
        self,
        states: UserStates,
        index: ScanIndex,
        visitors: Visitors,
        catalog: Catalog,
        *,
        hidden: tuple[NDArray[np.bool_], NDArray[np.int64]],
        model: ModelName,
        blend: BlendKernel | None = None,
    ) -> None:
        """`hidden` is the mask (N,) of what nobody may see, and (1,) how many it hides.

        What is found is blended with other sources by `blend`.

        Raises: ValueError if there are no kernels for such states here.
        """
        self._kernel = _loaded()
        steps = states.graphs.steps
        if steps is None:
            raise ValueError("the states of this model have no kernel: serve without a front door")
        self._visitors = visitors
        self._states = states
        self._kept: list[Any] = [index, hidden, blend]
        self._lists = self._told(states, steps, index, catalog, hidden, model, blend)
        self._front: int | None = None
        self._reading, self._writing = -1, -1
        self._listener: socket.socket | None = None
        self._opening: set[asyncio.Task[None]] = set()
        self._inside: set[int] = set()

    @property
    def steps(self) -> list[str]:
        """Return the stages that its answers go through."""
        return [name for _, name in STAGES if self._lists.blend or name != "blend"]

    @staticmethod
    def works() -> bool:
        """Return whether it was built, and this system has what it needs."""
        return _kernel() is not None

    def open(
        self,
        listener: socket.socket,
        protocol: Callable[[], asyncio.Protocol],
        loop: asyncio.AbstractEventLoop,
        cores: Sequence[int] = (),
    ) -> None:
        """Serve a bound socket, on `cores` if some are given; what is passed on is for `protocol`.

        Raises:
            OSError: it cannot listen.
            RuntimeError: the system gives no thread.
        """
        listener.listen(BACKLOG)
        listener.setblocking(False)
        self._listener = listener
        self._reading, self._writing = os.pipe()
        for end in (self._reading, self._writing):
            os.set_blocking(end, False)
        numbers = np.array(cores, np.int32)
        place = _Place(
            most_bytes=USER_BYTES,
            idle_ms=int(IDLE_SECONDS * 1000),
            cores=numbers.ctypes.data,
            num_cores=len(numbers),
            listener=listener.fileno(),
            handing=self._writing,
        )
        self._front = self._kernel.ouzel_front_start(ctypes.byref(self._lists), ctypes.byref(place))
        if self._front is None:
            self._close_pipe()
            raise RuntimeError("the system gives no thread for the front door: raise its limits")
        loop.add_reader(self._reading, self._take_in, protocol, loop)

    def leave(self) -> None:
        """Let nobody in any more; requests under way are answered."""
        if self._front is not None:
            self._kernel.ouzel_front_leave(self._front)

    def close(self, loop: asyncio.AbstractEventLoop) -> None:
        """End the thread once what was answered has left; it knows nobody from now on."""
        front, self._front = self._front, None
        if front is None:
            return
        loop.remove_reader(self._reading)
        self._kernel.ouzel_front_stop(front)
        self._kernel.ouzel_front_free(front)
        for number in self._handed():
            os.close(number)
        self._close_pipe()

    def let_in(self, head: bytes, body: int) -> None:
        """Take requests with this very head, and so many bytes behind it, as admitted lists."""
        if self._front is not None:
            self._kernel.ouzel_front_let_in(self._front, head, len(head), body)

    def publish(self, user: int, slot: int) -> None:
        """Say that the state in `slot` is the current one of `user`."""
        self.put(user)

    def put(self, user: int) -> None:
        """Let a user be answered here, if there is a current state."""
        if self._front is None or (user in self._inside and self._knows(user)):
            return
        slot, visitor = self._states.current(user), self._visitors.present(user)
        if slot is None or visitor is None or visitor.user_id is None:
            return
        self._inside.add(user)
        name, seen, known = visitor.user_id.encode(), visitor.seen, visitor.known.rows
        self._kernel.ouzel_front_put(
            self._front,
            *(name, len(name), user, slot),
            *(address_of(seen), len(seen), address_of(known), len(known)),
        )

    def _knows(self, user: int) -> bool:
        """Return whether a user who was put in is there still, and not pushed out by others."""
        return bool(self._kernel.ouzel_front_knows(self._front, user))

    def change(self, user: int) -> None:
        """Say that the history of `user` is another now, and that no state is current."""
        if user in self._inside and self._front is not None:
            self._inside.discard(user)
            self._kernel.ouzel_front_drop(self._front, user)

    def withdraw(self, user: int) -> None:
        """Say that there is no current state of `user`."""
        self.change(user)

    def take(self) -> Taken | None:
        """Return what was done since the last time, None if it is not open."""
        if self._front is None:
            return None
        spent, shown, size = ctypes.c_void_p(), ctypes.c_void_p(), ctypes.c_int64()
        counts = np.zeros(6, np.int64)
        self._kernel.ouzel_front_take(
            self._front,
            ctypes.byref(spent),
            ctypes.byref(shown),
            ctypes.byref(size),
            address_of(counts),
        )
        told = counts.tolist()
        spent_ms = NOTHING.spent_ms
        if told[3]:
            bytes_ = ctypes.string_at(spent.value or 0, told[3] * _ANSWER_BYTES)
            spent_ms = np.frombuffer(bytes_, np.float32).reshape(-1, len(STAGES))
        # Without the comma behind the last.
        text = ctypes.string_at(shown.value or 0, size.value - 1) if size.value else b""
        return Taken(spent_ms, b"[%b]" % text, *told)

    def _take_in(
        self, protocol: Callable[[], asyncio.Protocol], loop: asyncio.AbstractEventLoop
    ) -> None:
        """Serve the ends of connections that the thread has opened."""
        for number in self._handed():
            end = socket.socket(fileno=number)
            task = loop.create_task(_served(loop, protocol, end))
            self._opening.add(task)
            task.add_done_callback(self._opening.discard)

    def _handed(self) -> list[int]:
        """Return the numbers of sockets that are to be served here."""
        try:
            numbers: list[int] = np.frombuffer(os.read(self._reading, 4096), np.int32).tolist()
        except BlockingIOError:
            return []
        return numbers

    def _close_pipe(self) -> None:
        for end in (self._reading, self._writing):
            os.close(end)

    def _told(
        self,
        states: UserStates,
        steps: GatedSteps,
        index: ScanIndex,
        catalog: Catalog,
        hidden: tuple[NDArray[np.bool_], NDArray[np.int64]],
        model: ModelName,
        blend: BlendKernel | None,
    ) -> _Lists:
        pool, (mask_N, count_1) = states.pool, hidden
        query, weights, rings = steps.call(pool.cache)
        scan, search = index.call()
        quoted = [_encode(text) for text in _ids(catalog, len(index.vectors_ND))]
        from_N1 = np.zeros(len(quoted) + 1, np.int64)
        np.cumsum([len(text) for text in quoted], out=from_N1[1:])
        texts = np.frombuffer(b"".join(quoted), np.uint8)
        names = [_encode(model), _encode(model.version)]
        sources = [f'"source":"{SEQUENCE}"'] * len(PROPOSERS) if blend is None else PROPOSERS
        told = (ctypes.c_char_p * len(sources))(*map(str.encode, sources))
        blending = (None, None) if blend is None else blend.call()
        self._kept += [rings, search, texts, from_N1, names]
        return _Lists(
            query=query,
            model=weights,
            rings=ctypes.addressof(rings),
            last_vectors=address_of(pool.last_SD),
            last_times=address_of(pool.last_time_S),
            lengths=address_of(pool.length_S),
            epochs=address_of(pool.epoch_S),
            used=address_of(pool.used_S),
            num_slots=pool.num_slots,
            scan=scan,
            search=ctypes.addressof(search),
            least_width=index.least_width,
            spare=SPARE,
            quoted=address_of(texts),
            quoted_from=address_of(from_N1),
            hidden=address_of(mask_N),
            num_hidden=address_of(count_1),
            model_name=names[0],
            version=names[1],
            blending=blending[0],
            blend=blending[1],
            told=told,
        )


async def _served(
    loop: asyncio.AbstractEventLoop, protocol: Callable[[], asyncio.Protocol], end: socket.socket
) -> None:
    try:
        await loop.connect_accepted_socket(protocol, end)
    except OSError:
        end.close()  # Who asked is gone.


def _ids(catalog: Catalog, num_rows: int) -> Sequence[str]:
    return ["", *(catalog.id(row) for row in range(1, num_rows))]


class _Lists(ctypes.Structure):
    """`Lists` of `front_lists.h`."""

    _fields_ = (
        ("query", ctypes.c_void_p),
        ("model", ctypes.c_void_p),
        ("rings", ctypes.c_void_p),
        ("last_vectors", ctypes.c_void_p),
        ("last_times", ctypes.c_void_p),
        ("lengths", ctypes.c_void_p),
        ("epochs", ctypes.c_void_p),
        ("used", ctypes.c_void_p),
        ("num_slots", ctypes.c_int64),
        ("scan", ctypes.c_void_p),
        ("search", ctypes.c_void_p),
        ("least_width", ctypes.c_int64),
        ("spare", ctypes.c_int64),
        ("quoted", ctypes.c_void_p),
        ("quoted_from", ctypes.c_void_p),
        ("hidden", ctypes.c_void_p),
        ("num_hidden", ctypes.c_void_p),
        ("model_name", ctypes.c_char_p),
        ("version", ctypes.c_char_p),
        ("blending", ctypes.c_void_p),
        ("blend", ctypes.c_void_p),
        ("told", ctypes.c_char_p * len(PROPOSERS)),
    )


class _Place(ctypes.Structure):
    """`Place` of `front.cpp`."""

    _fields_ = (
        ("most_bytes", ctypes.c_int64),
        ("idle_ms", ctypes.c_int64),
        ("cores", ctypes.c_void_p),
        ("num_cores", ctypes.c_int64),
        ("listener", ctypes.c_int32),
        ("handing", ctypes.c_int32),
    )


@cache
def _kernel() -> Any:
    """Return the compiled thread, None where it was not built or does not work."""
    found = importlib.util.find_spec("ouzel.serving._front")
    if found is None or found.origin is None or not ScanIndex.works() or not GatedSteps.work():
        return None
    try:
        kernel = ctypes.CDLL(found.origin)
    except OSError:
        # Built for another machine, say: an install that was copied.
        return None
    kernel.ouzel_front_bytes.restype = ctypes.c_int64
    layout = 1000 * ctypes.sizeof(_Lists) + 100 * ctypes.sizeof(_Place)
    layout += 10 * ctypes.sizeof(Arguments) + _ANSWER_BYTES + blend_layout()
    if kernel.ouzel_front_bytes() != layout:
        return None  # Of an older Ouzel, or a system that has no such thread.
    pointer, number = ctypes.c_void_p, ctypes.c_int64
    kernel.ouzel_front_start.restype = pointer
    kernel.ouzel_front_start.argtypes = [pointer, pointer]
    for name in ("leave", "stop", "free"):
        ending = getattr(kernel, f"ouzel_front_{name}")
        ending.argtypes, ending.restype = [pointer], None
    kernel.ouzel_front_let_in.argtypes = [pointer, ctypes.c_char_p, number, number]
    kernel.ouzel_front_put.argtypes = [
        pointer, ctypes.c_char_p, number, number, number, pointer, number, pointer, number,
    ]  # fmt: skip
    kernel.ouzel_front_knows.argtypes = [pointer, number]
    kernel.ouzel_front_drop.argtypes, kernel.ouzel_front_drop.restype = [pointer, number], None
    kernel.ouzel_front_take.argtypes, kernel.ouzel_front_take.restype = 5 * [pointer], None
    return kernel


def _loaded() -> Any:
    kernel = _kernel()
    if kernel is None:
        raise ValueError("there is no front door on this machine: serve without it")
    return kernel
