"""What every engine keeps while vectors change: all of the closed tuple, in threads as well."""

from __future__ import annotations

import select
import threading

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ouzel.retrieval import live
from ouzel.retrieval.engines import like
from ouzel.retrieval.exact import ExactIndex
from ouzel.retrieval.live import LiveIndex
from ouzel.retrieval.scan import ScanIndex
from ouzel.retrieval.scan_worker import ScanWorker
from tests.retrieval.every import EVERY

NUM_ROWS, DIM = 1501, 8
every_engine = pytest.mark.parametrize("engine", EVERY)


def rows(*values):
    return np.array(values, np.int32)


@pytest.fixture(scope="module")
def vectors():
    # Whole numbers: scores are exact, whoever adds them up.
    found = np.random.default_rng(0).integers(-9, 10, (NUM_ROWS, DIM)).astype(np.float32)
    found[0] = 0
    found.setflags(write=False)
    return found


@pytest.fixture(scope="module")
def queries():
    return np.random.default_rng(1).integers(-9, 10, (12, DIM)).astype(np.float32)


def built(engine, vectors):
    """The engine at its best, so that what it finds can be told."""
    index = engine(vectors)
    index.effort = index.most_effort
    return index


@pytest.fixture(scope="module")
def engines(vectors):
    kept = {}
    return lambda engine: kept.setdefault(engine, built(engine, vectors))


@every_engine
def test_what_is_added_updated_or_removed_shows_in_the_very_next_search(engine, engines):
    index = LiveIndex(engines(engine))
    best = np.full((1, DIM), 100, np.float32)
    index.add(rows(1600), best)
    assert index.search(best, 1)[0].tolist() == [[1600]] and len(index) == NUM_ROWS
    index.add(rows(7), best)
    assert index.search(best, 2)[0].tolist() == [[7, 1600]]
    assert index.vector(7).tolist() == best[0].tolist() and index.vector(1550) is None
    index.remove(rows(7, 1600))
    found, _ = index.search(best, NUM_ROWS)
    assert not {7, 1600, 1550} & set(found[0].tolist())
    assert index.vector(7) is None and index.vector(1600) is None
    assert len(index) == NUM_ROWS - 2
    index.add(rows(7), -best)
    found, scores = index.search(best, NUM_ROWS)
    assert scores[0][found[0] == 7] == -80_000.0


@every_engine
def test_what_is_excluded_or_hidden_is_not_found_among_the_changed_either(engine, engines):
    index = LiveIndex(engines(engine))
    best = np.full((3, DIM), 100, np.float32)
    index.add(rows(7, 8, 1600), best)
    hidden = np.zeros(NUM_ROWS, np.bool_)
    hidden[7] = True
    found, _ = index.search(best[:1], 2, exclude=[rows(8)], hidden=[hidden])
    assert found[0, 0] == 1600 and not {7, 8} & set(found[0].tolist())
    together, _ = index.search(best, 3, hidden=[hidden, None, hidden])
    assert together[1].tolist() == [7, 8, 1600]
    assert together[0].tolist() == together[2].tolist() and 7 not in together[0]


@every_engine
def test_ties_of_changed_and_unchanged_rows_come_by_lower_row(engine, vectors):
    same = np.ones_like(vectors)
    same[1:] *= 1 + (np.arange(1, NUM_ROWS) > 20)[:, None]
    index = LiveIndex(built(engine, same))
    index.add(rows(5), 2 * np.ones((1, DIM), np.float32))
    index.remove(np.arange(30, NUM_ROWS, dtype=np.int32))
    found, scores = index.search(np.ones((1, DIM), np.float32), 40)
    assert found[0, :29].tolist() == [5, *range(21, 30), *range(1, 5), *range(6, 21)]
    assert not found[0, 29:].any() and np.isneginf(scores[0, 29:]).all()


@every_engine
def test_answers_after_a_rebuild_are_those_of_before(engine, engines, vectors, queries):
    index = LiveIndex(engines(engine))
    rng = np.random.default_rng(3)
    changed = rng.choice(np.arange(1, 1700), 300, replace=False).astype(np.int32)
    index.add(changed, rng.integers(-9, 10, (300, DIM)).astype(np.float32))
    index.remove(rng.choice(np.arange(1, NUM_ROWS), 200, replace=False).astype(np.int32))
    before, count = index.search(queries, 10), len(index)
    index.rebuild()
    assert type(index.engine) is engine and index.changed == 0 and len(index) == count
    assert index.engine.effort == engines(engine).effort
    after = index.search(queries, 10)
    for one, other in zip(before, after, strict=True):
        np.testing.assert_array_equal(one, other)


@every_engine
def test_a_stored_index_is_the_same_again(engine, engines, queries):
    index = LiveIndex(engines(engine))
    index.add(rows(3, 1600), np.full((2, DIM), 5, np.float32))
    index.remove(rows(9, 3))
    tensors = {name: array.copy() for name, array in index.to_tensors().items()}
    for array in tensors.values():
        array.setflags(write=False)
    again = LiveIndex.from_tensors(tensors, like(index.engine))
    assert type(again.engine) is engine and len(again) == len(index)
    for one, other in zip(index.search(queries, 9), again.search(queries, 9), strict=True):
        np.testing.assert_array_equal(one, other)
    again.add(rows(9), np.ones((1, DIM), np.float32))
    assert len(again) == len(index) + 1


CHANGE = st.tuples(
    st.sampled_from(["add", "remove", "search", "search", "rebuild"]), st.integers(0, 2**32 - 1)
)


@every_engine
@settings(
    max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(changes=st.lists(CHANGE, min_size=3, max_size=14))
def test_any_course_of_changes_leaves_what_a_dictionary_would(engine, engines, vectors, changes):
    index = LiveIndex(engines(engine))
    known = dict(enumerate(vectors[1:], 1))
    size, changed = NUM_ROWS, set()
    for what, seed in changes:
        rng = np.random.default_rng(seed)
        some = rng.integers(1, size + 5, rng.integers(1, 40)).astype(np.int32)
        if what == "add":
            given_vectors = rng.integers(-12, 13, (len(some), DIM)).astype(np.float32)
            index.add(some, given_vectors)
            known |= dict(zip(some.tolist(), given_vectors, strict=True))
            changed |= set(some.tolist())
            size = max(size, int(some.max()) + 1)
        elif what == "remove":
            some = some[some < size]
            index.remove(some)
            for row in some.tolist():
                known.pop(row, None)
        elif what == "rebuild":
            index.rebuild()
            changed = set()
        else:
            _check_search(index, known, changed, rng)
        assert len(index) == len(known)
    _check_search(index, known, changed, np.random.default_rng(5))


def _check_search(index, known, changed, rng):
    query = rng.integers(-9, 10, (1, DIM)).astype(np.float32)
    k = int(rng.integers(1, 20))
    banned = np.unique(rng.integers(1, NUM_ROWS, 30)).astype(np.int32)
    mask = rng.random(NUM_ROWS) < rng.choice([0.0, 0.5])
    found, scores = index.search(query, k, exclude=[banned], hidden=[mask])
    hidden = set(banned.tolist()) | set(np.flatnonzero(mask).tolist())
    expected = {row: float(vector @ query[0]) for row, vector in known.items() if row not in hidden}
    listed = list(zip(found[0].tolist(), scores[0].tolist(), strict=True))
    assert len({row for row, _ in listed}) == k
    assert all(expected[row] == score for row, score in listed)
    assert listed == sorted(listed, key=lambda pair: (-pair[1], pair[0]))
    best = sorted(expected, key=lambda row: (-expected[row], row))[:k]
    # What has changed is searched exactly, whatever the engine.
    exact = best if index.engine.name in ("exact", "flat") else set(best) & changed
    assert set(exact) <= {row for row, _ in listed}


@every_engine
def test_threads_never_find_what_was_removed_nor_a_vector_half_changed(
    engine, engines, monkeypatch
):
    monkeypatch.setattr(live, "MOST_CHANGED", 60)
    index = LiveIndex(engines(engine))
    query = np.full((2, DIM), 1, np.float32)
    removed, versions, faults = [], [0], []
    over = threading.Event()

    def search() -> None:
        while not over.is_set():
            gone, least = set(removed), versions[-1]
            found, scores = index.search(query, 200)
            if gone & set(found[0].tolist()):
                faults.append(f"removed: {gone & set(found[0].tolist())}")
            version = scores[0][found[0] == 1]
            if least and not (len(version) and version % DIM == 0 and version >= DIM * least):
                faults.append(f"version {version}, {least} was told")

    threads = [threading.Thread(target=search) for _ in range(2)]
    for thread in threads:
        thread.start()
    rng = np.random.default_rng(4)
    for number, row in enumerate(rng.permutation(np.arange(2, NUM_ROWS))[:250].tolist(), 1):
        index.add(rows(1), np.full((1, DIM), 1000 + number, np.float32))
        versions.append(1000 + number)
        if number % 2:
            index.remove(rows(row))
            removed.append(row)
        else:
            index.add(rows(row), np.full((1, DIM), 9, np.float32))
    over.set()
    for thread in threads:
        thread.join()
    _settle()
    assert faults == [] and type(index.engine) is engine
    assert index.engine is not engines(engine)
    found, _ = index.search(query, NUM_ROWS)
    assert not set(removed) & set(found[0].tolist())


def _settle():
    for thread in threading.enumerate():
        if thread.name == live.REBUILDING:
            thread.join(60)


@every_engine
def test_what_changes_while_the_engine_is_built_anew_is_kept(engine, engines):
    best = np.full((1, DIM), 100, np.float32)

    def make(vectors_ND):
        index.add(rows(7, 1700), np.repeat(best, 2, axis=0))
        index.remove(rows(8, 9))
        index.add(rows(9), best)
        return like(engines(engine))(vectors_ND)

    index = LiveIndex(engines(engine), make=make)
    index.add(rows(8, 20), np.repeat(best, 2, axis=0))
    index.rebuild()
    assert index.changed == 3
    assert index.search(best, 4)[0].tolist() == [[7, 9, 20, 1700]]


def test_many_changes_start_a_rebuild_and_a_failing_one_costs_nothing(
    vectors, queries, monkeypatch, caplog
):
    monkeypatch.setattr(live, "MOST_CHANGED", 10)
    failing = [True]
    done = threading.Event()

    def make(vectors_ND):
        try:
            if failing:
                raise RuntimeError("planted")
            return ExactIndex(vectors_ND)
        finally:
            done.set()

    index = LiveIndex(ExactIndex(vectors), make=make)
    some = np.arange(1, 12, dtype=np.int32)
    index.add(some, vectors[some] + 1)
    assert done.wait(60)
    _settle()
    assert index.changed == 11 and "planted" in caplog.text
    failing.clear()
    done.clear()
    index.add(some + 11, vectors[some] + 1)
    assert not done.is_set()
    index.add(rows(60), vectors[:1])
    assert done.wait(60)
    _settle()
    assert index.changed == 0
    expected, _ = ExactIndex(index.to_tensors()["vectors"]).search(queries, 5)
    np.testing.assert_array_equal(index.search(queries, 5)[0], expected)


@pytest.mark.skipif(not ScanIndex.works(), reason="no scan kernel on this machine")
def test_searches_beside_the_caller_keep_to_the_vectors_of_when_they_began(vectors):
    index, worker, told = LiveIndex(built(ScanIndex, vectors)), ScanWorker(), []
    query = np.ones((1, DIM), np.float32)
    begun = []
    for number in range(60):
        index.add(rows(1), np.full((1, DIM), 1000 + number, np.float32))
        index.remove(rows(2 + number))
        begun.append(index.begin(query, 500))
        worker.submit(begun[-1], lambda number=number: told.append(number))
        if number % 20 == 7:
            index.rebuild()
    while len(told) < 60:
        select.select([worker], [], [], 10)
        worker.collect()
    worker.close()
    for number, one in enumerate(begun):
        found, scores = one.result()
        assert (found[0, 0], scores[0, 0]) == (1, DIM * (1000 + number))
        assert not set(range(2, 3 + number)) & set(found[0].tolist())


@pytest.mark.skipif(not ScanIndex.works(), reason="no scan kernel on this machine")
def test_a_search_that_began_is_not_reached_by_what_changes_before_it_is_done(vectors):
    index, worker, told = LiveIndex(built(ScanIndex, vectors)), ScanWorker(), []
    index.remove(rows(5))
    begun = index.begin(vectors[7:8], NUM_ROWS)
    index.remove(rows(7))
    worker.submit(begun, lambda: told.append(1))
    while not told:
        select.select([worker], [], [], 10)
        worker.collect()
    worker.close()
    assert 7 in begun.result()[0] and 5 not in begun.result()[0]


def test_an_engine_without_a_kernel_begins_nothing(vectors, queries):
    index = LiveIndex(ExactIndex(vectors))
    assert not index.scans
    with pytest.raises(ValueError, match="exact searches in the caller"):
        index.begin(queries, 3)


def test_the_array_given_is_never_written_to(vectors):
    before = vectors.copy()
    index = LiveIndex(ExactIndex(vectors))
    index.add(rows(3), np.ones((1, DIM), np.float32))
    index.rebuild()
    assert (vectors == before).all()


def test_changes_that_make_no_sense_are_refused(vectors):
    index = LiveIndex(ExactIndex(vectors))
    for bad in (0, -1):
        with pytest.raises(ValueError, match=f"row {bad} cannot"):
            index.add(rows(bad), vectors[:1])
    with pytest.raises(ValueError, match="NaN"):
        index.add(rows(1), np.full((1, DIM), np.nan, np.float32))
    with pytest.raises(ValueError, match=r"\(2, 8\)"):
        index.add(rows(1, 2), vectors[:1])
    for bad in (0, 9999):
        with pytest.raises(ValueError, match=f"row {bad} is not"):
            index.remove(rows(bad))
    index.add(rows(), np.empty((0, DIM), np.float32))
    index.remove(rows())
    assert len(index) == NUM_ROWS - 1 and index.changed == 0


@pytest.mark.parametrize("name", ["vectors", "hidden"])
def test_a_missing_or_cut_tensor_is_refused(vectors, name):
    tensors = LiveIndex(ExactIndex(vectors)).to_tensors()
    with pytest.raises(ValueError, match="hidden"):
        LiveIndex.from_tensors({**tensors, "hidden": tensors["hidden"][:-1]})
    del tensors[name]
    with pytest.raises(ValueError, match=name):
        LiveIndex.from_tensors(tensors)


def test_of_a_row_given_twice_the_last_vector_counts(vectors):
    index = LiveIndex(ExactIndex(vectors))
    index.add(rows(5, 4, 5), np.arange(3 * DIM, dtype=np.float32).reshape(3, DIM))
    assert index.vector(5).tolist() == list(range(16, 24))
    assert index.vector(4).tolist() == list(range(8, 16))
