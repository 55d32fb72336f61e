import numpy as np
import pytest

from ouzel.retrieval.types import Candidates, distinct_rows


def rows(*values):
    return np.array(values, np.int32)


def test_forbidden_is_sorted_and_each_once():
    forbidden = distinct_rows(rows(5, 2), rows(2, 9))
    assert forbidden.tolist() == [2, 5, 9]
    assert forbidden.dtype == np.int32
    assert distinct_rows(rows()).tolist() == []


def test_take_by_mask_by_positions_and_by_nothing():
    found = Candidates.of("a", rows(4, 5, 6), np.array([3.0, 2.0, 1.0]))
    assert found.take(found.rows_K != 5).rows_K.tolist() == [4, 6]
    assert found.take([2, 0]).scores_K.tolist() == [1.0, 3.0]
    assert len(found.take([])) == 0
    assert found.sources_K.tolist() == [0, 0, 0] and found.names == ("a",)


def test_empty_mask_on_empty_candidates():
    assert len(Candidates.empty(("a",)).take(np.empty(0, np.bool_))) == 0


def test_columns_of_different_length_are_refused():
    with pytest.raises(ValueError, match="lengths"):
        Candidates(rows(1, 2), np.zeros(1, np.float32), np.zeros(2, np.int8), ("a",))
