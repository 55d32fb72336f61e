"""The application on a real socket, in a thread of the test, and raw HTTP for what clients hide."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import httpx
import uvicorn
from starlette.types import ASGIApp

from ouzel.serving.server import configured


@contextmanager
def running(app: ASGIApp) -> Iterator[httpx.Client]:
    """Yield a client of the application."""
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    config = configured(app)
    server = uvicorn.Server(config)

    def run() -> None:
        with asyncio.Runner(loop_factory=config.get_loop_factory()) as runner:
            runner.run(server._serve([listener]))

    thread = threading.Thread(target=run)
    thread.start()
    try:
        while not server.started and thread.is_alive():
            threading.Event().wait(0.005)
        address = f"http://127.0.0.1:{listener.getsockname()[1]}"
        with httpx.Client(base_url=address, timeout=20) as client:
            yield client
    finally:
        server.should_exit = True
        thread.join()
        listener.close()


def raw(client: httpx.Client, sent: bytes, *, finish: bool = True) -> bytes:
    """Return everything the server answers to these bytes on a connection of their own."""
    address = (client.base_url.host, client.base_url.port)
    with socket.create_connection(address, timeout=20) as connection:
        connection.sendall(sent)
        if finish:
            connection.shutdown(socket.SHUT_WR)
        received = b""
        while chunk := connection.recv(65536):
            received += chunk
            if not finish and b"\r\n\r\n" in received:
                return received
        return received
