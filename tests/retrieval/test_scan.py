"""The compiled scan against the same arithmetic in NumPy; its promises: `test_approximate.py`."""

from __future__ import annotations

import ctypes
import gc
import select
import shutil
import subprocess
import weakref
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ouzel.cli.machine import cpu_flags
from ouzel.retrieval import scan
from ouzel.retrieval.scan import ScanIndex
from ouzel.retrieval.scan_lists import ScanListsIndex
from ouzel.retrieval.scan_worker import ScanWorker

no_kernel = pytest.mark.skipif(not ScanIndex.works(), reason="no scan kernel on this machine")


@pytest.mark.skipif(
    "avx512_vnni" not in cpu_flags() or shutil.which("g++") is None,
    reason="no AVX-512 VNNI or no compiler",
)
def test_the_kernel_is_built_where_it_can_be() -> None:
    assert ScanIndex.works()


def query_codes(queries: np.ndarray, scale: np.ndarray) -> np.ndarray:
    scaled = unit(unit(queries) * scale)
    return np.rint(scaled * np.float32(127)).astype(np.int64)


def unit(vectors: np.ndarray) -> np.ndarray:
    largest = np.abs(vectors).max(axis=1, keepdims=True, initial=0)
    return vectors / np.maximum(largest, np.finfo(np.float32).tiny)


def reference(vectors, queries, k, width, exclude) -> tuple[np.ndarray, np.ndarray]:
    """The same search in NumPy, from the promise and not from the packed codes."""
    scale = np.abs(vectors).max(axis=0) / np.float32(127)
    codes = np.rint(vectors / np.where(scale > 0, scale, 1)).astype(np.int64)
    rows, scores = np.zeros((len(queries), k), np.int32), np.full((len(queries), k), -np.inf)
    for at, query in enumerate(query_codes(queries, scale)):
        sums = codes @ query
        allowed = np.setdiff1d(np.arange(1, len(vectors)), exclude[at])
        found = allowed[np.lexsort((allowed, -sums[allowed]))][:width]
        exact = (vectors[found] @ queries[at]).astype(np.float64)
        best = np.lexsort((found, -exact))[:k]
        rows[at, : len(best)], scores[at, : len(best)] = found[best], exact[best]
    return rows, scores


@no_kernel
@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_it_finds_what_the_same_arithmetic_in_numpy_finds(data) -> None:
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    num_rows, dim = data.draw(st.integers(2, 700)), data.draw(st.integers(1, 70))
    vectors = rng.normal(size=(num_rows, dim)).astype(np.float32)
    queries = rng.normal(size=(data.draw(st.integers(1, 19)), dim)).astype(np.float32)
    k = data.draw(st.integers(1, 40))
    exclude = [
        np.sort(rng.choice(num_rows, rng.integers(0, num_rows), replace=False)).astype(np.int32)
        for _ in queries
    ]
    index = ScanIndex(vectors)
    index.effort = data.draw(st.integers(1, 64))
    rows, scores = index.search(queries, k, exclude=exclude)
    width = max(index.effort, scan.SPARE * k)
    expected_rows, expected_scores = reference(vectors, queries, k, width, exclude)
    np.testing.assert_array_equal(rows, expected_rows)
    np.testing.assert_allclose(scores, expected_scores, rtol=1e-4, atol=1e-5)


@no_kernel
def test_extreme_codes_do_not_overflow() -> None:
    vectors = np.ones((40, 512), np.float32)
    vectors[7] = 2
    vectors[1::2] *= -1
    vectors[7] = 2
    rows, scores = ScanIndex(vectors).search(np.full((1, 512), 3, np.float32), 2)
    assert rows[0].tolist() == [7, 2] and scores[0].tolist() == [3072.0, 1536.0]


@no_kernel
def test_equal_vectors_come_by_lower_row() -> None:
    rows, _ = ScanIndex(np.ones((500, 8), np.float32)).search(np.ones((3, 8), np.float32), 20)
    assert rows.tolist() == [list(range(1, 21))] * 3


@no_kernel
@pytest.mark.parametrize("vector", [0.0, 1e-18, 1e18])
def test_vectors_and_queries_of_any_size_are_searched(vector: float) -> None:
    vectors = np.full((50, 4), vector, np.float32)
    rows, _ = ScanIndex(vectors).search(np.full((1, 4), vector, np.float32), 1)
    assert rows[0, 0] > 0


def test_without_the_kernel_it_refuses_and_says_what_to_take(monkeypatch) -> None:
    monkeypatch.setattr(scan, "_kernel", lambda: None)
    assert not ScanIndex.works()
    with pytest.raises(ValueError, match="take another engine"):
        ScanIndex(np.ones((3, 2), np.float32))


def test_a_kernel_that_cannot_be_loaded_is_no_kernel(monkeypatch, tmp_path) -> None:
    broken = tmp_path / "_scan.so"
    broken.write_bytes(b"not a library")
    spec = type("Spec", (), {"origin": str(broken)})()
    monkeypatch.setattr(scan.importlib.util, "find_spec", lambda name: spec)
    assert scan._kernel.__wrapped__() is None


@no_kernel
def test_beside_the_caller_the_same_is_found_in_the_order_of_asking() -> None:
    rng = np.random.default_rng(3)
    index = ScanIndex(rng.normal(size=(3000, 20)).astype(np.float32))
    asked = [rng.normal(size=(rng.integers(1, 12), 20)).astype(np.float32) for _ in range(30)]
    worker, told = ScanWorker(), []
    begun = [index.begin(queries, 7) for queries in asked]
    for number, one in enumerate(begun):
        worker.submit(one, lambda number=number: told.append(number))
    while len(told) < len(asked):
        select.select([worker], [], [], 10)
        worker.collect()
    assert told == list(range(30)) and worker.collect() == 0
    for one, queries in zip(begun, asked, strict=True):
        rows, scores = index.search(queries, 7)
        np.testing.assert_array_equal(one.rows_BK, rows)
        np.testing.assert_array_equal(one.scores_BK, scores)
    worker.close()


@no_kernel
def test_a_worker_that_is_closed_ends_what_it_was_given_and_tells_nobody() -> None:
    worker, told = ScanWorker(), []
    begun = ScanIndex(np.ones((50, 4), np.float32)).begin(np.ones((1, 4), np.float32), 1)
    worker.submit(begun, lambda: told.append(1))
    worker.close()
    assert begun.rows_BK[0, 0] == 1 and not told


@no_kernel
def test_who_is_told_and_fails_keeps_nobody_else_from_being_told(caplog) -> None:
    index = ScanIndex(np.ones((50, 4), np.float32))
    worker, told = ScanWorker(), []

    def fail() -> None:
        raise RuntimeError("planted")

    for done in (fail, lambda: told.append(1), lambda: told.append(2)):
        worker.submit(index.begin(np.ones((1, 4), np.float32), 1), done)
    while len(told) < 2:
        select.select([worker], [], [], 10)
        worker.collect()
    worker.close()
    assert told == [1, 2] and "planted" in caplog.text


@no_kernel
def test_a_search_without_enough_memory_says_so() -> None:
    begun = ScanIndex(np.ones((50, 4), np.float32)).begin(np.ones((1, 4), np.float32), 1)
    begun.failed = True
    with pytest.raises(MemoryError, match="fewer results"):
        begun.result()


@no_kernel
def test_more_results_than_rows_cost_no_more_than_all_rows() -> None:
    rows, _ = ScanIndex(np.ones((50, 4), np.float32)).search(np.ones((1, 4), np.float32), 200)
    assert np.count_nonzero(rows) == 49


@no_kernel
def test_a_kernel_of_another_layout_is_no_kernel(monkeypatch) -> None:
    class Longer(scan.Arguments):
        _fields_ = (("more", ctypes.c_int64),)

    monkeypatch.setattr(scan, "Arguments", Longer)
    assert scan._kernel.__wrapped__() is None


@no_kernel
def test_vectors_that_are_not_finite_are_refused() -> None:
    with pytest.raises(ValueError, match="NaN"):
        ScanIndex(np.full((3, 2), np.nan, np.float32))


@pytest.mark.skipif(shutil.which("g++") is None, reason="no compiler")
def test_the_kernel_compiles_without_a_warning() -> None:
    source = Path(scan.__file__).with_suffix(".cpp")
    flags = ["-std=c++17", "-Wall", "-Wextra", "-Werror", "-O1", "-fsyntax-only"]
    done = subprocess.run(["g++", *flags, str(source)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@no_kernel
@pytest.mark.parametrize("kind", [ScanIndex, ScanListsIndex])
def test_a_search_keeps_what_it_reads_when_its_index_is_let_go(kind) -> None:
    vectors = np.random.default_rng(0).normal(size=(3000, 32)).astype(np.float32)
    index = kind(vectors)
    expected = index.search(vectors[5:7], 4)
    begun, gone = index.begin(vectors[5:7], 4), weakref.ref(index)
    del index
    gc.collect()
    assert gone() is not None, "the kernel would read what is freed"
    scan.run_here(begun)
    np.testing.assert_array_equal(begun.result(), expected)
