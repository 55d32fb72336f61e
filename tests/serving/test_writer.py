from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence

import pytest

from ouzel.events.log_append import Receipt
from ouzel.events.types import Event, Interaction
from ouzel.serving import writer as writer_module
from ouzel.serving.writer import LogWriter, NotDurableError


def event(number: int) -> Interaction:
    return Interaction(
        event_id=str(number), timestamp_ms=number, item_id="i", event="click", user_id="u"
    )


class SlowLog:
    """A log whose disk answers only when it is let; remembers its commits."""

    def __init__(self) -> None:
        self.commits: list[list[str]] = []
        self.entered = threading.Event()
        self.let = threading.Event()
        self.let.set()
        self.error: Exception | None = None
        self.poison: str | None = None

    def append(self, events: Sequence[Event]) -> list[Receipt]:
        self.entered.set()
        assert self.let.wait(60)
        if self.error is not None:
            raise self.error
        if any(event.event_id == self.poison for event in events):
            raise ValueError("poison")
        self.commits.append([event.event_id for event in events])
        return [Receipt("accepted", int(event.event_id), 0, 1) for event in events]


def run(scenario) -> None:
    """Run `scenario(log, writer, applied)` with a started writer, and close it."""

    async def body() -> None:
        log = SlowLog()
        writer = LogWriter(log)
        applied: list[tuple[str, int]] = []
        writer.start(lambda es, rs, ticket: applied.extend((e.event_id, ticket) for e in es))
        try:
            await asyncio.wait_for(scenario(log, writer, applied), 20)
        finally:
            log.let.set()
            await writer.close()

    asyncio.run(body())


def test_events_that_wait_share_a_commit_and_idle_ones_do_not_wait():
    async def scenario(log, writer, applied):
        await writer.append([event(0)])
        assert log.commits == [["0"]]
        log.let.clear()
        log.entered.clear()
        tasks = [asyncio.create_task(writer.append([event(1)]))]
        await asyncio.to_thread(log.entered.wait)
        tasks += [asyncio.create_task(writer.append([event(n)])) for n in (2, 3, 4)]
        await asyncio.sleep(0)
        log.let.set()
        receipts = await asyncio.gather(*tasks)
        assert [receipt.offset for (receipt,) in receipts] == [1, 2, 3, 4]
        assert log.commits == [["0"], ["1"], ["2", "3", "4"]]
        assert [event_id for event_id, _ in applied] == list("01234")

    run(scenario)


def test_nothing_is_acknowledged_before_it_is_written_and_in_effect():
    async def scenario(log, writer, applied):
        log.let.clear()
        task = asyncio.create_task(writer.append([event(1)]))
        await asyncio.to_thread(log.entered.wait)
        await asyncio.sleep(0.02)
        assert not task.done()
        assert applied == []
        assert (writer.submitted, writer.settled, writer.waiting) == (1, 0, 1)
        log.let.set()
        await task
        assert applied == [("1", 1)]
        assert (writer.settled, writer.waiting) == (1, 0)

    run(scenario)


def test_impressions_gather_and_come_before_what_follows_them():
    async def scenario(log, writer, applied):
        for number in range(5):
            writer.append_later(event(number))
        await asyncio.sleep(0)
        assert log.commits == []
        await writer.append([event(9)])
        assert [event_id for commit in log.commits for event_id in commit] == list("012349")

    run(scenario)


def test_impressions_alone_are_written_soon_and_at_the_end(monkeypatch):
    monkeypatch.setattr(writer_module, "LINGER_SECONDS", 0.01)
    logs = []

    async def scenario(log, writer, applied):
        logs.append(log)
        writer.append_later(event(1))
        while not log.commits:
            await asyncio.sleep(0.005)
        writer.append_later(event(2))

    run(scenario)
    assert logs[0].commits == [["1"], ["2"]]


def test_a_failing_disk_fails_everybody_and_shows(caplog):
    async def scenario(log, writer, applied):
        log.error = OSError(28, "No space left on device")
        writer.append_later(event(0))
        with pytest.raises(NotDurableError, match="No space left"):
            await writer.append([event(1)])
        assert "No space left" in writer.failure
        assert applied == []
        assert writer.waiting == 0
        assert (writer.stats.dropped, writer.stats.failures) == (1, 1)
        log.error = None
        await writer.append([event(2)])
        assert writer.failure is None

    run(scenario)


def test_one_bad_event_does_not_fail_its_company(caplog):
    async def scenario(log, writer, applied):
        log.let.clear()
        first = asyncio.create_task(writer.append([event(1)]))
        await asyncio.to_thread(log.entered.wait)
        log.poison = "3"
        rest = [asyncio.create_task(writer.append([event(n)])) for n in (2, 3, 4)]
        await asyncio.sleep(0)
        log.let.set()
        await first
        outcomes = await asyncio.gather(*rest, return_exceptions=True)
        assert [isinstance(outcome, NotDurableError) for outcome in outcomes] == [
            False,
            True,
            False,
        ]

    run(scenario)


def test_an_event_that_cannot_be_written_is_not_the_disks_fault(caplog):
    async def scenario(log, writer, applied):
        log.poison = "3"
        with pytest.raises(NotDurableError, match="refuses an event: poison"):
            await writer.append([event(3)])
        assert writer.failure is None
        assert (writer.waiting, writer.settled, writer.stats.failures) == (0, 1, 1)

    run(scenario)


def test_events_that_cannot_take_effect_are_acknowledged(caplog):
    async def scenario(log, writer, applied):
        def failing(events, receipts, ticket):
            if ticket == 2:
                raise RuntimeError("planted")
            applied.append(ticket)

        writer._applied = failing
        log.let.clear()
        tasks = [asyncio.create_task(writer.append([event(n)])) for n in (1, 2, 3)]
        await asyncio.to_thread(log.entered.wait)
        log.let.set()
        receipts = await asyncio.wait_for(asyncio.gather(*tasks), 5)
        assert [receipt.offset for (receipt,) in receipts] == [1, 2, 3]
        assert applied == [1, 3]
        assert (writer.waiting, writer.settled) == (0, 3)

    run(scenario)
    assert "could not take effect" in caplog.text


def test_too_many_waiting_events_are_refused(monkeypatch):
    monkeypatch.setattr(writer_module, "MAX_WAITING_EVENTS", 3)

    async def scenario(log, writer, applied):
        log.let.clear()
        task = asyncio.create_task(writer.append([event(1), event(2)]))
        await asyncio.to_thread(log.entered.wait)
        with pytest.raises(NotDurableError, match="wait for the disk"):
            await writer.append([event(3), event(4)])
        writer.append_later(event(5))
        writer.append_later(event(6))
        assert writer.stats.dropped == 1
        log.let.set()
        await task

    run(scenario)


def test_a_closed_writer_writes_what_waited_and_refuses_the_rest():
    async def scenario():
        log = SlowLog()
        writer = LogWriter(log)
        with pytest.raises(NotDurableError):
            await writer.append([event(0)])
        writer.start(lambda *_: None)
        log.let.clear()
        task = asyncio.create_task(writer.append([event(1)]))
        await asyncio.to_thread(log.entered.wait)
        closing = asyncio.create_task(writer.close())
        await asyncio.sleep(0)
        with pytest.raises(NotDurableError, match="stopping"):
            await writer.append([event(2)])
        log.let.set()
        await asyncio.gather(task, closing)
        assert log.commits == [["1"]]
        await writer.close()

    asyncio.run(scenario())
