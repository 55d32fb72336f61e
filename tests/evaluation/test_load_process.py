import os
import subprocess
import sys

from ouzel.evaluation import load_process
from ouzel.evaluation.load_process import process_use

CHILD = "x = bytearray(60_000_000); s = sum(range(3_000_000)); print('up', flush=True); input()"


def test_children_are_counted():
    before = process_use(os.getpid())
    with subprocess.Popen(
        [sys.executable, "-c", CHILD], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as child:
        assert child.stdout.readline() == b"up\n"
        during = process_use(os.getpid())
        child.stdin.write(b"\n")
        child.stdin.close()
        child.wait(60)
    assert during.rss_mb > before.rss_mb + 50
    assert during.peak_rss_mb >= during.rss_mb
    after = process_use(os.getpid())
    assert during.cpu_s_since(before) > 0
    assert child.pid in during.cpu_of and child.pid not in after.cpu_of
    # Less the child's share the sum has shrunk: a difference of sums would be negative.
    assert after.cpu_s_since(during) is None


def test_a_process_that_ends_while_it_is_read_is_not_counted(monkeypatch):
    monkeypatch.setattr(load_process, "_family", lambda pid: [pid, 2**30])
    assert list(process_use(os.getpid()).cpu_of) == [os.getpid()]


def test_no_such_process():
    assert process_use(2**30) == ({}, 0, 0)
