"""FPMC beside the contract of factor models: what came last decides, and in which order."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from ouzel import Recommender
from ouzel.events.interactions import History, from_histories
from ouzel.features.matrix import matrix_of
from ouzel.inference.fold_in import FoldIn
from ouzel.models.factorization.fpmc import FPMC, FPMCConfig
from tests.recommender.conftest import CIRCLE, walks

NUM_ROWS = 13


def circle() -> list[History]:
    """Return users who go round all items in one order, from any place on, for five steps."""
    starts = np.random.default_rng(0).integers(12, size=200)
    rows = [(1 + (start + np.arange(5)) % 12).astype(np.int32) for start in starts]
    return [History(one, np.arange(5, dtype=np.int64)) for one in rows]


def fitted() -> FPMC:
    torch.manual_seed(0)
    interactions = from_histories(circle(), num_rows=NUM_ROWS)
    config = FPMCConfig(dim=16)
    model = FPMC.build(config, num_users=200, num_rows=NUM_ROWS)
    matrix = FPMC.data_of(interactions)
    for _ in range(3):
        model.sweep(matrix)
    return model


def test_what_comes_after_the_newest_is_found_for_who_was_not_there() -> None:
    tensors = fitted().tensors()
    vectors_ND = tensors["items"]["vectors"]
    fold_in = FoldIn.from_tensors(tensors["fold_in"], vectors_ND)
    for start in range(12):
        walk = 1 + (start + np.arange(4, dtype=np.int32)) % 12
        for rows in (walk, np.append(walk, 99)):  # an item that is unknown is no newest one
            scores = vectors_ND @ fold_in.vector(rows)
            scores[[0, *walk]] = -np.inf
            assert scores.argmax() == 1 + (start + 4) % 12


def test_each_step_goes_down_the_gradient_of_the_loss() -> None:
    """One batch against autograd, with a user, a row and a row before that come twice."""
    torch.manual_seed(1)
    config = FPMCConfig(dim=8, rate=0.1, l2=0.3)
    model = FPMC.build(config, num_users=3, num_rows=6)
    tables = [model.users.weight, model.after.weight, model.items.weight]
    users, before, rows, others = torch.tensor([[0, 1, 1], [0, 4, 4], [2, 2, 3], [3, 5, 5]])
    free = [table.detach().clone().requires_grad_() for table in tables]
    w, a, items = free
    v, b = items[:, :4], items[:, 4:]
    scores = [(w[users] * v[i]).sum(1) + (a[before] * b[i]).sum(1) for i in (rows, others)]
    parts = (w[users], a[before], items[rows], items[others])
    ridge = sum(part.square().sum() for part in parts) / 2
    losses = torch.nn.functional.softplus(scores[1] - scores[0])
    (losses.sum() + config.l2 * ridge).backward()
    with torch.no_grad():
        told = model._step(users, before, rows, others)
        assert told == pytest.approx(float(losses.sum()), rel=1e-5)
        for table, start in zip(tables, free, strict=True):
            expected = start - config.rate * start.grad
            torch.testing.assert_close(table[1:], expected[1:], atol=1e-5, rtol=1e-4)
    assert not model.after.weight[0].any()


def test_a_matrix_without_order_is_refused() -> None:
    interactions = from_histories(circle(), num_rows=NUM_ROWS)
    model = FPMC.build(FPMCConfig(dim=4), num_users=200, num_rows=NUM_ROWS)
    with pytest.raises(ValueError, match="does not say what came before what"):
        model.sweep(matrix_of(interactions))


@pytest.mark.parametrize("wrong", [{"dim": 7}, {"batch_size": 0}, {"taste": 0.0}, {"rate": 0.0}])
def test_impossible_settings_are_refused(wrong) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        replace(FPMCConfig(), **wrong)


def test_a_second_part_of_another_size_is_damage() -> None:
    tensors = fitted().tensors()
    vectors_ND = tensors["items"]["vectors"]
    short = {**tensors["fold_in"], "after": tensors["fold_in"]["after"][1:]}
    with pytest.raises(ValueError, match="do not fit each other"):
        FoldIn.from_tensors(short, vectors_ND)
    with pytest.raises(ValueError, match="do not fit each other"):
        FoldIn.from_tensors({**tensors["fold_in"], "after": np.ones((13, 3))}, vectors_ND)


def test_it_serves_what_comes_next(tmp_path) -> None:
    settings = {"dim": 16, "epochs": 3}
    recommender = Recommender(tmp_path / "home", model="fpmc")
    recommender.fit(walks(), settings=settings, split="leave-one-out", seed=1, blend=False)
    found = recommender.recommend([f"user {n}" for n in range(60)], k=1)
    last = dict(zip(walks()["user_id"], walks()["item_id"], strict=True))
    hits = 0
    for user, item in zip(found["user_id"], found["item_id"], strict=True):
        ring, place = last[user].split("-")
        hits += item == f"{ring}-{(int(place) + 1) % CIRCLE}"
    assert hits > 30
