"""Memory that processes share counts once, and every row says how long the server took to start."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from ouzel.evaluation import load_process
from ouzel.evaluation.load_process import process_use
from ouzel.evaluation.server_process import ServerProcess, running
from ouzel.evaluation.serving_case import server_row

MEGABYTES = 80

SHARING = f"""
import mmap, os, time
pages = mmap.mmap(-1, {MEGABYTES << 20})
pages[:] = bytes([1]) * len(pages)
for _ in range(2):
    if not os.fork():
        sum(pages[::4096])
        os.write(1, b"x")
        time.sleep(600)
        os._exit(0)
time.sleep(600)
"""

SLOW = """
import http.server, sys, time
class Ready(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()
    def log_message(self, *_): pass
server = http.server.HTTPServer(("127.0.0.1", 0), Ready)
time.sleep(0.3)
open(sys.argv[1], "w").write(str(server.server_port))
server.serve_forever()
"""


@pytest.fixture
def sharing():
    command = [sys.executable, "-c", SHARING]
    with subprocess.Popen(command, stdout=subprocess.PIPE, start_new_session=True) as process:
        for _ in range(2):
            assert process.stdout.read(1) == b"x"
        yield process.pid
        os.killpg(process.pid, 9)


def test_pages_that_three_processes_share_count_once(sharing):
    use = process_use(sharing)
    assert len(use.cpu_of) == 3
    assert MEGABYTES < use.rss_mb < 2 * MEGABYTES
    assert use.peak_rss_mb > 3 * MEGABYTES


def test_where_shares_cannot_be_read_all_pages_count(sharing, monkeypatch):
    read = load_process._read
    monkeypatch.setattr(
        load_process, "_read", lambda path: "" if path.name == "smaps_rollup" else read(path)
    )
    assert process_use(sharing).rss_mb > 3 * MEGABYTES


def test_a_row_says_what_the_server_takes():
    with running(lambda port_file: [sys.executable, "-c", SLOW, str(port_file)]) as server:
        row = server_row(server)
    assert 0.3 <= row["start_to_ready_s"] == server.start_to_ready_s
    assert row["rss_mb"] > 5
    assert server_row(ServerProcess(1, 2**30, 3.0)) == {"start_to_ready_s": 3.0, "rss_mb": 0}
