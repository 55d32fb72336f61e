import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ouzel.retrieval import exact
from ouzel.retrieval.exact import ExactIndex


def rows(*values):
    return np.array(values, np.int32)


@pytest.fixture
def vectors():
    return np.random.default_rng(0).normal(size=(50, 8)).astype(np.float32)


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), k=st.integers(1, 70), batch=st.integers(0, 5))
def test_equals_brute_force_under_exclusion(seed, k, batch):
    rng = np.random.default_rng(seed)
    vectors = rng.integers(-3, 4, (60, 4)).astype(np.float32)
    queries = rng.integers(-3, 4, (batch, 4)).astype(np.float32)
    exclude = [rng.integers(0, 90, rng.integers(0, 40)).astype(np.int32) for _ in range(batch)]
    index = ExactIndex(vectors)
    found, scores = index.search(queries, k, exclude=exclude)
    for at in range(batch):
        hidden = {0, *exclude[at].tolist()}
        left = [row for row in range(60) if row not in hidden]
        left.sort(key=lambda row: (-float(queries[at] @ vectors[row]), row))
        wanted = left[:k] + [0] * (k - len(left))
        assert found[at].tolist() == wanted
        assert all(scores[at][found[at] == 0] == -np.inf)


def test_batches_larger_than_a_block_equal_singles(vectors, monkeypatch):
    monkeypatch.setattr(exact, "BLOCK_SCORES", 120)
    queries = np.random.default_rng(1).normal(size=(11, 8)).astype(np.float32)
    index = ExactIndex(vectors)
    found, scores = index.search(queries, 5)
    for at in range(11):
        alone, alone_scores = index.search(queries[at : at + 1], 5)
        assert alone[0].tolist() == found[at].tolist()
        np.testing.assert_allclose(alone_scores[0], scores[at], rtol=1e-5)


def test_bad_input_names_the_value(vectors):
    index = ExactIndex(vectors)
    nan = np.full((1, 8), np.nan, np.float32)
    with pytest.raises(ValueError, match="k is 0"):
        index.search(vectors[:1], 0)
    with pytest.raises(ValueError, match=r"\(1, 3\)"):
        index.search(np.zeros((1, 3), np.float32), 1)
    with pytest.raises(ValueError, match="NaN"):
        index.search(nan, 1)
    with pytest.raises(ValueError, match="2 entries for 1"):
        index.search(vectors[:1], 1, exclude=[rows(), rows()])
    with pytest.raises(ValueError, match="shape"):
        ExactIndex(np.zeros(3, np.float32))
