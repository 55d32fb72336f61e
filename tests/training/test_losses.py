"""Losses against values computed by hand."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

from ouzel.training.losses import (
    CUT_ROWS,
    binary_cross_entropy,
    calibration,
    cut_softmax,
    full_softmax,
    log_chances,
    pairwise,
    sampled_softmax,
)

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


def sample(num_positions: int = 7, num_rows: int = 23, dim: int = 5):
    generator = torch.Generator().manual_seed(3)
    vectors = torch.randn(num_positions, dim, generator=generator, dtype=torch.float64)
    items = torch.randn(num_rows, dim, generator=generator, dtype=torch.float64)
    targets = torch.randint(1, num_rows, (num_positions,), generator=generator)
    return vectors.requires_grad_(), targets, items.requires_grad_()


@pytest.mark.parametrize("fewest", [1, 2, 7, 30])
def test_full_softmax_is_the_cross_entropy_of_torch_with_its_gradients(fewest, monkeypatch) -> None:
    monkeypatch.setattr("ouzel.training.losses.FEWEST_POSITIONS", fewest)
    monkeypatch.setattr("ouzel.training.losses.LOGITS_AT_ONCE", 1)

    def reference(vectors: Tensor, targets: Tensor, items: Tensor) -> Tensor:
        return functional.cross_entropy(vectors @ items[1:].T, targets - 1)

    found = []
    for loss in (full_softmax, reference):
        vectors, targets, items = sample()
        value = loss(vectors, targets, items)
        (3 * value).backward()
        found.append((value.detach(), vectors.grad, items.grad))
    for ours, expected in zip(*found, strict=True):
        torch.testing.assert_close(ours, expected)


def test_full_softmax_of_large_scores_is_a_number() -> None:
    vectors = torch.tensor([[300.0, -300.0]], requires_grad=True)
    loss = full_softmax(vectors, torch.tensor([2]), ITEMS)
    loss.backward()
    assert loss.item() == pytest.approx(600.0)
    assert vectors.grad is not None and vectors.grad.tolist() == [[1.0, -1.0]]


@pytest.mark.parametrize("rows_at_once", [1, 4, 22, 100])
def test_cut_softmax_is_the_full_softmax_with_its_gradients(rows_at_once, monkeypatch) -> None:
    monkeypatch.setattr("ouzel.training.losses.CUT_ROWS", rows_at_once)
    found = []
    for loss in (cut_softmax, full_softmax):
        vectors, targets, items = sample()
        value = loss(vectors, targets, items)
        (3 * value).backward()
        found.append((value.detach(), vectors.grad, items.grad))
    for ours, reference in zip(*found, strict=True):
        torch.testing.assert_close(ours, reference)


def test_cut_softmax_never_holds_all_logits() -> None:
    """The largest tensor that is made has `CUT_ROWS` columns."""
    sizes = []

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            made = function(*args, **(kwargs or {}))
            sizes.extend(x.numel() for x in pytree.tree_leaves(made) if isinstance(x, Tensor))
            return made

    vectors, targets, items = sample(num_positions=64, num_rows=3 * CUT_ROWS, dim=2)
    with Watch():
        cut_softmax(vectors, targets, items).backward()
    assert max(sizes) <= 64 * CUT_ROWS
    sizes.clear()
    with Watch():
        full_softmax(vectors, targets, items).backward()
    assert max(sizes) > 2 * 64 * CUT_ROWS


def plain(loss: str, vectors, targets, items, negatives, log_chance) -> float:
    """Return a loss as its paper writes it, one position and one negative after another."""
    total, pairs = 0.0, 0
    for vector, target in zip(vectors, targets.tolist(), strict=True):
        others = [row for row in negatives.tolist() if row != target]
        score = {row: float(vector @ items[row]) for row in {target, *others}}
        if loss == "softmax":
            weight = {row: math.exp(score[row] - float(log_chance[row])) for row in score}
            everything = weight[target] + sum(weight[row] for row in others)
            total -= math.log(weight[target] / everything)
        elif loss == "bpr":
            for row in others:
                total += math.log(1 + math.exp(score[row] - score[target]))
            pairs += len(others)
        else:
            drawn = len(negatives) / (len(items) - 2)
            beta = drawn * (0.75 * (1 - 1 / drawn) + 1 / drawn) if loss == "gbce" else 1.0
            one = beta * math.log(1 / (1 + math.exp(-score[target])))
            one += sum(math.log(1 - 1 / (1 + math.exp(-score[row]))) for row in others)
            total -= one / (len(negatives) + 1)
    return total / (pairs or len(vectors))


@pytest.mark.parametrize("loss", ["softmax", "bce", "gbce", "bpr"])
def test_sampled_losses_are_those_of_their_papers(loss: str) -> None:
    vectors, targets, items = sample()
    negatives = torch.tensor([int(targets[0]), 5, 9, 9, 14])
    log_chance = log_chances(torch.arange(23.0)).double()
    found = {
        "softmax": lambda *given, rows: sampled_softmax(*given, rows, log_chance),
        "bce": lambda *given, rows: binary_cross_entropy(*given, rows[None]),
        "gbce": lambda *given, rows: binary_cross_entropy(
            *given, rows[None], exponent=calibration(5, 22)
        ),
        "bpr": lambda *given, rows: pairwise(*given, rows),
    }[loss](vectors, targets, items, rows=negatives)
    expected = plain(loss, vectors.detach(), targets, items.detach(), negatives, log_chance)
    assert found.item() == pytest.approx(expected)


@pytest.mark.parametrize("groups", [1, 2, 3, 5])
def test_runs_of_positions_have_negatives_of_their_own(groups: int) -> None:
    vectors, targets, items = sample()
    negatives = torch.randint(1, 23, (groups, 5), generator=torch.Generator().manual_seed(1))
    run = -(-len(vectors) // groups)
    expected = 0.0
    for group in range(groups):
        part = slice(group * run, min((group + 1) * run, len(vectors)))
        told = vectors.detach()[part], targets[part], items.detach(), negatives[group], None
        if len(told[0]):
            expected += plain("bce", *told) * len(told[0])
    found = binary_cross_entropy(vectors, targets, items, negatives)
    assert found.item() == pytest.approx(expected / len(vectors))


def test_the_correction_takes_away_what_sampling_adds() -> None:
    """Many draws by popularity, corrected, come to the softmax over all items."""
    vectors, _, items = (x.detach() for x in sample())
    counts = torch.arange(23.0) ** 2
    chances = log_chances(counts).double()
    generator = torch.Generator().manual_seed(0)
    drawn = torch.multinomial(chances.exp(), 200_000, replacement=True, generator=generator)

    def total(log_chance):
        corrected = (vectors[:1] @ items[drawn].T).squeeze(0) - log_chance[drawn]
        return corrected.logsumexp(0) - math.log(len(drawn))

    exact = (vectors[:1] @ items[1:].T).logsumexp(1)[0]
    assert total(chances).item() == pytest.approx(exact.item(), abs=0.02)
    assert abs(total(torch.full((23,), -math.log(22.0))) - exact) > 0.1
