"""Small servers with planted faults, each in a thread of its own event loop."""

import asyncio
import contextlib
import threading
import time

import pytest


class FaultyServer(asyncio.Protocol):
    """Answers every request with what `answer(number)` says; one object a connection."""

    def __init__(self, state):
        self.state = state
        self.buffer = b""

    def connection_made(self, transport):
        self.transport = transport

    def data_received(self, data):
        self.buffer += data
        while b"\r\n\r\n" in self.buffer:
            head, _, rest = self.buffer.partition(b"\r\n\r\n")
            length = int(head.lower().partition(b"content-length:")[2].split()[0])
            if len(rest) < length:
                return
            body, self.buffer = rest[:length], rest[length:]
            self.state["bodies"].append((head.split()[1].decode(), body))
            self.state["answer"](self.transport, len(self.state["bodies"]))


def written_reply(status=200, body=b'{"degraded":null}', extra=b""):
    return (
        b"HTTP/1.1 %d X\r\ncontent-LENGTH: %d\r\n%sserver: planted\r\n\r\n"
        % (status, len(body), extra)
    ) + body


@contextlib.contextmanager
def serving(answer):
    """Yield (port, bodies seen so far) of a server that answers so."""
    state = {"answer": answer, "bodies": []}
    ready, loop = threading.Event(), asyncio.new_event_loop()

    async def start():
        server = await loop.create_server(lambda: FaultyServer(state), "127.0.0.1", 0)
        state["port"] = server.sockets[0].getsockname()[1]
        ready.set()
        return server

    def run():
        server = loop.run_until_complete(start())
        loop.run_forever()
        server.close()
        loop.run_until_complete(asyncio.sleep(0.01))
        loop.close()

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    assert ready.wait(60)
    try:
        yield state["port"], state["bodies"]
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join(60)


@pytest.fixture
def planted():
    return serving


@pytest.fixture
def reply():
    return written_reply


@pytest.fixture
def stalling():
    """Return an answer that blocks the whole server for `stall_s` at request `at`, once."""

    def make(at, stall_s):
        def answer(transport, number):
            if number == at:
                time.sleep(stall_s)
            transport.write(written_reply())

        return answer

    return make
