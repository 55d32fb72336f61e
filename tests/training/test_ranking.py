"""Fitting a ranker: it learns what retrieval cannot see, and never ends worse than retrieval."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from ouzel.events.interactions import History, from_histories, group_by_user
from ouzel.models.ranking.target_attention import TargetAttention
from ouzel.models.sequence.esasrec import ESASRec, ESASRecConfig
from ouzel.training.ranking import RankingSettings, actions_of, candidates_of, fit_ranker
from ouzel.training.ranking_validation import ranked_validator
from ouzel.training.states import read_states
from tests.tiny import NUM_ROWS, WINDOW, random_history, tiny_model

NUM_ITEMS = 12


def model() -> ESASRec:
    torch.manual_seed(0)
    config = ESASRecConfig(dim=16, num_layers=1, window=WINDOW, dropout=0.0)
    return ESASRec(config, NUM_ITEMS + 1).eval()


def pairs(num_users: int = 80):
    """Users alternate between the two items of a pair, which an untrained model cannot know."""
    histories = []
    for user in range(num_users):
        pair = np.array([1 + 2 * (user % 6), 2 + 2 * (user % 6)], np.int32)
        rows = np.tile(pair, 2)[: 3 + user % 2]
        histories.append(History(rows, np.arange(len(rows), dtype=np.int64) * 60_000))
    return from_histories(histories, num_rows=NUM_ITEMS + 1)


def fitted(interactions, *, validate=None, **settings):
    frozen = model()
    torch.manual_seed(1)
    ranker = TargetAttention.build(frozen.config, ("interact",), interactions.num_rows)
    chosen = RankingSettings(**{"epochs": 30, "batch_size": 16, "learning_rate": 0.01, **settings})
    return ranker, frozen, fit_ranker(ranker, frozen, interactions, chosen, validate=validate)


def first_ndcg(ranker, frozen, interactions) -> float:
    """Return NDCG@10 of the second event of each user, after the first."""
    users = np.arange(interactions.num_users)
    targets = SimpleNamespace(users_T=users, ends_T=interactions.offsets_U1[:-1] + 1)
    return ranked_validator(
        ranker.eval(), frozen, interactions, targets, breadth=500, max_targets=99, seed=0
    )()


def test_it_learns_what_the_model_does_not_know() -> None:
    interactions = pairs()
    ranker, frozen, result = fitted(interactions)
    untrained = TargetAttention.build(frozen.config, ("interact",), interactions.num_rows)
    before = first_ndcg(untrained, frozen, interactions)
    after = first_ndcg(ranker, frozen, interactions)
    assert result.epochs == 30 and before < 0.7 and after > 0.95


def test_the_model_is_left_as_it_was() -> None:
    _, frozen, _ = fitted(pairs(), epochs=2)
    for name, tensor in model().state_dict().items():
        assert torch.equal(frozen.state_dict()[name], tensor), name
    assert all(parameter.grad is None for parameter in frozen.parameters())


def test_one_seed_gives_the_same_weights(two_threads: None) -> None:
    one, two = (fitted(pairs(), epochs=2)[0].state_dict() for _ in range(2))
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_a_ranker_that_never_gets_better_ends_as_retrieval() -> None:
    scores = iter([0.5, 0.4, 0.3, 0.2, 0.1, 0.0])
    ranker, frozen, result = fitted(pairs(), validate=lambda: next(scores))
    assert (result.best_epoch, result.epochs, result.best_score) == (0, 4, 0.5)
    torch.manual_seed(1)
    untrained = TargetAttention.build(frozen.config, ("interact",), NUM_ITEMS + 1).state_dict()
    assert all(torch.equal(ranker.state_dict()[name], untrained[name]) for name in untrained)


def test_the_best_epoch_is_kept(two_threads: None) -> None:
    scores = iter([0.1, 0.2, 0.9, 0.3, 0.3, 0.3, 0.3])
    ranker, _, result = fitted(pairs(), validate=lambda: next(scores))
    again, _, _ = fitted(pairs(), epochs=2)
    assert (result.best_epoch, result.epochs, result.start_score) == (2, 6, 0.1)
    kept, other = ranker.state_dict(), again.state_dict()
    assert all(torch.equal(kept[name], other[name]) for name in kept)


def test_time_is_a_limit() -> None:
    assert fitted(pairs(), minutes=1e-9)[2].epochs == 1


def test_nothing_to_learn_from_is_said() -> None:
    lone = from_histories([History(np.array([1], np.int32), np.array([1]))], num_rows=3)
    with pytest.raises(ValueError, match="two interactions"):
        fitted(lone)


def test_likes_are_values_from_the_median_on() -> None:
    def with_values(*values):
        users = np.zeros(len(values), np.int64)
        rows = np.ones(len(values), np.int32)
        return group_by_user(users, rows, users, np.array(values, np.float32), num_rows=2)

    nan = np.nan
    assert actions_of(with_values(1, nan, 4, 5))["like"].tolist() == [False, False, True, True]
    assert actions_of(with_values(1, 1, 1, 5))["like"].tolist() == [False, False, False, True]
    assert list(actions_of(with_values(3, 3, nan))) == ["interact"]
    assert list(actions_of(with_values(nan, nan))) == ["interact"]


def test_candidates_are_a_sample_of_the_best_the_better_the_likelier() -> None:
    torch.manual_seed(0)
    scores = torch.arange(100.0).repeat(2, 1)
    scores[:, 90] = -torch.inf
    settings = RankingSettings(breadth=50, num_negatives=10, sharpness=0.05)
    rows, weights = candidates_of(scores, torch.tensor([98, 3]), settings)
    assert rows.shape == weights.shape == (2, 1 + 10)
    assert rows[:, 0].tolist() == [98, 3]
    assert (rows[:, 1:] >= 49).all() and not (rows == 90).any() and 98 not in rows[0, 1:]
    assert len(set(rows[0].tolist())) == 11 and not weights.any()
    many = RankingSettings(breadth=50, num_negatives=50, sharpness=0.05)
    rows, weights = candidates_of(scores, torch.tensor([98, 3]), many)
    counted = ~weights.isneginf()
    assert counted.sum(1).tolist() == [1 + 49, 1 + 50]  # not the target again, not -inf
    sharp = RankingSettings(breadth=50, num_negatives=5, sharpness=50.0)
    rows, _ = candidates_of(scores, torch.tensor([3, 3]), sharp)
    assert rows[0, 1:].tolist() == [99, 98, 97, 96, 95]


def test_states_of_training_are_those_that_serve() -> None:
    """What is read at a position in the middle is what encoding up to there gives."""
    frozen = tiny_model()
    history = random_history(np.random.default_rng(4), WINDOW)
    rows, times = history.rows[None].astype(np.int64), history.times_ms[None]
    requests = times + 1000
    states = read_states(frozen, (rows, times, requests), (np.array([0]), np.array([4])))
    length = torch.tensor([5])
    table = frozen.items.weight
    with torch.no_grad():
        inputs = map(torch.from_numpy, (rows[:, :5], times[:, :5]))
        *_, keys, values, _ = frozen.encode(*inputs, length, 0 * length, table)
    torch.testing.assert_close(states.keys[0, :, :, :5], keys[0].permute(1, 2, 0))
    torch.testing.assert_close(states.values[0, :, :5], values[0].permute(1, 0, 2))
    assert states.length_B.tolist() == [5] and states.now_B.tolist() == [int(requests[0, 4])]
    assert frozen.items.num_embeddings == NUM_ROWS
