"""FTRL: the published recursion step by step, exact zeros, and rates that are each coordinate's."""

from __future__ import annotations

import math

import pytest
import torch

from ouzel.training.ftrl import FTRL


def published(gradients: list[float], *, alpha: float, beta: float, l1: float, l2: float) -> float:
    """Return the weight after algorithm 1 of McMahan et al., one coordinate, one step at a time."""
    z = n = weight = 0.0
    for gradient in gradients:
        sigma = (math.sqrt(n + gradient**2) - math.sqrt(n)) / alpha
        z, n = z + gradient - sigma * weight, n + gradient**2
        shrunk = z - math.copysign(l1, z)
        weight = 0.0 if abs(z) <= l1 else -shrunk / ((beta + math.sqrt(n)) / alpha + l2)
    return weight


@pytest.mark.parametrize("start", [0.0, 0.7])
def test_it_is_the_published_recursion(start) -> None:
    told = {"alpha": 0.3, "beta": 1.0, "l1": 0.4, "l2": 0.2}
    lines = [[1.5, -0.2], [-0.7, 0.1], [2.0, 0.0], [-3.0, -0.1]]
    weight = torch.nn.Parameter(torch.tensor([0.0, start], dtype=torch.float64))
    optimizer = FTRL([weight], **told)
    for line in lines:
        weight.grad = torch.tensor(line, dtype=torch.float64)
        optimizer.step()
    first, second = zip(*lines, strict=True)
    assert weight[0].item() == pytest.approx(published(list(first), **told))
    if not start:
        assert weight[1].item() == published(list(second), **told) == 0.0


def test_a_coordinate_without_gradients_stays_where_it_started() -> None:
    weight = torch.nn.Parameter(torch.tensor([0.5, 0.5]))
    optimizer = FTRL([weight], alpha=0.1, beta=1.0, l1=0.1, l2=0.1)
    for _ in range(3):
        weight.grad = torch.tensor([1.0, 0.0])
        optimizer.step()
    assert weight[1].item() == pytest.approx(0.5) and weight[0].item() < 0.4


def test_what_occurs_often_moves_more_slowly_each_time() -> None:
    weight = torch.nn.Parameter(torch.zeros(1))
    optimizer = FTRL([weight], alpha=1.0, beta=0.0, l1=0.0, l2=0.0)
    steps = []
    for _ in range(4):
        before = weight.item()
        weight.grad = torch.ones(1)
        optimizer.step()
        steps.append(before - weight.item())
    assert steps == pytest.approx([1 / math.sqrt(n) for n in range(1, 5)], rel=1e-5)


@pytest.mark.parametrize("wrong", [{"alpha": 0.0}, {"beta": -1.0}, {"l1": -1.0}, {"l2": -1.0}])
def test_impossible_constants_are_refused(wrong) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        FTRL([torch.zeros(1)], **{"alpha": 1.0, "beta": 1.0, "l1": 1.0, "l2": 1.0, **wrong})
