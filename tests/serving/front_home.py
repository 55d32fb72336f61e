"""A real home behind a front door, on a real socket, and what its answers are compared by."""

from __future__ import annotations

import asyncio
import re
import socket
import threading
import time
from contextlib import contextmanager

import httpx
import pytest

from ouzel.ranking import assembly
from ouzel.serving.app import build_app
from ouzel.serving.front import Front
from ouzel.serving.front_door import IDLE_SECONDS, FrontDoor
from ouzel.serving.home import open_home
from ouzel.serving.security import Access
from ouzel.serving.server import INNER_SECONDS, _Server, configured
from tests.serving.real_home import write_home

needs_door = pytest.mark.skipif(not Front.works(), reason="no front door on this machine")


def opened(folder, monkeypatch, *, state_bytes: int = 1 << 20, **home):
    """Return the engine of a home that can have a front door."""
    monkeypatch.setattr(assembly, "EXACT_ROWS", 0)
    write_home(folder / "home", compiled=True, **home)
    return open_home(folder / "home", state_bytes=state_bytes)


@contextmanager
def at_the_door(engine, key: str | None = None):
    """Yield a client of the engine, which is served behind its front door."""
    door = FrontDoor.of(engine)
    assert door is not None
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    listening = threading.Event()
    config = configured(build_app(engine, Access("127.0.0.1", key)), idle_seconds=INNER_SECONDS)
    server = _Server(config, listening.set, door)

    def run() -> None:
        with asyncio.Runner(loop_factory=config.get_loop_factory()) as runner:
            runner.run(server._serve([listener]))

    thread = threading.Thread(target=run)
    thread.start()
    try:
        assert listening.wait(60)
        address = f"http://127.0.0.1:{listener.getsockname()[1]}"
        headers = {} if key is None else {"X-API-Key": key}
        with httpx.Client(base_url=address, timeout=20, headers=headers) as client:
            yield client
    finally:
        server.should_exit = True
        thread.join(30)
        assert not thread.is_alive()
        listener.close()


def answered(client) -> int:
    """Return how many requests the door has answered until now."""
    time.sleep(3 * IDLE_SECONDS)  # it is heard of so often
    text = client.get("/metrics").text
    return int(float(re.search(r'ouzel_front_door_total\{of="answered"\} (\S+)', text)[1]))
