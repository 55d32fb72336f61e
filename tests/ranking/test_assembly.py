"""Which index a home gets, and that its recall is measured on its own users."""

from __future__ import annotations

import numpy as np
import pytest

from ouzel.bundle.manifest import IndexRecord
from ouzel.inference.pool import slot_bytes
from ouzel.inference.states import UserStates
from ouzel.ranking import assembly
from ouzel.retrieval.exact import ExactIndex
from ouzel.retrieval.faiss import ProductIndex
from ouzel.retrieval.scan import ScanIndex
from tests.retrieval.every import EVERY
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
    assert isinstance(assembly.item_index(vectors[:900], states, HISTORIES).engine, ExactIndex)


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


def chosen(engine: str, tensors=None) -> assembly.Chosen:
    record = IndexRecord(engine=engine, effort=77, recall={"recall@10": 0.5}, num_queries=9)
    return assembly.Chosen(record, tensors, "run `ouzel index home`")


@pytest.mark.parametrize("engine", EVERY)
def test_what_was_chosen_searches_with_the_codes_that_were_stored(engine, vectors, states) -> None:
    built = engine(vectors)
    queries = np.random.default_rng(1).normal(size=(8, 16)).astype(np.float32)
    index = assembly.item_index(vectors, states, [], chosen(engine.name, built.to_tensors()))
    assert type(index.engine) is engine and index.engine.effort == 77 and index.recall == 0.5
    built.effort = 77
    for one, other in zip(index.search(queries, 10), built.search(queries, 10), strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_choice_that_cannot_be_kept_is_an_error_that_says_what_to_do(
    states, vectors, monkeypatch
) -> None:
    remedy = "chosen for this home fails: .*; run `ouzel index home`"
    with pytest.raises(ValueError, match="'magic'.*" + remedy[-20:]):
        assembly.item_index(vectors, states, [], chosen("magic"))
    with pytest.raises(ValueError, match=remedy):
        assembly.item_index(vectors[:30], states, [], chosen("pq"))
    with pytest.raises(ValueError, match=remedy):
        assembly.item_index(vectors, states, [], chosen("sq8", {"codes": np.zeros(9, np.uint8)}))
    monkeypatch.setattr(ScanIndex, "works", lambda: False)
    with pytest.raises(ValueError, match=remedy):
        assembly.item_index(vectors, states, [], chosen("scan"))
