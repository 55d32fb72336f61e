"""What only FAISS engines refuse or keep; what every engine promises: `test_approximate.py`."""

from __future__ import annotations

import numpy as np
import pytest

from ouzel.retrieval.faiss import FlatIndex, GraphIndex, ListsIndex, ProductIndex, ScalarIndex


def test_odd_dimensions_are_refused_by_product_codes() -> None:
    with pytest.raises(ValueError, match="even"):
        ProductIndex(np.zeros((1000, 3), np.float32))


@pytest.mark.parametrize(("engine", "enough"), [(ProductIndex, 624), (ListsIndex, 78)])
def test_too_few_vectors_to_learn_from_are_refused(engine, enough) -> None:
    vectors = np.random.default_rng(0).normal(size=(enough + 1, 4)).astype(np.float32)
    assert engine(vectors).vector(enough) is not None
    with pytest.raises(ValueError, match=f"{enough} are needed"):
        engine(vectors[:-1])


@pytest.mark.parametrize("engine", [FlatIndex, ScalarIndex, GraphIndex])
def test_others_need_one_vector(engine) -> None:
    assert engine(np.ones((2, 3), np.float32)).search(np.ones((1, 3), np.float32), 2)[0][0, 0] == 1
    with pytest.raises(ValueError, match="no vectors"):
        engine(np.zeros((1, 3), np.float32))


@pytest.mark.parametrize("engine", [ListsIndex, GraphIndex])
def test_more_effort_finds_more(engine) -> None:
    vectors = np.random.default_rng(0).normal(size=(4000, 24)).astype(np.float32)
    queries = np.random.default_rng(1).normal(size=(50, 24)).astype(np.float32)
    index, found = engine(vectors), []
    best = np.argsort(-(queries @ vectors.T), axis=1)[:, :5]
    for effort in (1, index.most_effort):
        index.effort = effort
        rows, _ = index.search(queries, 5)
        found.append(np.mean([len(set(a) & set(b)) for a, b in zip(rows, best, strict=True)]))
    assert found[0] < found[1] and found[1] > 4.9
