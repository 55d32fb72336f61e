import os
import subprocess
import sys

import pytest

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
        child.wait(10)
    assert during.rss_mb > before.rss_mb + 50
    assert during.peak_rss_mb >= during.rss_mb
    assert during.cpu_s > before.cpu_s


def test_no_such_process():
    with pytest.raises(ValueError, match="not there"):
        process_use(2**30)
