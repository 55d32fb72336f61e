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

from ouzel.cli.serve import ONE_THREAD
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
        out, err = process.communicate(timeout=30)
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
        assert "being served already" in err
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
        out, err = process.communicate(timeout=30)
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
