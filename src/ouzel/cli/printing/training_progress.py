"""What a training prints while it runs: lines and bars on stderr, so that stdout stays clean."""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

PLAIN_EPOCHS = 5
"""Without a terminal, every so many epochs get a line, as do those with a validation."""


class TrainingProgress:
    """Bars on a terminal, plain lines elsewhere; a context manager."""

    def __init__(self) -> None:
        self._console = Console(stderr=True, markup=False, emoji=False, highlight=False)
        self._bars: Progress | None = None
        self._task: TaskID | None = None
        if sys.stderr.isatty():
            self._bars = Progress(
                TextColumn("{task.description:<24}"),
                BarColumn(),
                TextColumn("{task.percentage:>3.0f}%"),
                TimeElapsedColumn(),
                console=self._console,
                transient=True,
            )
        self._best = 0.0

    def __enter__(self) -> Self:
        if self._bars is not None:
            self._bars.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._bars is not None:
            self._bars.stop()

    def say(self, text: str) -> None:
        """Print a line."""
        self._console.print(text, soft_wrap=True)

    def warn(self, text: str) -> None:
        """Print a line that begins with what it is."""
        self._console.print(f"Warning: {text}", soft_wrap=True)

    def step(self, title: str) -> Callable[[int, int], None]:
        """Begin a bar, in place of the one before; return what moves it."""
        if self._bars is None:
            return lambda done, total: None
        bars = self._bars
        if self._task is not None:
            bars.remove_task(self._task)
        task = self._task = bars.add_task(title, total=None)
        return lambda done, total: bars.update(task, completed=done, total=total)

    def epoch(self, row: dict[str, float]) -> None:
        """Print the figures of an epoch."""
        validated = "ndcg@10" in row
        if self._bars is None and not validated and row["epoch"] % PLAIN_EPOCHS:
            return
        text = f"epoch {row['epoch']:>3.0f}  loss {row['loss']:.4f}  {row['seconds']:>6.1f} s"
        if validated:
            better = row["ndcg@10"] > self._best
            self._best = max(self._best, row["ndcg@10"])
            text += f"  validation NDCG@10 {row['ndcg@10']:.4f}" + ("  best" if better else "")
        self._console.print(text, soft_wrap=True)
