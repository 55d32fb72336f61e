"""Children of the server: what they answer, and what happens when they go."""

from __future__ import annotations

import asyncio
import os
import signal
import socket

import numpy as np
import pytest

from ouzel.serving.child import Child, ChildDiedError


def call(child, *asked):
    async def all_at_once():
        child.start()
        return await asyncio.gather(*(child.call(one) for one in asked))

    try:
        return asyncio.run(all_at_once())
    finally:
        child.close()


def test_calls_are_answered_in_their_order_whatever_their_size():
    child = Child(lambda size: np.full(size, size, np.int64), name="test")
    replies = call(child, 3, 400_000, 1)
    assert [len(reply) for reply in replies] == [3, 400_000, 1]
    assert (replies[1] == 400_000).all()


def test_it_is_another_process_that_has_what_this_one_had_loaded():
    loaded = {"table": 7}
    child = Child(lambda name: (os.getpid(), loaded[name]), name="test")
    loaded["table"] = 8  # after the fork: nothing of it is seen there
    ((pid, value),) = call(child, "table")
    assert pid != os.getpid() and value == 7


def test_it_holds_none_of_its_parents_files():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        kept = listener.fileno()

        def is_open(number):
            try:
                os.fstat(number)
            except OSError:
                return False
            return True

        assert call(Child(is_open, name="test"), kept) == [False]


def test_who_is_killed_fails_what_was_asked_and_refuses_what_comes():
    async def killed():
        child.start()
        future = child.call(60)
        os.kill(child._pid, signal.SIGKILL)
        with pytest.raises(ChildDiedError):
            await future
        assert not child.alive and child.call(1) is None

    import time

    child = Child(time.sleep, name="test")
    asyncio.run(killed())
    child.close()


def test_a_call_that_raises_ends_it_and_nobody_waits_for_ever():
    async def raised():
        child.start()
        with pytest.raises(ChildDiedError):
            await child.call("no number")

    child = Child(lambda number: 1 // number, name="test")
    asyncio.run(raised())
    child.close()


def test_a_stop_signal_to_the_group_does_not_end_it():
    async def signalled():
        child.start()
        assert await child.call(0) == 1
        os.kill(child._pid, signal.SIGTERM)
        os.kill(child._pid, signal.SIGINT)
        return await child.call(4)

    child = Child(lambda number: number + 1, name="test")
    assert asyncio.run(signalled()) == 5
    child.close()
