"""What is odd about data, in words: said before a training, whatever the model makes of it."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from ouzel.events.interactions import Interactions

MOST_REPEATED = 0.5
"""From this share of events on that repeat what their user did before, it is said."""

LEAST_TOUCHED = 0.1
"""Below this share of items that have an event, it is said."""


def cautions(full: Interactions) -> Iterator[str]:
    """Yield what whoever trains on these events should know, with what is made of it.

    >>> from ouzel.events.interactions import History, from_histories
    >>> visit = History(np.array([1, 2], np.int32), np.array([10, 20]))
    >>> list(cautions(from_histories([visit], num_rows=3)))[0][:27]
    'All events are of one user:'
    """
    if not len(full):
        return
    touched = len(np.unique(full.rows_E))
    if touched == 1:
        yield "All events are of one item: there is nothing to choose from"
    if np.count_nonzero(full.lengths_U()) == 1:
        yield (
            "All events are of one user: what others do is not known, and lists fill up with what "
            "is popular"
        )
    if len(full) > 1 and full.times_ms_E.min() == full.times_ms_E.max():
        yield "All events have the same time: they are taken in the order in which they came"
    if full.lengths_U().max() == 1:
        yield "No user has two events: nothing tells what comes after what"
    repeated = 1 - _distinct_pairs(full) / len(full)
    if repeated >= MOST_REPEATED:
        yield (
            f"{repeated:.0%} of the events repeat what their user did before: an item that was "
            "seen is not recommended again unless a request asks for it"
        )
    if touched < LEAST_TOUCHED * (full.num_rows - 1):
        yield (
            f"Only {touched:,} of {full.num_rows - 1:,} items have an event: of the others no "
            "model knows more than that they are there"
        )


def _distinct_pairs(full: Interactions) -> int:
    users_E = np.repeat(np.arange(full.num_users), full.lengths_U())
    return len(np.unique(users_E * full.num_rows + full.rows_E))
