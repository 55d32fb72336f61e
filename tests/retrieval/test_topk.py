import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ouzel.retrieval.topk import GROUP, top_k


def sorted_top(scores, k):
    order = sorted(range(len(scores)), key=lambda at: (-scores[at], at))
    return [at for at in order if scores[at] > -np.inf][:k]


@settings(max_examples=150, deadline=None)
@given(
    length=st.integers(0, 40 * GROUP),
    k=st.integers(0, 30),
    levels=st.integers(1, 400),
    seed=st.integers(0, 2**32 - 1),
)
def test_equals_a_full_sort_with_ties_by_position(length, k, levels, seed):
    rng = np.random.default_rng(seed)
    scores = rng.integers(0, levels, length).astype(np.float32)
    scores[rng.random(length) < 0.3] = -np.inf
    assert top_k(scores, k).tolist() == sorted_top(scores, k)


@pytest.mark.parametrize("length", [1, GROUP, 100 * GROUP + 7])
def test_nothing_but_minus_infinity_gives_nothing(length):
    assert len(top_k(np.full(length, -np.inf, np.float32), 5)) == 0
