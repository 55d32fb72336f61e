"""A server under measurement: started, waited for and stopped.

The server may be Ouzel or a peer; all that is asked of it is that it writes its port into a file
and answers `GET /health/ready` with 200 once it can be measured.
"""

from __future__ import annotations

import http.client
import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

STOP_SECONDS = 20.0
READY_SECONDS = 600.0
"""A catalogue of ten million items takes minutes; a server that fails is not waited for."""

LOG_TAIL_CHARACTERS = 2000


@dataclass(frozen=True)
class ServerProcess:
    """A running server: its port on 127.0.0.1 and the id of its first process.

    `start_to_ready_s` went by from its start until it said that it is ready.
    """

    port: int
    pid: int
    start_to_ready_s: float = 0.0


@contextmanager
def running(
    command: Callable[[Path], Sequence[str]], *, ready_seconds: float = READY_SECONDS
) -> Iterator[ServerProcess]:
    """Yield a server started with `command(port_file)`, once it is ready; stop it at the end.

    Raises: ValueError, with the end of what the server said, if it does not become ready.

    >>> with running(lambda port_file: ["false"]):
    ...     pass
    Traceback (most recent call last):
    ...
    ValueError: the server did not start (exit status 1): it said nothing
    """
    with tempfile.TemporaryDirectory(prefix="ouzel-bench-") as folder:
        port_file, log_path = Path(folder, "port"), Path(folder, "log")
        with log_path.open("wb") as log:
            began = time.monotonic()
            # a session of its own, so that workers it leaves behind can be ended with it
            process = subprocess.Popen(
                command(port_file), stdout=log, stderr=subprocess.STDOUT, start_new_session=True
            )
        try:
            port = _wait_until_ready(process, port_file, log_path, ready_seconds)
            yield ServerProcess(port, process.pid, time.monotonic() - began)
        finally:
            _stop(process)


def _wait_until_ready(
    process: subprocess.Popen[bytes], port_file: Path, log_path: Path, seconds: float
) -> int:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise ValueError(
                f"the server did not start (exit status {process.returncode}): {_tail(log_path)}"
            )
        text = port_file.read_text().strip() if port_file.exists() else ""
        if text.isdigit() and _is_ready(int(text)):
            return int(text)
        time.sleep(0.05)
    raise ValueError(f"the server was not ready within {seconds:g} s: {_tail(log_path)}")


def _is_ready(port: int) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5.0)
    try:
        connection.request("GET", "/health/ready")
        return connection.getresponse().status == 200
    except OSError:
        return False
    finally:
        connection.close()


def _stop(process: subprocess.Popen[bytes]) -> None:
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(STOP_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        return


def _tail(log_path: Path) -> str:
    text = log_path.read_text(errors="replace").strip()
    return text[-LOG_TAIL_CHARACTERS:] or "it said nothing"
