"""A server process for tests: `python -m tests.serving.server_process HOME PORT_FILE [FAULT]`.

The log is the real one and the server the real one; the model is the double. A FAULT plants what
the durability tests must catch: `OFF` and `NORMAL` are SQLite's words for syncing less, `early`
acknowledges before anything is written.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

from ouzel.events.log_append import Receipt
from ouzel.serving.app import build_app
from ouzel.serving.engine import Engine
from ouzel.serving.security import Access
from ouzel.serving.server import bound, run
from tests.serving.doubles import make_engine


def main(home: Path, port_file: Path, fault: str = "FULL") -> None:
    """Serve until killed."""
    early = fault == "early"
    engine = make_engine(home, synchronous="FULL" if early else fault)
    if early:
        acknowledge_early(engine)

    def listening(port: int) -> None:
        beside = port_file.with_suffix(".part")
        beside.write_text(str(port))
        beside.replace(port_file)

    with bound("127.0.0.1", 0) as listener:
        run(build_app(engine, Access("127.0.0.1", None)), listener, listening)


def acknowledge_early(engine: Engine) -> None:
    """Answer at once, write a little later: what a server must not do."""
    append, write = engine.writer.append, engine.log.append

    def slow(events):
        time.sleep(0.2)
        return write(events)

    async def early(events):
        for event in events:
            engine.writer.append_later(event)
        return [Receipt("accepted", 1, 0, 1) for _ in events]

    assert append is not None
    engine.log.append = slow
    engine.writer.append = early


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), *sys.argv[3:])
