"""How a training goes, for a program that runs it: logged, and what is odd kept for warnings."""

from __future__ import annotations

import logging
from collections.abc import Callable

logger = logging.getLogger(__name__)

STEPS = 4
"""Lines about a part of the work, at most."""


class Logged:
    """The progress of a training whose program has its own output."""

    def __init__(self) -> None:
        self.texts: list[str] = []

    def say(self, text: str) -> None:
        """Log a line about what was found or done."""
        logger.info(text)

    def warn(self, text: str) -> None:
        """Keep a line about what is odd, to be told when the training is over."""
        self.texts.append(text)

    def step(self, title: str) -> Callable[[int, int], None]:
        """Return a function that logs what it is told, each quarter of the way."""
        logged = 0

        def told(done: int, total: int) -> None:
            nonlocal logged
            reached = STEPS * done // max(total, 1)
            if reached > logged:
                logged = reached
                logger.info("%s: %d %%", title, 100 * done // total)

        return told

    def epoch(self, row: dict[str, float]) -> None:
        """Log the figures of an epoch."""
        logger.info("  ".join(f"{name} {value:g}" for name, value in row.items()))
