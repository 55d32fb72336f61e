"""What every engine must keep, against exact search: all of the closed tuple are checked."""

from __future__ import annotations

import sys

import numpy as np
import pytest

from ouzel.retrieval.engines import ENGINES as EVERY_ENGINE
from ouzel.retrieval.exact import ExactIndex
from ouzel.retrieval.scan import ScanIndex
from ouzel.retrieval.tuning import tune
from tests.retrieval.every import EVERY

ENGINES = [engine for engine in EVERY if engine.values[0] is not ExactIndex]
CODES = [e for e in ENGINES if e.values[0].effort_name == "candidates"]


@pytest.fixture(scope="module")
def data() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(60, 16))
    vectors = centres[rng.integers(0, 60, 5001)] + rng.normal(size=(5001, 16))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    queries = centres[rng.integers(0, 60, 40)] + 0.5 * rng.normal(size=(40, 16))
    return vectors.astype(np.float32), queries.astype(np.float32)


@pytest.mark.parametrize("engine", ENGINES)
def test_recall_is_measured_against_exact_search_and_enough(engine, data) -> None:
    vectors, queries = data
    index, exact = engine(vectors), ExactIndex(vectors)
    tune(index, exact, queries, recall=0.99)
    found, _ = index.search(queries, 10)
    expected, _ = exact.search(queries, 10)
    shared = sum(len(set(a) & set(b)) for a, b in zip(found, expected, strict=True)) / found.size
    assert index.recall == pytest.approx(shared) and shared >= 0.99


@pytest.mark.parametrize("engine", CODES)
def test_too_few_candidates_are_noticed_and_doubled(engine, data, monkeypatch) -> None:
    vectors, queries = data
    # Otherwise the rows that are spared for a short list are enough.
    monkeypatch.setattr(sys.modules[engine.__module__], "SPARE", engine is not ScanIndex)
    index = engine(vectors)
    index.effort = 1
    tune(index, ExactIndex(vectors), queries, recall=1.0)
    assert index.effort > 1 and index.recall == 1.0


@pytest.mark.parametrize("engine", ENGINES)
def test_scores_are_exact_and_excluded_rows_and_padding_never_come(engine, data) -> None:
    vectors, queries = data
    index = engine(vectors)
    best, _ = index.search(queries, 20)
    exclude = [np.sort(row[::2]).astype(np.int32) for row in best]
    rows, scores = index.search(queries, 10, exclude=exclude)
    for query, found, values, banned in zip(queries, rows, scores, exclude, strict=True):
        np.testing.assert_allclose(values, vectors[found] @ query, rtol=1e-5, atol=1e-6)
        assert not set(found.tolist()) & (set(banned.tolist()) | {0})
        assert (np.diff(values) <= 0).all()


@pytest.mark.parametrize("engine", ENGINES)
def test_alone_and_in_a_crowd_the_answer_is_the_same(engine, data) -> None:
    vectors, queries = data
    index = engine(vectors)
    crowd, _ = index.search(queries, 10)
    for at in range(len(queries)):
        np.testing.assert_array_equal(index.search(queries[at : at + 1], 10)[0][0], crowd[at])


@pytest.mark.parametrize("engine", ENGINES)
def test_a_short_list_is_filled_with_padding(engine, data) -> None:
    vectors, queries = data
    everything_but_7 = np.delete(np.arange(5001, dtype=np.int32), 7)
    rows, scores = engine(vectors).search(queries[:1], 3, exclude=[everything_but_7])
    assert rows.tolist() == [[7, 0, 0]] and scores[0, 1:].tolist() == [-np.inf, -np.inf]


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("wrong", ["k", "shape", "nan", "exclude"])
def test_bad_queries_are_refused(engine, data, wrong: str) -> None:
    vectors, queries = data
    bad = {"shape": queries[:, :5], "nan": queries * np.nan}.get(wrong, queries)
    with pytest.raises(ValueError, match=r"give|ask"):
        engine(vectors).search(
            bad, 0 if wrong == "k" else 10, exclude=[] if wrong == "exclude" else None
        )


@pytest.mark.parametrize("engine", ENGINES)
def test_lists_that_end_early_count_for_what_they_have(engine, data) -> None:
    vectors, queries = data
    all_but_three = [np.arange(3, 5000, dtype=np.int32)] * len(queries)
    index = engine(vectors)
    tune(index, ExactIndex(vectors), queries, recall=0.99, exclude=all_but_three)
    assert index.recall == 1.0


def test_tuning_stops_where_exact_search_is_as_fast(data) -> None:
    vectors, queries = data

    class Blind:
        effort, recall, most_effort = 32, float("nan"), 5000 // 8

        def __len__(self):
            return 5000

        def search(self, queries_BD, k, *, exclude=None):
            return np.zeros((len(queries_BD), k), np.int32), np.zeros((len(queries_BD), k))

    index = Blind()
    tune(index, ExactIndex(vectors), queries, recall=0.99)
    assert index.recall == 0.0 and index.effort <= 5000 // 8


@pytest.mark.parametrize("engine", EVERY)
@pytest.mark.parametrize("share", [0.0, 0.3, 0.9, 0.97])
def test_hidden_rows_never_come_and_the_best_of_the_others_do(engine, data, share) -> None:
    vectors, queries = data
    hidden = np.random.default_rng(1).random(len(vectors)) < share
    index = engine(vectors)
    if index.effort_name == "probes":
        index.effort = index.most_effort
    rows, scores = index.search(queries, 10, hidden=[hidden] * len(queries))
    assert not hidden[rows].any() and (rows > 0).all()
    everywhere = [np.flatnonzero(hidden).astype(np.int32)] * len(queries)
    expected, _ = ExactIndex(vectors).search(queries, 10, exclude=everywhere)
    shared = [len(set(a) & set(b)) / 10 for a, b in zip(rows, expected, strict=True)]
    assert np.mean(shared) > 0.97
    for query, found, values in zip(queries, rows, scores, strict=True):
        np.testing.assert_allclose(values, vectors[found] @ query, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("engine", EVERY)
def test_where_all_is_hidden_nothing_is_found(engine, data) -> None:
    vectors, queries = data
    nothing = [np.ones(len(vectors), np.bool_)] * len(queries)
    rows, scores = engine(vectors).search(queries, 3, hidden=nothing)
    assert not rows.any() and np.isneginf(scores).all()


@pytest.mark.parametrize("engine", EVERY)
def test_each_query_has_rows_hidden_of_its_own(engine, data) -> None:
    vectors, queries = data
    index = engine(vectors)
    odd = np.arange(len(vectors)) % 2 == 1
    masks = [(None, odd, ~odd)[at % 3] for at in range(len(queries))]
    together, _ = index.search(queries, 10, hidden=masks)
    for at, mask in enumerate(masks):
        alone, _ = index.search(queries[at : at + 1], 10, hidden=[mask])
        np.testing.assert_array_equal(together[at], alone[0])
        assert mask is None or not mask[together[at]].any()
    with pytest.raises(ValueError, match="hidden has 1 entries"):
        index.search(queries, 10, hidden=masks[:1])


@pytest.mark.parametrize("engine", EVERY)
def test_an_index_gives_its_vectors(engine, data) -> None:
    vectors, _ = data
    index = engine(vectors)
    np.testing.assert_array_equal(index.vector(5000), vectors[5000])
    assert index.vector(0) is None and index.vector(5001) is None and index.vector(-1) is None


@pytest.mark.parametrize("engine", ENGINES)
def test_where_the_nearest_are_hidden_the_next_are_found(engine, data) -> None:
    vectors, queries = data
    index, exact = engine(vectors), ExactIndex(vectors)
    tune(index, exact, queries, recall=0.99)
    masks = [vectors @ query > 0.1 for query in queries]
    rows, _ = index.search(queries, 10, hidden=masks)
    expected, _ = exact.search(queries, 10, hidden=masks)
    shared = [len(set(a) & set(b)) / 10 for a, b in zip(rows, expected, strict=True)]
    assert np.mean(shared) > 0.9


@pytest.mark.parametrize("engine", EVERY)
def test_masks_of_any_layout_are_read(engine, data) -> None:
    vectors, queries = data
    index = engine(vectors)
    mask = np.arange(len(vectors)) % 3 == 0
    strided = np.repeat(mask, 2)[::2]
    assert not strided.flags.c_contiguous
    expected, _ = index.search(queries[:2], 5, hidden=[mask, mask])
    found, _ = index.search(queries[:2], 5, hidden=[strided, mask])
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("engine", EVERY)
def test_what_was_built_is_taken_from_tensors_again(engine, data) -> None:
    vectors, queries = data
    index = engine(vectors)
    again = engine(vectors, index.to_tensors())
    for one, other in zip(index.search(queries, 10), again.search(queries, 10), strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("engine", ENGINES)
def test_tensors_of_other_vectors_or_none_are_refused(engine, data) -> None:
    vectors, _ = data
    tensors = engine(vectors).to_tensors()
    with pytest.raises(ValueError, match="build"):
        engine(vectors[:4000], tensors)
    with pytest.raises(ValueError, match="build"):
        engine(vectors, {})


@pytest.mark.parametrize("engine", EVERY)
def test_equal_vectors_come_by_lower_row(engine) -> None:
    # Whole numbers: equal vectors have equal scores, in whatever order they are added.
    vectors = np.repeat(np.random.default_rng(0).integers(-9, 10, (1000, 8)), 3, axis=0)
    vectors = np.vstack([np.zeros((1, 8)), vectors]).astype(np.float32)
    index = engine(vectors)
    index.effort = index.most_effort
    rows, scores = index.search(vectors[1::300], 6)
    for found, values in zip(rows, scores, strict=True):
        assert found.tolist() == sorted(found, key=lambda row: (-values[found == row][0], row))
        assert (np.diff(values) == 0).sum() >= 4


def test_engines_are_known_by_different_names() -> None:
    assert len({engine.name for engine in EVERY_ENGINE}) == len(EVERY_ENGINE) == len(EVERY)


def test_the_effort_that_is_enough_is_found_to_an_eighth(data) -> None:
    """An index that finds everything once it looks hard enough, and half of it before."""
    vectors, queries = data
    exact = ExactIndex(vectors)

    class From(ExactIndex):
        needed, effort, recall, most_effort = 1, 16, float("nan"), 4096

        def search(self, queries_BD, k, **asked):
            rows, scores = exact.search(queries_BD, k, **asked)
            rows[:, : 0 if self.effort >= self.needed else k // 2] = 0
            return rows, scores

    for needed in (1, 16, 17, 24, 25, 130, 1000, 4096):
        index = From(vectors)
        index.needed, index.effort = needed, 16
        tune(index, exact, queries, recall=0.99)
        assert index.recall == 1.0 and max(needed, 16) <= index.effort <= max(16, 1.125 * needed)
    index.needed, index.effort = 5000, 16
    tune(index, exact, queries, recall=0.99)
    assert index.recall == 0.5 and index.effort == 4096
