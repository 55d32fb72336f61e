"""User states of a model that keeps none: it makes what it needs of the history, at each request.

It stands where `UserStates` stands, so that a server is put together the same way. All that is left
to do is to tell other processes which histories have changed.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from ouzel.inference.audit import Audit
from ouzel.inference.shared import Directory
from ouzel.inference.states import StateStats


@dataclass
class NoPool:
    """A pool that holds nothing and is never full."""

    num_slots: int = 1 << 30
    evictions: int = 0
    bytes: int = 0

    def __len__(self) -> int:
        return 0

    def users(self) -> list[int]:
        """Return nobody."""
        return []


@dataclass
class NoStates:
    """Keeps nothing, and so is never behind; `directory` is read by processes forked later."""

    version: str
    directory: Directory | None = None
    stats: StateStats = field(default_factory=StateStats)
    pool: NoPool = field(default_factory=NoPool)
    behind: int = 0
    hits: int = 0
    lost: set[int] = field(default_factory=set)

    def shared(self) -> SharedNothing:
        """Return what processes forked later need of it.

        Raises:
            ValueError: there is no directory.
        """
        if self.directory is None:
            raise ValueError("the states are not shared: make them with a directory")
        return SharedNothing(self.directory)

    def observe(self, user: int, row: int, time_ms: int) -> None:
        """Note that the history of `user` is another now."""
        self.forget(user)

    def forget(self, user: int) -> None:
        """Note that the history of `user` is another now."""
        if self.directory is not None:
            self.directory.change(user)

    def drain(self, most: int) -> int:
        """Return 0: there is never anything to bring up to date."""
        return 0

    def contains(self, user: int) -> bool:
        """Return True: nothing need be made before an answer."""
        return True

    def begin_audit(self, user: int) -> Audit | None:
        """Return None: nothing is kept that could be off."""
        return None

    def end_audit(self, user: int, error: float) -> float:
        """Return `error`; no audit is ever begun."""
        return error


@dataclass
class SharedNothing:
    """`NoStates` as another process has it: no user is ever lost."""

    directory: Directory
    lost: set[int] = field(default_factory=set)
    hits: int = 0

    def contains(self, user: int) -> bool:
        """Return True: nothing need be made before an answer."""
        return True
