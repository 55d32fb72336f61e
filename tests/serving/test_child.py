"""Children of the server: what they answer, and what happens when they go."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import time

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


def number(value):
    return {"number": np.array([value])}


def test_calls_are_answered_in_their_order_whatever_their_size():
    child = Child(lambda asked: {"all": np.repeat(asked["number"], asked["number"])}, name="test")
    replies = [reply["all"] for reply in call(child, *map(number, (3, 400_000, 1)))]
    assert [len(reply) for reply in replies] == [3, 400_000, 1]
    assert (replies[1] == 400_000).all()


@pytest.mark.parametrize("kind", [np.int32, np.int64, np.uint64, np.float32])
def test_arrays_come_back_as_they_went(kind):
    sent = {"a": np.arange(6, dtype=kind).reshape(2, 3), "none": np.empty(0, kind)}
    (back,) = call(Child(lambda asked: asked, name="test"), sent)
    assert back.keys() == sent.keys()
    for name, array in sent.items():
        assert back[name].dtype == array.dtype
        np.testing.assert_array_equal(back[name], array)


def test_it_is_another_process_that_has_what_this_one_had_loaded():
    loaded = {"table": 7}
    child = Child(lambda asked: {"found": np.array([os.getpid(), loaded["table"]])}, name="test")
    loaded["table"] = 8  # after the fork: nothing of it is seen there
    (reply,) = call(child, number(0))
    pid, value = reply["found"]
    assert pid != os.getpid() and value == 7


def test_it_holds_none_of_its_parents_files():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        kept = listener.fileno()

        def is_open(asked):
            try:
                os.fstat(asked["number"][0])
            except OSError:
                return number(0)
            return number(1)

        (reply,) = call(Child(is_open, name="test"), number(kept))
        assert reply["number"] == 0


def test_who_is_killed_fails_what_was_asked_and_refuses_what_comes():
    async def killed():
        child.start()
        future = child.call(number(60))
        os.kill(child._pid, signal.SIGKILL)
        with pytest.raises(ChildDiedError):
            await future
        assert not child.alive and child.call(number(1)) is None

    child = Child(lambda asked: time.sleep(asked["number"][0]) or asked, name="test")
    asyncio.run(killed())
    child.close()


def test_a_call_that_raises_ends_it_and_nobody_waits_for_ever():
    async def raised():
        child.start()
        with pytest.raises(ChildDiedError):
            await child.call(number(0))

    child = Child(lambda asked: asked["not there"], name="test")
    asyncio.run(raised())
    child.close()


def test_a_stop_signal_to_the_group_does_not_end_it():
    async def signalled():
        child.start()
        assert (await child.call(number(0)))["number"] == 1
        os.kill(child._pid, signal.SIGTERM)
        os.kill(child._pid, signal.SIGINT)
        return await child.call(number(4))

    child = Child(lambda asked: number(asked["number"][0] + 1), name="test")
    assert asyncio.run(signalled())["number"] == 5
    child.close()
