"""The lock of a home: its log has one writer, who knows every row and every state."""

from __future__ import annotations

import contextlib
import fcntl
from collections.abc import Iterator
from pathlib import Path

LOCK_FILE = "serving.lock"


@contextlib.contextmanager
def alone(home: Path) -> Iterator[None]:
    """Keep servers, imports and trainings off a home meanwhile; if we are killed it is free.

    Raises:
        ValueError: another process has the home, or there is none.

    >>> with alone(Path("no-such-home")):
    ...     pass
    Traceback (most recent call last):
    ...
    ValueError: no-such-home is no home: make one with `ouzel train --data PATH --out no-such-home`
    """
    if not home.is_dir():
        raise ValueError(f"{home} is no home: make one with `ouzel train --data PATH --out {home}`")
    with (home / LOCK_FILE).open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ValueError(
                f"{home} is being served, trained or imported into already: stop that first"
            ) from None
        yield
