"""Which index a home gets, and that its recall is measured on its own users."""

from __future__ import annotations

import numpy as np
import pytest

from ouzel.inference.pool import slot_bytes
from ouzel.inference.states import UserStates
from ouzel.ranking import assembly
from ouzel.retrieval.exact import ExactIndex
from ouzel.retrieval.faiss import ProductIndex
from ouzel.retrieval.scan import ScanIndex
from tests.tiny import random_history, tiny_graphs

HISTORIES = [random_history(np.random.default_rng(n), 12) for n in range(20)]


@pytest.fixture
def states() -> UserStates:
    graphs = tiny_graphs()
    return UserStates(
        graphs,
        max_bytes=slot_bytes(graphs.shape),
        load_history=HISTORIES.__getitem__,
        version="test",
    )


@pytest.fixture
def vectors() -> np.ndarray:
    return np.random.default_rng(0).normal(size=(3000, 16)).astype(np.float32)


def test_a_small_catalogue_is_searched_exactly(states, vectors) -> None:
    assert isinstance(assembly.item_index(vectors, states, HISTORIES).engine, ExactIndex)


def test_a_large_catalogue_gets_codes_whose_recall_was_measured(
    states, vectors, monkeypatch
) -> None:
    monkeypatch.setattr(assembly, "EXACT_ROWS", 100)
    monkeypatch.setattr(assembly, "EXACT_ROWS_WITHOUT_KERNEL", 100)
    index = assembly.item_index(vectors, states, HISTORIES)
    assert isinstance(index.engine, ScanIndex if ScanIndex.works() else ProductIndex)
    assert index.recall >= assembly.RECALL


def test_without_the_kernel_faiss_searches(states, vectors, monkeypatch) -> None:
    monkeypatch.setattr(assembly, "EXACT_ROWS_WITHOUT_KERNEL", 100)
    monkeypatch.setattr(ScanIndex, "works", lambda: False)
    assert isinstance(assembly.item_index(vectors, states, HISTORIES).engine, ProductIndex)


def test_without_users_to_measure_on_search_stays_exact(states, vectors, monkeypatch) -> None:
    monkeypatch.setattr(assembly, "EXACT_ROWS", 100)
    monkeypatch.setattr(assembly, "EXACT_ROWS_WITHOUT_KERNEL", 100)
    assert isinstance(assembly.item_index(vectors, states, []).engine, ExactIndex)


def test_codes_that_miss_the_mark_are_not_taken(states, vectors, monkeypatch) -> None:
    monkeypatch.setattr(assembly, "EXACT_ROWS", 100)
    monkeypatch.setattr(assembly, "EXACT_ROWS_WITHOUT_KERNEL", 100)
    monkeypatch.setattr(assembly, "RECALL", 1.01)
    assert isinstance(assembly.item_index(vectors, states, HISTORIES).engine, ExactIndex)
