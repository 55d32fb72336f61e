"""`ouzel serve` as a process: ports, signals, refusals, and what it never imports."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from ouzel.serving.threads import ONE_THREAD, THREADS_BESIDE
from tests.serving.real_home import write_home

ROOT = Path(__file__).parents[2]
WATCH = """
import atexit, json, os, sys
def tell():
    heavy = [name for name in ("torch", "polars", "onnx") if name in sys.modules]
    threads = {name: os.environ.get(name) for name in %r}
    print(json.dumps({"heavy": heavy, "threads": threads}), file=sys.stderr)
atexit.register(tell)
from ouzel.cli import main
main(sys.argv[1:])
"""


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    home = tmp_path_factory.mktemp("made") / "home"
    write_home(home)
    return home


def start(*arguments, **environment):
    return subprocess.Popen(
        [sys.executable, "-c", WATCH % (ONE_THREAD,), "serve", *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": str(ROOT / "src"), **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@contextmanager
def served(home, *arguments, **environment):
    port_file = home.parent / f"port-{time.monotonic_ns()}"
    process = start(home, "--port", 0, "--port-file", port_file, *arguments, **environment)
    try:
        while not port_file.exists():
            assert process.poll() is None, process.communicate()[1]
            time.sleep(0.01)
        yield process, f"http://127.0.0.1:{int(port_file.read_text())}"
    finally:
        process.kill()
        process.communicate()


def test_it_serves_until_it_is_told_to_stop(home):
    with served(home, "--json", "-") as (process, address):
        assert httpx.get(f"{address}/health/ready").status_code == 200
        event = {"event": "click", "session_id": "s", "item_id": "i5"}
        assert httpx.post(f"{address}/v1/events", json=event).json()["accepted"] == 1
        reply = httpx.post(f"{address}/v1/recommend", json={"session_id": "s", "n": 3})
        assert reply.json()["items"][0]["source"] == "sequence"
        process.send_signal(signal.SIGTERM)
        out, err = process.communicate(timeout=60)
        assert process.returncode == 0
        assert json.loads(out)["address"] == address
        told = json.loads(err.strip().splitlines()[-1])
        assert told["heavy"] == []
        assert set(told["threads"].values()) == {"1"}
        assert "Traceback" not in err


def test_one_home_has_one_server(home):
    with served(home):
        second = start(home, "--port", 0)
        _, err = second.communicate(timeout=60)
        assert second.returncode == 1
        assert "being served, trained or imported into already" in err
    with served(home) as (_, address):
        assert httpx.get(f"{address}/health/live").status_code == 200


def refusal(*arguments, **environment):
    process = start(*arguments, **environment)
    _, err = process.communicate(timeout=60)
    assert "Traceback" not in err
    assert process.returncode == 1
    return next(line for line in err.splitlines() if line.startswith("error: "))


def test_other_machines_only_with_a_key(home):
    assert "OUZEL_API_KEY" in refusal(home, "--host", "0.0.0.0", "--port", 0)


def test_the_key_may_come_from_the_environment(home):
    with served(home, "--host", "0.0.0.0", OUZEL_API_KEY="canary") as (process, address):
        assert httpx.get(f"{address}/v1/popular").status_code == 401
        headers = {"authorization": "Bearer canary"}
        assert httpx.get(f"{address}/v1/popular", headers=headers).status_code == 200
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
        assert process.returncode == 0
        assert "canary" not in out + err


def test_what_cannot_be_served_is_told_in_one_line(home, tmp_path):
    assert "ouzel train" in refusal(tmp_path / "nowhere", "--port", 0)
    empty = tmp_path / "empty"
    empty.mkdir()
    assert "no model yet" in refusal(empty, "--port", 0)
    assert not list(empty.iterdir())
    assert "no folder" in refusal(home, "--port", 0, "--port-file", empty / "no" / "port")


def test_a_taken_port_is_told_in_one_line(home):
    with served(home) as (_, address):
        port = re.search(r":(\d+)$", address)[1]
        assert "in use" in refusal(home, "--port", port)


LOOP, RUNTIME, WRITER, SEARCH = 1, 1, 1, 1
MOST = LOOP + RUNTIME + WRITER + SEARCH + THREADS_BESIDE
"""The rows of the table in docs/threads.md."""


def threads(pid) -> int:
    return len(list(Path(f"/proc/{pid}/task").iterdir()))


def children(pid) -> list[int]:
    return [int(one) for one in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def ask_everything(address: str) -> None:
    with httpx.Client(base_url=address) as client:
        for number in range(6):
            client.get(f"/v1/recommend?user_id=u{number}").raise_for_status()
            client.get(f"/v1/recommend?session_id=s{number}&items=i{number + 1}").raise_for_status()
            asked = {"n": 3, "filter": f'title == "Film {number}"'}
            client.post("/v1/recommend", json=asked).raise_for_status()
            client.get(f"/v1/similar?item_id=i{number + 1}").raise_for_status()
            event = {"event": "click", "user_id": f"u{number}", "item_id": "i3"}
            client.post("/v1/events", json=event).raise_for_status()
        client.patch("/v1/items/i3", json={"fields": {"title": "Another"}}).raise_for_status()


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="no /proc here")
def test_a_server_has_the_threads_of_the_table_and_its_child_has_one(home):
    # What is said here must not be heard: of 7 for each library the count would be over.
    with served(home, **dict.fromkeys(ONE_THREAD, "7")) as (process, address):
        # ONNX Runtime's own thread is there on some machines only.
        assert LOOP + WRITER <= threads(process.pid) <= MOST
        ask_everything(address)
        assert threads(process.pid) <= MOST
        assert [threads(child) for child in children(process.pid)] in ([], [1])


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="no /proc here")
def test_the_count_of_threads_notices_a_pool(home, monkeypatch):
    pool = "from concurrent.futures import ThreadPoolExecutor as Pool\nimport time, sys\n"
    pool += "own = Pool(8)\n[own.submit(time.sleep, 0.2) for _ in range(8)]\n"
    monkeypatch.setattr(sys.modules[__name__], "WATCH", pool + WATCH)
    with served(home) as (process, _):
        assert threads(process.pid) > MOST
