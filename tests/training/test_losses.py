"""Losses against values computed by hand."""

from __future__ import annotations

import math

import pytest
import torch

from ouzel.training.losses import full_softmax, sampled_softmax

ITEMS = torch.tensor([[9.0, 9.0], [1.0, 0.0], [0.0, 1.0], [1.0, 1.0]])
VECTOR = torch.tensor([[2.0, 1.0]])


def test_full_softmax_by_hand() -> None:
    """Logits 2, 1, 3 for rows 1, 2, 3; the padding row takes no part."""
    expected = -math.log(math.exp(1) / (math.exp(2) + math.exp(1) + math.exp(3)))
    assert full_softmax(VECTOR, torch.tensor([2]), ITEMS).item() == pytest.approx(expected)


def test_sampled_softmax_by_hand() -> None:
    """Target row 1 (logit 2) against the negative row 2 (logit 1)."""
    expected = -math.log(math.exp(2) / (math.exp(2) + math.exp(1)))
    loss = sampled_softmax(VECTOR, torch.tensor([1]), ITEMS, torch.tensor([2]))
    assert loss.item() == pytest.approx(expected)


def test_the_target_among_the_negatives_does_not_count_against_itself() -> None:
    with_it = sampled_softmax(VECTOR, torch.tensor([1]), ITEMS, torch.tensor([2, 1]))
    without = sampled_softmax(VECTOR, torch.tensor([1]), ITEMS, torch.tensor([2]))
    assert with_it.item() == pytest.approx(without.item())


def test_all_items_as_negatives_is_the_full_softmax() -> None:
    vectors, targets = torch.randn(5, 2), torch.tensor([1, 2, 3, 3, 1])
    every = torch.tensor([1, 2, 3])
    torch.testing.assert_close(
        sampled_softmax(vectors, targets, ITEMS, every), full_softmax(vectors, targets, ITEMS)
    )


def test_gradients_are_finite_with_the_target_masked() -> None:
    vectors = torch.randn(2, 2, requires_grad=True)
    sampled_softmax(vectors, torch.tensor([1, 2]), ITEMS, torch.tensor([1, 2, 3])).backward()
    assert vectors.grad is not None and torch.isfinite(vectors.grad).all()
