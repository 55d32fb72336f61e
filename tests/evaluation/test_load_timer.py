import asyncio
import time

import pytest

from ouzel.evaluation.load_timer import ExactTimer


@pytest.mark.parametrize("without_kernel_timer", [False, True])
def test_rings_once_for_each_setting_and_never_early(without_kernel_timer, monkeypatch):
    async def scenario():
        rung = asyncio.Queue()
        timer = ExactTimer(asyncio.get_running_loop(), lambda: rung.put_nowait(time.monotonic()))
        if without_kernel_timer:
            timer.close()
        due = time.monotonic() + 0.02
        timer.set(due)
        first = await asyncio.wait_for(rung.get(), 10)
        timer.set(time.monotonic() - 1)
        await asyncio.wait_for(rung.get(), 10)
        await asyncio.sleep(0.02)
        timer.close()
        return due, first, rung.qsize()

    due, first, left = asyncio.run(scenario())
    # Event loops may call up to their clock's resolution early.
    assert first >= due - 0.001
    assert left == 0
