"""The sparse matrix of users and items, and who is with whom in it."""

from __future__ import annotations

import numpy as np
import pytest

from ouzel.events.interactions import History, Interactions, from_histories
from ouzel.features import matrix as module
from ouzel.features.matrix import Matrix, cooccurrences, matrix_of


def interactions(seed: int = 0, num_rows: int = 30) -> Interactions:
    rng = np.random.default_rng(seed)
    lengths = [0, *rng.integers(1, 12, 40).tolist()]
    rows = [rng.integers(1, num_rows, length).astype(np.int32) for length in lengths]
    visits = [History(r, np.arange(len(r), dtype=np.int64)) for r in rows]
    return from_histories(visits, num_rows=num_rows)


def dense(x: Interactions) -> np.ndarray:
    lines = np.zeros((x.num_users, x.num_rows))
    lines[np.repeat(np.arange(x.num_users), x.lengths_U()), x.rows_E] = 1
    return lines


def test_each_pair_is_there_once() -> None:
    x = interactions()
    found = matrix_of(x)
    assert [found.line(user).tolist() for user in range(x.num_users)] == [
        np.flatnonzero(line).tolist() for line in dense(x)
    ]
    turned = found.transposed()
    assert [turned.line(row).tolist() for row in range(x.num_rows)] == [
        np.flatnonzero(line).tolist() for line in dense(x).T
    ]


@pytest.mark.parametrize("way", ["dense", "counted", "sorted"])
@pytest.mark.parametrize("weighted", [False, True])
def test_cooccurrences_are_the_product(way, weighted, monkeypatch: pytest.MonkeyPatch) -> None:
    x = interactions()
    monkeypatch.setattr(module, "DENSE_ROWS", 1000 if way == "dense" else 0)
    monkeypatch.setattr(module, "DENSE_GAIN", 10**6)
    monkeypatch.setattr(module, "DENSE_BLOCK", 100)
    monkeypatch.setattr(module, "BLOCK_PAIRS", 50)
    monkeypatch.setattr(module, "COUNTED_CELLS", 0 if way == "sorted" else 10**6)
    weights = np.linspace(0.1, 2, x.num_users) if weighted else None
    product = np.zeros((x.num_rows, x.num_rows))
    rows_before = -1
    for rows, others, sums in cooccurrences(matrix_of(x), weights):
        assert rows[0] > rows_before
        rows_before = rows[-1]
        product[rows, others] += sums
    scale = np.ones(x.num_users) if weights is None else weights
    np.testing.assert_allclose(product, (dense(x).T * scale) @ dense(x), rtol=1e-5)


def test_what_is_no_data_is_refused() -> None:
    with pytest.raises(ValueError, match="no interactions"):
        matrix_of(from_histories([], num_rows=3))
    with pytest.raises(ValueError, match="rows reach from 1 to 9"):
        matrix_of(from_histories([History(np.array([1, 9]), np.arange(2))], num_rows=4))
    assert isinstance(matrix_of(interactions(1)), Matrix)
