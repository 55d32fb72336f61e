"""What is acknowledged stays: through kill -9, and by an fsync that came first.

`kill -9` leaves the page cache alone, so it cannot tell whether anything was synced: the two tests
check different promises, and each is shown to fail on a planted fault.
"""

from __future__ import annotations

import os
import random
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from ouzel.events.log import EventLog

ROOT = Path(__file__).parents[2]
KILLS = 20


@contextmanager
def server(home: Path, *fault: str, under: tuple[str, ...] = ()):
    """Yield (process, client) of a server on `home`; it is killed in the end."""
    port_file = home / "port"
    port_file.unlink(missing_ok=True)
    command = [sys.executable, "-m", "tests.serving.server_process", str(home), str(port_file)]
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'src'}", "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        [*under, *command, *fault], cwd=ROOT, env=environment, start_new_session=True
    )
    try:
        while not port_file.exists():
            assert process.poll() is None, "the server did not start"
            time.sleep(0.01)
        with httpx.Client(base_url=f"http://127.0.0.1:{port_file.read_text()}", timeout=30) as http:
            yield process, http
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


class Stream:
    """Sends single events and batches from two threads until the server is gone."""

    def __init__(self, client: httpx.Client, prefix: str) -> None:
        self.acknowledged: list[str] = []
        self.sent: dict[str, dict[str, str]] = {}
        self._client = client
        self._threads = [
            threading.Thread(target=self._send, args=(f"{prefix}-{size}", size)) for size in (1, 7)
        ]
        for thread in self._threads:
            thread.start()

    def _send(self, prefix: str, size: int) -> None:
        number = 0
        while True:
            events = [
                {
                    "event_id": f"{prefix}-{number + place}",
                    "event": "click",
                    "user_id": f"user-{size}",
                    "item_id": f"i{1 + (number + place) % 40}",
                }
                for place in range(size)
            ]
            number += size
            self.sent |= {event["event_id"]: event for event in events}
            try:
                reply = self._client.post("/v1/events", json=events)
            except httpx.HTTPError:
                return
            assert reply.status_code == 200
            assert reply.json()["accepted"] == size
            self.acknowledged += [event["event_id"] for event in events]

    def wait_for(self, count: int) -> None:
        while len(self.acknowledged) < count:
            time.sleep(0.001)

    def join(self) -> None:
        for thread in self._threads:
            thread.join()


def stored(home: Path) -> Counter[str]:
    """Return how often each event id is in the log."""
    counts: Counter[str] = Counter()
    with EventLog.open(home / "events.db") as log:
        after = 0
        while page := log.events(after=after, limit=5000):
            counts.update(event.event_id for _, event in page)
            after = page[-1][0]
    return counts


def killed_in_a_stream(home: Path, name: str, *fault: str, after: int, pause: float = 0) -> Stream:
    with server(home, *fault) as (process, client):
        stream = Stream(client, name)
        stream.wait_for(after)
        time.sleep(pause)
        os.killpg(process.pid, signal.SIGKILL)
        stream.join()
    return stream


def test_kill_9_loses_nothing_acknowledged_and_applies_nothing_twice(tmp_path):
    chance = random.Random(20)
    acknowledged: set[str] = set()
    last = None
    for kill in range(KILLS):
        pause = chance.uniform(0, 0.03)
        last = killed_in_a_stream(tmp_path, f"k{kill}", after=chance.randint(1, 60), pause=pause)
        acknowledged |= set(last.acknowledged)
        counts = stored(tmp_path)
        assert not acknowledged - counts.keys()
        assert max(counts.values()) == 1
    assert last is not None
    with server(tmp_path) as (_, client):
        # The client cannot know what became of its last requests, so it sends them again.
        again = client.post("/v1/events", json=list(last.sent.values())[:1000]).json()
        assert again["conflicts"] == 0
        assert again["duplicates"] >= len(last.acknowledged[:1000])
        # The state comes back from the log: the best item is the one after the last click.
        with EventLog.open(tmp_path / "events.db") as log:
            newest = log.history(log.user_row(user_id="user-1")).rows[-1]
        reply = client.get("/v1/recommend?user_id=user-1&n=1&exclude_seen=false").json()
        assert reply["items"][0]["item_id"] == f"i{min(newest + 1, 40)}"
        assert reply["items"][0]["source"] == "sequence"
    assert max(stored(tmp_path).values()) == 1


def test_an_early_acknowledgement_would_be_caught(tmp_path):
    stream = killed_in_a_stream(tmp_path, "early", "early", after=20)
    assert set(stream.acknowledged) - stored(tmp_path).keys()


SYNCED = re.compile(r"(fsync|fdatasync)(\(| resumed>).*= 0$")
ACKNOWLEDGED = re.compile(r"(write|writev|sendto|sendmsg)\(.*HTTP/1\.1 200")


def acks_without_sync(trace: str) -> tuple[int, int]:
    """Return (acknowledgements, those with no finished sync since the one before)."""
    acks = bare = 0
    synced = False
    for line in trace.splitlines():
        if SYNCED.search(line):
            synced = True
        elif ACKNOWLEDGED.search(line):
            acks += 1
            bare += not synced
            synced = False
    return acks, bare


def test_the_trace_reader():
    ack = '7 write(12, "HTTP/1.1 200 OK\\r\\n"..., 300) = 300'
    begun, done = "8 fdatasync(5 <unfinished ...>", "8 <... fdatasync resumed>) = 0"
    assert acks_without_sync(f"{begun}\n{done}\n{ack}") == (1, 0)
    assert acks_without_sync(f"{begun}\n{ack}\n{done}") == (1, 1)
    assert acks_without_sync(f"8 fdatasync(5) = 0\n{ack}\n{ack}") == (2, 1)
    assert acks_without_sync(f"8 fsync(5) = -1 EIO (Input/output error)\n{ack}") == (1, 1)


@pytest.fixture
def strace() -> str:
    found = shutil.which("strace")
    if found is None and os.environ.get("CI"):
        pytest.fail("strace is not installed: apt-get install strace")
    if found is None:
        pytest.skip("strace is not installed (apt-get install strace)")
    return found


def traced(home: Path, strace: str, fault: str) -> tuple[int, int]:
    """Return (acks, bare acks) of a server that one client sends 15 events, one by one."""
    trace = home / "trace.txt"
    watched = "trace=fsync,fdatasync,write,writev,sendto,sendmsg"
    with server(home, fault, under=(strace, "-f", "-o", str(trace), "-e", watched)) as (_, client):
        before = len(trace.read_text().splitlines())
        for number in range(15):
            event = {"event": "click", "user_id": "u", "item_id": f"i{1 + number}"}
            assert client.post("/v1/events", json=event).status_code == 200
    return acks_without_sync("\n".join(trace.read_text().splitlines()[before:]))


def test_an_fsync_comes_before_each_acknowledgement(tmp_path, strace):
    assert traced(tmp_path, strace, "FULL") == (15, 0)


@pytest.mark.parametrize("synchronous", ["OFF", "NORMAL"])
def test_a_log_that_syncs_less_would_be_caught(tmp_path, strace, synchronous):
    acks, bare = traced(tmp_path, strace, synchronous)
    assert acks == 15
    assert bare >= 10


def test_a_failing_fsync_is_never_acknowledged(tmp_path, strace):
    fault = ("-e", "trace=fdatasync", "-e", "inject=fdatasync:error=EIO:when=30+")
    under = (strace, "-f", "-o", str(tmp_path / "trace.txt"), *fault)
    acknowledged = []
    with server(tmp_path, under=under) as (_, client):
        for number in range(60):
            event = {
                "event_id": f"f{number}",
                "event": "click",
                "session_id": "s",
                "item_id": "i1",
            }
            reply = client.post("/v1/events", json=event)
            if reply.status_code != 200:
                break
            acknowledged.append(f"f{number}")
        assert reply.status_code == 503
        assert client.get("/health/ready").json()["writes"] is False
        assert client.get("/v1/recommend?user_id=ada&n=1").status_code == 200
        again = client.post("/v1/events", json={**event, "event_id": "later"})
        assert again.status_code == 503
    assert acknowledged
    assert set(acknowledged) <= stored(tmp_path).keys()
