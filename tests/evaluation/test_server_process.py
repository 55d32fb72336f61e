"""A server under measurement is awaited, and nothing of it is left behind."""

from __future__ import annotations

import http.client
import sys
import time
from pathlib import Path

import pytest

from ouzel.evaluation.server_process import running

SERVER = """
import http.server, subprocess, sys
class Ready(http.server.BaseHTTPRequestHandler):
    asked = 0
    def do_GET(self):
        Ready.asked += 1
        self.send_response(200 if Ready.asked > 2 else 503)
        self.send_header("Content-Length", "0")
        self.end_headers()
    def log_message(self, *_): pass
server = http.server.HTTPServer(("127.0.0.1", 0), Ready)
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
open(sys.argv[2], "w").write(str(child.pid))
open(sys.argv[1], "w").write(str(server.server_port))
server.serve_forever()
"""


def alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_the_server_is_ready_when_it_is_given_and_gone_afterwards(tmp_path):
    child_file = tmp_path / "child"

    def command(port_file):
        return [sys.executable, "-c", SERVER, str(port_file), str(child_file)]

    with running(command) as server:
        connection = http.client.HTTPConnection("127.0.0.1", server.port)
        connection.request("GET", "/health/ready")
        assert connection.getresponse().status == 200
        connection.close()
        child = int(child_file.read_text())
        assert alive(server.pid)
        assert alive(child)
    assert not alive(server.pid)
    deadline = time.monotonic() + 60
    while alive(child):  # killed already; the kernel takes a moment
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_server_that_fails_tells_why():
    words = "import sys; print('no such home'); sys.exit(3)"
    failing = running(lambda port_file: [sys.executable, "-c", words])
    with pytest.raises(ValueError, match=r"exit status 3\): no such home"), failing:
        pass


def test_a_server_that_never_gets_ready_is_given_up():
    waiting = "print('still loading', flush=True); import time; time.sleep(600)"
    slow = running(lambda port_file: [sys.executable, "-c", waiting], ready_seconds=0.5)
    with pytest.raises(ValueError, match="not ready within"), slow:
        pass
