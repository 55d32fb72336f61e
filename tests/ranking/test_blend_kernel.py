"""The kernel of blends: to the bit what arrays give, whatever is asked, also on several threads."""

from __future__ import annotations

import threading
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from ouzel.events.interactions import History, from_histories
from ouzel.ranking import blend_kernel
from ouzel.ranking.blend_kernel import LONGEST_LIST, BlendKernel
from ouzel.ranking.blending import BLENDED, Blender, BlendSources
from ouzel.retrieval import popular
from ouzel.retrieval.popular import PopularSource
from ouzel.retrieval.types import Candidates, Query, distinct_rows
from ouzel.retrieval.vmis import VMISConfig, VMISkNN

pytestmark = pytest.mark.skipif(not BlendKernel.works(), reason="there is no compiler here")

N = 300


def stages(seed, *, config=None, num_rows=N, equal=False):
    """Return a stage with the kernel, and the same without; `equal`: many scores are the same."""
    rng = np.random.default_rng(seed)
    visits = [
        History(
            (1 + (num_rows - 1) * rng.random(8) ** 2).astype(np.int32),
            np.sort(rng.integers(0, 10**12, 8)),
        )
        for _ in range(400)
    ]
    neighbours = VMISkNN.fit(from_histories(visits, num_rows=num_rows), config)
    counts = rng.integers(0, 4 if equal else 10**6, (2, num_rows)).astype(np.float32)
    counts[:, rng.integers(1, num_rows)] = -np.inf
    lists = [PopularSource(line, name=name) for line, name in zip(counts, BLENDED[2:], strict=True)]
    weights_2SF = rng.integers(-2, 3, (2, 4, 3)) if equal else rng.normal(size=(2, 4, 3))
    made = BlendSources(Blender(weights_2SF.astype(np.float64)), [neighbours, *lists])
    plain = BlendSources(Blender(weights_2SF.astype(np.float64)), [neighbours, *lists])
    assert made.kernel is not None
    plain.kernel = None
    return made, plain


def asked(rng, *, num_rows=N, length=None, k=None):
    """Return a query, and what the model found for it."""
    events = int(rng.integers(1, 40)) if length is None else length
    # Some are of items that came later: nobody knows them.
    rows = rng.integers(1, num_rows + 5, events).astype(np.int32)
    seen = distinct_rows(rows, rng.integers(0, num_rows + 5, 7).astype(np.int32))
    hidden = rng.random(num_rows - int(rng.integers(0, 9))) < 0.2 if rng.random() < 0.5 else None
    query = Query(
        k=int(rng.integers(1, 160)) if k is None else k,
        now_ms=0,
        user=1,
        history=History(rows, np.arange(events)),
        forbidden=seen,
        hidden=hidden,
    )
    found = rng.permutation(np.arange(1, num_rows + 4))[: int(rng.integers(1, 250))]
    scores = np.sort(rng.integers(0, 50, len(found)) / 7)[::-1].astype(np.float32)
    scores[len(scores) - int(rng.integers(0, 3)) :] = -np.inf
    return query, Candidates.of("sequence", found.astype(np.int32), scores)


def same(one, other):
    assert one.names == other.names
    for name in ("rows_K", "scores_K", "sources_K"):
        ours, theirs = getattr(one, name), getattr(other, name)
        assert ours.dtype == theirs.dtype
        np.testing.assert_array_equal(ours, theirs)
    if other.ranks_KS is not None:
        np.testing.assert_array_equal(one.ranks_KS, other.ranks_KS)


@given(seed=st.integers(0, 10**6), equal=st.booleans())
@settings(max_examples=60, deadline=None)
def test_the_kernel_gives_what_arrays_give(seed, equal):
    rng = np.random.default_rng(seed)
    made, plain = stages(seed % 7, equal=equal)
    for _ in range(10):
        query, found = asked(rng)
        same(made.blended(query, found), plain.blended(query, found))


@pytest.mark.parametrize(
    "config", [VMISConfig(1, 1, 1), VMISConfig(3, 2, 9), VMISConfig(30, 200, 4)]
)
def test_few_sessions_few_neighbours_and_few_items_count_alike(config):
    rng = np.random.default_rng(1)
    made, plain = stages(3, config=config)
    for _ in range(50):
        query, found = asked(rng)
        same(made.blended(query, found), plain.blended(query, found))


def test_a_list_that_is_too_long_for_the_kernel_is_blended_in_arrays():
    rng = np.random.default_rng(2)
    rows = 2 * LONGEST_LIST
    made, plain = stages(1, num_rows=rows)
    query, _ = asked(rng, num_rows=rows, k=LONGEST_LIST + 50)
    found = Candidates.of(
        "sequence",
        rng.permutation(np.arange(1, rows))[: LONGEST_LIST + 50],
        np.arange(LONGEST_LIST + 50, 0, -1.0),
    )
    same(made.blended(query, found), plain.blended(query, found))


def test_a_list_that_was_not_ranked_far_enough_is_made_in_arrays(monkeypatch):
    monkeypatch.setattr(popular, "HEAD", 150)
    made, plain = stages(4)
    rng = np.random.default_rng(3)
    reached = 0
    for _ in range(60):
        query, found = asked(rng)
        same(made.blended(query, found), plain.blended(query, found))
        hidden = np.zeros(N, np.bool_)
        hidden[made._others[1].head[0][:80]] = True
        query = replace(query, hidden=hidden)
        reached += made.kernel.blend(query, found.rows_K, found.scores_K) is None
        same(made.blended(query, found), plain.blended(query, found))
        # What was marked on the way is unmarked.
        query = replace(query, hidden=None)
        same(made.blended(query, found), plain.blended(query, found))
    assert reached == 60


def test_threads_do_not_share_what_is_marked():
    made, plain = stages(5)
    wrong = []

    def many(seed):
        rng = np.random.default_rng(seed)
        for _ in range(100):
            query, found = asked(rng)
            try:
                same(made.blended(query, found), plain.blended(query, found))
            except AssertionError as error:
                wrong.append(error)

    threads = [threading.Thread(target=many, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_sources_of_another_kind_have_no_kernel():
    made, _ = stages(0)
    assert isinstance(made.kernel, BlendKernel)
    rows = np.array([0, 5, 9], np.float32)
    lone = VMISkNN.fit(from_histories([], num_rows=2))
    many = PopularSource(rows)
    # Popular rows that the neighbours have no numbers for.
    assert BlendKernel.of(np.zeros((2, 4, 3)), [lone, many, many]) is None
    assert BlendKernel.of(np.zeros((2, 4, 3)), [lone, many]) is None


def test_a_build_of_another_layout_is_not_used(monkeypatch):
    monkeypatch.setattr(blend_kernel, "LAYOUT", blend_kernel.LAYOUT + 1)
    blend_kernel._kernel.cache_clear()
    assert not BlendKernel.works()
    blend_kernel._kernel.cache_clear()


def test_for_want_of_memory_no_list_is_made_of_what_lies_there(monkeypatch):
    made, _ = stages(0)
    query, found = asked(np.random.default_rng(0))
    monkeypatch.setattr(made.kernel, "_kernel", SimpleNamespace(ouzel_blend=lambda *_: -1))
    with pytest.raises(MemoryError, match="not enough memory to blend"):
        made.blended(query, found)
