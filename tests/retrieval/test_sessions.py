import numpy as np
import pytest

from ouzel.events.interactions import History, from_histories
from ouzel.retrieval.sessions import Sessions, cut_sessions


def history(rows, times):
    return History(np.array(rows, np.int32), np.array(times, np.int64))


def as_lists(sessions):
    spans = zip(sessions.offsets_S1[:-1], sessions.offsets_S1[1:], strict=True)
    return [sessions.rows_I[start:end].tolist() for start, end in spans]


def test_numbers_rise_with_the_time_of_the_last_event():
    x = from_histories([history([1, 2], [0, 900]), history([3, 4], [0, 100])], num_rows=5)
    assert as_lists(cut_sessions(x)) == [[3, 4], [1, 2]]


def test_a_pause_cuts_and_lone_items_are_left_out():
    x = from_histories(
        [history([], []), history([1, 1, 2, 3, 4], [0, 1, 2, 50, 51]), history([5, 5], [7, 8])],
        num_rows=6,
    )
    assert as_lists(cut_sessions(x, gap_ms=48)) == [[1, 2, 3, 4]]
    assert as_lists(cut_sessions(x, gap_ms=47)) == [[1, 2], [3, 4]]


def test_a_long_history_is_cut_by_count_from_each_session_s_start():
    x = from_histories([history([1, 2, 3, 4, 5, 6, 7], [0, 1, 2, 3, 90, 91, 92])], num_rows=8)
    assert as_lists(cut_sessions(x, gap_ms=50, longest=3)) == [[1, 2, 3], [5, 6, 7]]
    assert as_lists(cut_sessions(x, gap_ms=50, longest=2)) == [[1, 2], [3, 4], [5, 6]]


def test_no_interactions_no_sessions():
    assert len(cut_sessions(from_histories([], num_rows=2))) == 0


def test_newest_per_item_keeps_the_newest():
    x = from_histories([history([1, row], [t, t]) for t, row in enumerate((2, 3, 4))], num_rows=5)
    starts, postings = cut_sessions(x).newest_per_item(2)
    assert starts.tolist() == [0, 0, 2, 3, 4, 5]
    assert postings.tolist() == [1, 2, 0, 1, 2]


def test_rows_of_several_sessions():
    x = from_histories([history([1, 2], [0, 1]), history([3, 4, 5], [2, 3, 4])], num_rows=6)
    rows, lengths = cut_sessions(x).rows_of(np.array([1, 0]))
    assert (rows.tolist(), lengths.tolist()) == ([3, 4, 5, 1, 2], [3, 2])


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("offsets", np.array([0, 1], np.int64)),
        ("offsets", np.array([0, 3, 2], np.int64)),
        ("rows", np.array([1, 99], np.int32)),
        ("rows", np.array([0, 1], np.int32)),
    ],
)
def test_damaged_tensors_are_refused(name, value):
    x = from_histories([history([1, 2], [0, 1])], num_rows=3)
    tensors = cut_sessions(x).to_tensors()
    with pytest.raises(ValueError, match="damaged"):
        Sessions.from_tensors({**tensors, name: value})
    del tensors[name]
    with pytest.raises(ValueError, match=name):
        Sessions.from_tensors(tensors)


def test_cuts_that_leave_nothing_are_refused():
    with pytest.raises(ValueError, match="gap_ms is -1"):
        cut_sessions(from_histories([], num_rows=2), gap_ms=-1)
    with pytest.raises(ValueError, match="longest is 1"):
        cut_sessions(from_histories([], num_rows=2), longest=1)
