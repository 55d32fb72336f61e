"""The FAISS engine against exact search."""

from __future__ import annotations

import numpy as np
import pytest

from ouzel.retrieval.exact import ExactIndex
from ouzel.retrieval.faiss import FaissIndex


@pytest.fixture(scope="module")
def data() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(60, 16))
    vectors = centres[rng.integers(0, 60, 5001)] + rng.normal(size=(5001, 16))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    queries = centres[rng.integers(0, 60, 40)] + 0.5 * rng.normal(size=(40, 16))
    return vectors.astype(np.float32), queries.astype(np.float32)


def test_recall_is_measured_against_exact_search_and_enough(data) -> None:
    vectors, queries = data
    index = FaissIndex.tuned(vectors, queries, recall=0.99)
    found, _ = index.search(queries, 10)
    expected, _ = ExactIndex(vectors).search(queries, 10)
    shared = np.mean([len(set(a) & set(b)) / 10 for a, b in zip(found, expected, strict=True)])
    assert index.recall == pytest.approx(shared) and shared >= 0.99


def test_too_few_candidates_are_noticed_and_doubled(data, monkeypatch) -> None:
    vectors, queries = data
    monkeypatch.setattr("ouzel.retrieval.faiss.CANDIDATES", 1)
    monkeypatch.setattr(FaissIndex.__init__, "__kwdefaults__", {"candidates": 1})
    index = FaissIndex.tuned(vectors, queries, recall=0.999)
    assert index.candidates > 1 and index.recall >= 0.999


def test_scores_are_exact_and_excluded_rows_and_padding_never_come(data) -> None:
    vectors, queries = data
    index = FaissIndex(vectors)
    best, _ = index.search(queries, 20)
    exclude = [np.sort(row[::2]).astype(np.int32) for row in best]
    rows, scores = index.search(queries, 10, exclude=exclude)
    for query, found, values, banned in zip(queries, rows, scores, exclude, strict=True):
        np.testing.assert_allclose(values, vectors[found] @ query, rtol=1e-5)
        assert not set(found.tolist()) & (set(banned.tolist()) | {0})
        assert (np.diff(values) <= 0).all()


def test_alone_and_in_a_crowd_the_answer_is_the_same(data) -> None:
    vectors, queries = data
    index = FaissIndex(vectors)
    crowd, _ = index.search(queries, 10)
    for at in range(len(queries)):
        np.testing.assert_array_equal(index.search(queries[at : at + 1], 10)[0][0], crowd[at])


@pytest.mark.parametrize("wrong", ["k", "shape", "nan"])
def test_bad_queries_are_refused(data, wrong: str) -> None:
    vectors, queries = data
    index = FaissIndex(vectors)
    bad = {"k": queries, "shape": queries[:, :5], "nan": queries * np.nan}[wrong]
    with pytest.raises(ValueError, match="give"):
        index.search(bad, 0 if wrong == "k" else 10)


def test_odd_dimensions_are_refused() -> None:
    with pytest.raises(ValueError, match="even"):
        FaissIndex(np.zeros((10, 3), np.float32))
