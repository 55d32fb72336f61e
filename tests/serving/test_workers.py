"""Several processes on one port are one server: each knows of every acknowledged event."""

from __future__ import annotations

import http.client
import json
import os
import random
import re
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path

import pytest

from ouzel.events.log import EventLog
from ouzel.inference.shared import writes_in_order
from ouzel.serving.server import check_workers
from tests.serving.real_home import write_home

pytestmark = pytest.mark.skipif(
    not hasattr(os, "fork") or not writes_in_order(), reason="no workers on this machine"
)
ROOT = Path(__file__).parents[2]
USERS = [f"u{number}" for number in range(6)]


MANY_FILES = """
import os, sys
for _ in range(int(sys.argv.pop(1))):
    os.set_inheritable(os.open(os.devnull, os.O_RDONLY), True)
from ouzel.cli import main
main(sys.argv[1:])
"""


@contextmanager
def served(home: Path, *, workers: int = 3, files: int = 0):
    """Yield the process and its port; it begins with so many `files` open, as some do."""
    port_file = home.parent / "port"
    process = subprocess.Popen(
        [
            *(sys.executable, "-c", MANY_FILES, str(files)),
            *("serve", home, "--port", "0", "--json", "-"),
            *("--port-file", port_file, "--workers", str(workers)),
        ],
        env={**os.environ, "PYTHONPATH": str(ROOT / "src")},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        while not port_file.exists():
            assert process.poll() is None, process.communicate()[1]
            time.sleep(0.01)
        yield process, int(port_file.read_text())
    finally:
        process.kill()
        process.communicate()
        port_file.unlink(missing_ok=True)


class Connections:
    """Keep-alive connections to one port, among them some to every process, it is to be hoped."""

    def __init__(self, port: int, count: int = 12) -> None:
        self._all = [
            http.client.HTTPConnection("127.0.0.1", port, timeout=20) for _ in range(count)
        ]
        self._random = random.Random(port)

    def __enter__(self) -> Connections:
        return self

    def __exit__(self, *_: object) -> None:
        for one in self._all:
            one.close()

    def send(self, path: str, body: object = None, *, method: str = "POST"):
        one = self._random.choice(self._all)
        sent = None if body is None else json.dumps(body)
        one.request(method, path, sent, {"Content-Type": "application/json"})
        answer = one.getresponse()
        return answer, answer.read()

    def json(self, path: str, body: object = None, *, method: str = "POST"):
        answer, text = self.send(path, body, method=method)
        assert answer.status == 200, text
        return json.loads(text)

    def until_counted(self, enough: Callable[[Counter[str]], bool]) -> Counter[str]:
        """Return the answers by route, once there are enough: readers tell theirs now and then."""
        end = time.monotonic() + 60
        while True:
            text = self.send("/metrics", method="GET")[1].decode()
            told = re.findall(r'ouzel_requests_total{route="(\w+)",.*?} (\S+)', text)
            counts = Counter({route: int(float(count)) for route, count in told})
            if enough(counts):
                return counts
            assert time.monotonic() < end, counts
            time.sleep(0.1)


@pytest.fixture
def home(tmp_path):
    write_home(tmp_path / "home")
    return tmp_path / "home"


def test_the_next_answer_knows_of_every_acknowledged_event_whoever_gives_it(home):
    faults = []

    def visitor(user: str, port: int) -> None:
        with Connections(port) as connections:
            clicks(user, connections)

    def clicks(user: str, connections: Connections) -> None:
        for turn in range(40):
            shown = connections.json("/v1/recommend", {"user_id": user, "n": 5})
            if not shown["items"]:
                break  # All has been seen.
            clicked = shown["items"][turn % len(shown["items"])]["item_id"]
            event = {"event": "click", "event_id": f"click-{user}-{turn}", "user_id": user}
            taken = connections.json("/v1/events", {**event, "item_id": clicked})
            assert taken["accepted"] == 1
            for _ in range(3):
                now = connections.json("/v1/recommend", {"user_id": user, "n": 5})
                if clicked in [item["item_id"] for item in now["items"]] or now["degraded"]:
                    faults.append((user, turn, clicked, now))

    with served(home) as (process, port):
        threads = [threading.Thread(target=visitor, args=(user, port)) for user in USERS]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert faults == []
        with Connections(port) as connections:
            # Both ways were gone, and not all lists came from the writer.
            counts = connections.until_counted(
                lambda n: n["forwarded"] > 20 and n["recommend"] > 200
            )
        process.send_signal(signal.SIGTERM)
        _, err = process.communicate(timeout=60)
        assert (process.returncode, err) == (0, "")
    with EventLog.open(home / "events.db") as log:
        kinds = [type(event).__name__ for _, event in log.events(limit=100_000)]
    assert kinds.count("Impression") >= counts["recommend"] - counts["forwarded"]


@pytest.mark.parametrize("files", [0, 7, 20])
def test_readers_read_the_log_whatever_files_are_open(home, files):
    """A connection to the log that was made before the fork would lock files of other numbers."""
    with served(home, workers=2, files=files) as (_, port), Connections(port, 8) as connections:
        for _ in range(5):
            for user in USERS:
                assert connections.json("/v1/recommend", {"user_id": user, "n": 3})["items"]
        connections.until_counted(lambda n: n["recommend"] - n["forwarded"] > 2 * len(USERS))


def test_all_processes_give_one_answer(home):
    """One after the other, so that only the request time, seconds apart, is another."""
    with served(home) as (_, port), Connections(port, 16) as connections:
        for user in USERS:
            lists = [
                connections.json("/v1/recommend", {"user_id": user, "n": 5}) for _ in range(12)
            ]
            assert len({tuple(item["item_id"] for item in one["items"]) for one in lists}) == 1
            first = [item["score"] for item in lists[0]["items"]]
            for one in lists:
                scores = [item["score"] for item in one["items"]]
                assert scores == pytest.approx(first, abs=1e-2)


def test_an_item_that_is_hidden_is_in_no_answer_of_any_process(home):
    with served(home) as (_, port), Connections(port, 16) as connections:
        for user in USERS:
            connections.json("/v1/recommend", {"user_id": user})
        shown = connections.json("/v1/recommend", {"user_id": "u0", "n": 5})
        item_id = shown["items"][0]["item_id"]
        answer, text = connections.send(
            f"/v1/items/{item_id}", {"available": False}, method="PATCH"
        )
        assert answer.status == 200, text
        for _ in range(24):
            now = connections.json("/v1/recommend", {"user_id": "u0", "n": 5})
            assert item_id not in [item["item_id"] for item in now["items"]]
            alike = connections.json("/v1/similar", {"item_id": item_id, "n": 5})
            assert item_id not in [item["item_id"] for item in alike["items"]]


def test_what_a_reader_does_not_understand_is_answered_all_the_same(home):
    with served(home, workers=2) as (_, port), Connections(port, 8) as connections:
        put = [{"item_id": "new", "fields": {"title": "Late", "year": 1999}}]
        for _ in range(6):
            asked = {"user_id": "u1", "n": 3, "fields": ["title"], "filter": 'title != "Film 3"'}
            titles = [
                item["fields"]["title"]
                for item in connections.json("/v1/recommend", asked)["items"]
            ]
            assert all(title.startswith("Film ") and title != "Film 3" for title in titles)
            answer, text = connections.send("/v1/items", put, method="PUT")
            assert answer.status == 200, text
            found = connections.json("/v1/items?query=late", method="GET")
            assert [item["item_id"] for item in found["items"]] == ["new"]
            excluded = {"user_id": "u1", "n": 3, "exclude_items": ["new", "never"]}
            assert connections.json("/v1/recommend", excluded)["items"]


REFUSED = [
    ("POST", "/v1/recommend", {"n": 501}, 422),
    ("POST", "/v1/events", {"event": "click"}, 422),
    ("GET", "/v1/nothing", None, 404),
    ("DELETE", "/v1/recommend", None, 405),
    ("POST", "/v1/recommend", {"filter": "no such"}, 422),
]


def test_all_processes_refuse_alike(home):
    with served(home, workers=2) as (_, port), Connections(port, 8) as connections:
        for method, path, body, status in REFUSED:
            found = [connections.send(path, body, method=method) for _ in range(8)]
            assert {answer.status for answer, _ in found} == {status}
            assert len({text for _, text in found}) == 1
            types = {answer.headers["content-type"] for answer, _ in found}
            assert types == {"application/problem+json"}
            names = {tuple(sorted(map(str.lower, answer.headers))) for answer, _ in found}
            assert len(names) == 1


def test_listeners_at_any_process_hear_the_stream_and_do_not_keep_the_server_from_ending(home):
    with served(home, workers=2) as (process, port):
        listening = [http.client.HTTPConnection("127.0.0.1", port, timeout=20) for _ in range(6)]
        for one in listening:
            one.request("GET", "/v1/stream")
            answer = one.getresponse()
            assert answer.headers["content-type"].startswith("text/event-stream")
            assert b"tick" in b"".join(answer.readline() for _ in range(4))
        process.send_signal(signal.SIGTERM)
        _, err = process.communicate(timeout=15)
        assert (process.returncode, err) == (0, "")
        for one in listening:
            one.close()


def test_the_others_go_on_without_a_reader_that_died(home):
    with served(home, workers=2) as (process, port):
        children = subprocess.run(
            ["pgrep", "-P", str(process.pid)], capture_output=True, text=True, check=True
        ).stdout.split()
        for child in children:
            os.kill(int(child), signal.SIGKILL)
        while any(map(_lives, children)):
            time.sleep(0.01)
        for _ in range(8):
            with Connections(port, 1) as connections:
                assert connections.json("/v1/recommend", {"user_id": "u0"})["items"]
        process.send_signal(signal.SIGTERM)
        _, err = process.communicate(timeout=60)
        assert process.returncode == 0
        assert "a worker has gone" in err


def test_readers_end_with_a_writer_that_was_killed(home):
    with served(home, workers=3) as (process, port):
        children = subprocess.run(
            ["pgrep", "-P", str(process.pid)], capture_output=True, text=True, check=True
        ).stdout.split()
        process.kill()
        process.wait()
        until = time.monotonic() + 60
        while time.monotonic() < until and any(map(_lives, children)):
            time.sleep(0.05)
        assert not any(map(_lives, children))
        with pytest.raises(OSError), Connections(port, 1) as connections:
            connections.send("/health/live", method="GET")


def _lives(pid: str) -> bool:
    stat = Path("/proc", pid, "stat")
    return stat.exists() and stat.read_text().rpartition(")")[2].split()[0] != "Z"


@pytest.mark.parametrize(("workers", "remedy"), [(0, "at least 1"), (1000, "at most")])
def test_a_number_of_workers_that_cannot_be_is_refused(workers, remedy):
    with pytest.raises(ValueError, match=remedy):
        check_workers(workers)


def test_a_machine_that_cannot_share_is_told(monkeypatch):
    monkeypatch.setattr("ouzel.serving.server.writes_in_order", lambda: False)
    check_workers(1)
    with pytest.raises(ValueError, match="give 1 here"):
        check_workers(2)
