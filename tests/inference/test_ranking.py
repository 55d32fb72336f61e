"""The ranker over the pool of states: the same for a stored user, a session, alone, in a crowd."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from ouzel.events.interactions import History
from ouzel.inference.pool import slot_bytes
from ouzel.inference.ranking import AT_ONCE, Asking, StateRanker
from ouzel.inference.states import UserStates
from ouzel.inference.target_attention import TargetAttentionKernel
from tests.tiny import (
    ACTIONS,
    NUM_ROWS,
    random_history,
    tiny_kernel_weights,
    tiny_model,
    tiny_ranked_graphs,
    tiny_ranker,
    tiny_tables,
)

HISTORIES = [random_history(np.random.default_rng(n), n) for n in (1, 5, 8, 9, 30)]
NOW_MS = int(max(history.times_ms[-1] for history in HISTORIES)) + 1000
CANDIDATES = np.arange(1, 13)


@pytest.fixture
def states() -> UserStates:
    graphs = tiny_ranked_graphs()
    return UserStates(
        graphs,
        max_bytes=4 * slot_bytes(graphs.shape),
        load_history=HISTORIES.__getitem__,
        version="test",
    )


@pytest.fixture(params=["graph", "kernel"])
def ranker(states: UserStates, request: pytest.FixtureRequest) -> StateRanker:
    if request.param == "graph":
        return made(states, None)
    if not TargetAttentionKernel.works():
        pytest.skip("no ranking kernel on this machine")
    vectors_ND, items_NF = tiny_tables()
    tensors = {"items": items_NF, **tiny_kernel_weights()}
    kernel = TargetAttentionKernel.of(states.graphs.shape, vectors_ND, tensors)
    assert kernel is not None
    return made(states, kernel)


def made(states: UserStates, kernel: TargetAttentionKernel | None) -> StateRanker:
    vectors_ND, items_NF = tiny_tables()
    return StateRanker(
        states, actions=ACTIONS, vectors_ND=vectors_ND, items_NF=items_NF, kernel=kernel
    )


def stored(states: UserStates, *users: int) -> list[Asking]:
    vectors, known = states.query(users, NOW_MS)
    assert all(known)
    return [
        Asking(user, HISTORIES[user], vector, NOW_MS)
        for user, vector in zip(users, vectors, strict=True)
    ]


def of(count: int) -> np.ndarray:
    return np.tile(CANDIDATES, (count, 1))


def test_it_gives_the_logits_of_the_torch_ranker(states, ranker) -> None:
    for user, history in enumerate(HISTORIES):
        (asking,) = stored(states, user)
        logits, known = ranker.logits([asking], of(1))
        pool = states.pool.copied(user)
        vectors_ND, items_NF = map(torch.from_numpy, tiny_tables())
        with torch.no_grad():
            expected = tiny_ranker().rank(
                torch.from_numpy(asking.vector[None]),
                torch.tensor([NOW_MS]),
                torch.tensor([len(history)]),
                torch.tensor([0]),
                torch.from_numpy(of(1)),
                vectors_ND,
                items_NF,
                *map(torch.from_numpy, pool.cache[-2:]),
            )
        np.testing.assert_allclose(logits, expected.numpy(), atol=2e-5)
        assert known == [True]


def test_a_crowd_changes_nothing(states, ranker) -> None:
    asking = [*stored(states, 1, 2, 3), Asking(None, HISTORIES[4], np.ones(16, np.float32), NOW_MS)]
    together, known = ranker.logits(asking, of(4))
    assert known == [True] * 4
    for at, who in enumerate(asking):
        alone, _ = ranker.logits([who], of(1))
        np.testing.assert_allclose(together[at], alone[0], atol=2e-5)


def test_a_session_is_ranked_as_a_user_with_that_history(states, ranker) -> None:
    (user,) = stored(states, 4)
    session = Asking(None, user.history, user.vector, NOW_MS)
    np.testing.assert_allclose(
        ranker.logits([session], of(1))[0], ranker.logits([user], of(1))[0], atol=2e-5
    )


def test_an_appended_event_counts(states, ranker) -> None:
    (before,) = stored(states, 2)
    first, _ = ranker.logits([before], of(1))
    states.observe(2, 7, NOW_MS - 1)
    (after,) = stored(states, 2)
    second, _ = ranker.logits([after], of(1))
    assert np.abs(second - first).max() > 1e-3
    longer = History(
        np.append(before.history.rows, 7), np.append(before.history.times_ms, NOW_MS - 1)
    )
    session = Asking(None, longer, after.vector, NOW_MS)
    np.testing.assert_allclose(ranker.logits([session], of(1))[0], second, atol=2e-5)


def test_states_are_never_written(states, ranker) -> None:
    asking = stored(states, 1, 2)
    before = [array.copy() for array in states.pool.cache]
    ranker.logits(asking, of(2))
    for array, old in zip(states.pool.cache, before, strict=True):
        np.testing.assert_array_equal(array, old)


def test_who_was_evicted_has_no_logits(states, ranker) -> None:
    asking = stored(states, 1, 2)
    states.forget(1)
    logits, known = ranker.logits(asking, of(2))
    assert known == [False, True] and not logits[0].any() and logits[1].any()


def test_a_history_of_unknown_items_has_no_logits(ranker) -> None:
    unknown = History(np.array([NUM_ROWS + 3], np.int32), np.array([10], np.int64))
    asking = [Asking(None, unknown, np.ones(16, np.float32), NOW_MS)]
    assert ranker.logits(asking, of(1))[1] == [False]


def test_more_sessions_than_fit_in_one_call(states, ranker) -> None:
    vector = np.ones(tiny_model().config.dim, np.float32)
    asking = [Asking(None, HISTORIES[1 + at % 4], vector, NOW_MS) for at in range(2 * AT_ONCE + 1)]
    logits, known = ranker.logits(asking, of(len(asking)))
    assert all(known)
    np.testing.assert_allclose(logits[0], logits[2 * AT_ONCE], atol=2e-5)
