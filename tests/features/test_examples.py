"""Examples: what was before each of them, newest last, and nothing that came later."""

from __future__ import annotations

import numpy as np
import pytest

from ouzel.features.examples import Examples, Past

PAST = Past(np.array([5, 6, 7, 8], np.int32), np.array([0, 0, 3]), np.array([0, 3, 4]))


def test_the_newest_are_read_oldest_first() -> None:
    rows, lengths = PAST.newest(np.array([2, 1, 0]), 2)
    assert rows.tolist() == [[8, 0], [6, 7], [0, 0]] and lengths.tolist() == [1, 2, 0]


def test_nobody_has_a_history() -> None:
    nothing = Past(np.zeros(0, np.int32), np.zeros(2, np.int64), np.zeros(2, np.int64))
    rows, lengths = nothing.newest(np.array([0, 1]), 3)
    assert not rows.any() and not lengths.any()


def test_a_part_keeps_its_histories() -> None:
    rows, labels = np.array([[1], [2], [3]], np.int32), np.ones((3, 1, 1), np.float32)
    whole = Examples(np.zeros((3, 1), np.int32), rows, labels, PAST)
    part = whole.take(np.array([2, 1]))
    assert len(part) == 2 and part.past.newest(np.array([0]), 2)[0].tolist() == [[8, 0]]
    with pytest.raises(ValueError, match="lengths"):
        Examples(np.zeros((2, 1), np.int32), rows, labels, PAST)
