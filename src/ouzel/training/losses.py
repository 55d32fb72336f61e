"""Losses as functions of vectors and targets; `ouzel.training.objectives` gives them their names.

A score is the inner product of a user vector and an item vector, whatever the model makes of both
(see `ouzel.models.layers.similarity`). A negative that is the target itself counts for nothing.

Shape legend: T = positions with a target, D = vector size, N = item vectors, K = negatives, which
all positions share.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

LOGITS_AT_ONCE = 1 << 20
"""How many logits `full_softmax` holds at once, 4 MB."""

FEWEST_POSITIONS = 16
"""At least so many positions are scored together, however many items there are."""

CUT_ROWS = 4096
"""How many items `cut_softmax` scores at once."""


def full_softmax(vectors_TD: Tensor, targets_T: Tensor, items_ND: Tensor) -> Tensor:
    """Return the mean cross-entropy of the targets against every item; row 0 is no item.

    A few positions at a time, with the gradient in the same go: their logits stay in the cache of
    the core, which takes half as long as going over all (T, N) several times.

    >>> user, items_ND = torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 0.0], [9, 0], [0, 9]])
    >>> [full_softmax(user, torch.tensor([row]), items_ND).round().item() for row in (1, 2)]
    [0.0, 9.0]
    """
    loss: Tensor = _CrossEntropy.apply(vectors_TD, targets_T, items_ND)  # type: ignore[no-untyped-call]
    return loss


class _CrossEntropy(torch.autograd.Function):
    """The mean over positions of log sum exp(score) less the target's score, without row 0."""

    @staticmethod
    def forward(ctx: Any, vectors_TD: Tensor, targets_T: Tensor, items_ND: Tensor) -> Tensor:
        items = items_ND[1:]
        to_vectors, to_items = torch.empty_like(vectors_TD), torch.zeros_like(items_ND)
        size = max(FEWEST_POSITIONS, LOGITS_AT_ONCE // len(items))
        room = vectors_TD.new_empty(min(size, len(vectors_TD)), len(items))
        losses = []
        for start in range(0, len(vectors_TD), size):
            vectors, targets = vectors_TD[start : start + size], targets_T[start : start + size] - 1
            scores = torch.mm(vectors, items.T, out=room[: len(vectors)])
            own = scores.gather(1, targets.unsqueeze(1))
            peak = scores.amax(1, keepdim=True)
            total = scores.sub_(peak).exp_().sum(1, keepdim=True)
            losses.append(total.log() + peak - own)
            # What is left of the chances is the gradient with respect to the scores.
            chances = scores.div_(total)
            chances.scatter_add_(1, targets.unsqueeze(1), torch.full_like(own, -1.0))
            torch.mm(chances, items, out=to_vectors[start : start + size])
            to_items[1:].addmm_(chances.T, vectors)
        count = len(vectors_TD)
        ctx.save_for_backward(to_vectors.div_(count), to_items.div_(count))
        return torch.cat(losses).mean()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, Tensor]:
        to_vectors, to_items = ctx.saved_tensors
        return to_vectors * gradients[0], None, to_items * gradients[0]


def cut_softmax(vectors_TD: Tensor, targets_T: Tensor, items_ND: Tensor) -> Tensor:
    """Return what `full_softmax` does, from `CUT_ROWS` items at a time.

    The logits (T, N) are never held, neither here nor for the gradient, which makes them anew: the
    memory is that of the tables and of T x CUT_ROWS numbers, the work one and a half times as much.

    References:
        Wijmans et al., "Cut Your Losses in Large-Vocabulary Language Models" (CCE), ICLR 2025.

    >>> user, items_ND = torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 0.0], [9, 0], [0, 9]])
    >>> cut_softmax(user, torch.tensor([2]), items_ND).round().item()
    9.0
    """
    log_total_T: Tensor = _LogTotal.apply(vectors_TD, items_ND)  # type: ignore[no-untyped-call]
    return (log_total_T - _own(vectors_TD, targets_T, items_ND)).mean()


class _LogTotal(torch.autograd.Function):
    """The logarithm of the sum of exp(score) over all rows but row 0."""

    @staticmethod
    def forward(ctx: Any, vectors_TD: Tensor, items_ND: Tensor) -> Tensor:
        total_T = torch.full_like(vectors_TD[:, 0], -torch.inf)
        for start in range(1, len(items_ND), CUT_ROWS):
            rows = items_ND[start : start + CUT_ROWS]
            total_T = torch.logaddexp(total_T, (vectors_TD @ rows.T).logsumexp(1))
        ctx.save_for_backward(vectors_TD, items_ND, total_T)
        return total_T

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor]:
        vectors_TD, items_ND, total_T = ctx.saved_tensors
        to_vectors, to_items = torch.zeros_like(vectors_TD), torch.zeros_like(items_ND)
        for start in range(1, len(items_ND), CUT_ROWS):
            rows = items_ND[start : start + CUT_ROWS]
            share = (vectors_TD @ rows.T).sub_(total_T.unsqueeze(1)).exp_()
            share.mul_(gradients[0].unsqueeze(1))
            to_vectors.addmm_(share, rows)
            torch.mm(share.T, vectors_TD, out=to_items[start : start + CUT_ROWS])
        return to_vectors, to_items


def sampled_softmax(
    vectors_TD: Tensor,
    targets_T: Tensor,
    items_ND: Tensor,
    negatives_K: Tensor,
    log_chance_N: Tensor | None = None,
) -> Tensor:
    """Return the mean cross-entropy of each target against the shared `negatives_K`.

    `log_chance_N` is the log-probability with which each item is drawn; scores are corrected by it
    (log-Q), so that items drawn often are not pushed down for it. With uniform negatives the
    correction is the same for all of them and is left out.

    References:
        Jean et al., "On Using Very Large Target Vocabulary for Neural Machine Translation", 2015.
        Yi et al., "Sampling-Bias-Corrected Neural Modeling for Large Corpus Item Recommendations",
        RecSys 2019, for negatives from the batch.

    >>> user, items_ND = torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 0.0], [9, 0], [0, 9]])
    >>> target_T, negatives_K = torch.tensor([1]), torch.tensor([1])
    >>> sampled_softmax(user, target_T, items_ND, negatives_K).item()  # only the target was drawn
    0.0
    """
    positive_T = _own(vectors_TD, targets_T, items_ND)
    logits_TK = vectors_TD @ items_ND[negatives_K].T
    if log_chance_N is not None:
        positive_T = positive_T - log_chance_N[targets_T]
        logits_TK = logits_TK - log_chance_N[negatives_K]
    logits_TK = logits_TK.masked_fill(_same(targets_T, negatives_K), -torch.inf)
    everything = torch.cat([positive_T.unsqueeze(1), logits_TK], dim=1)
    return (torch.logsumexp(everything, dim=1) - positive_T).mean()


def binary_cross_entropy(
    vectors_TD: Tensor,
    targets_T: Tensor,
    items_ND: Tensor,
    negatives_GK: Tensor,
    *,
    exponent: float = 1.0,
) -> Tensor:
    """Return the mean of -(e log p(target) + sum of log(1 - p(negative))) / (K + 1), p = sigmoid.

    The positions fall into G runs of equal length, the last one may be shorter, and each run has
    negatives of its own. With an `exponent` e below 1 (see `calibration`) this is gBCE.

    References:
        Kang and McAuley, "Self-Attentive Sequential Recommendation", ICDM 2018. Petrov and
        Macdonald, "gSASRec: Reducing Overconfidence in Sequential Recommendation Trained with
        Negative Sampling", RecSys 2023.

    >>> user, items_ND = torch.tensor([[1.0, 0.0]]), torch.zeros(3, 2)
    >>> loss = binary_cross_entropy(user, torch.tensor([1]), items_ND, torch.tensor([[2]]))
    >>> round(loss.item(), 4)  # both are even chances
    0.6931
    """
    positive_T = functional.logsigmoid(_own(vectors_TD, targets_T, items_ND))
    count, groups = len(vectors_TD), len(negatives_GK)
    run = -(-count // groups)
    missing = run * groups - count
    vectors_GRD = functional.pad(vectors_TD, (0, 0, 0, missing)).view(groups, run, -1)
    targets_GR = functional.pad(targets_T, (0, missing)).view(groups, run)
    logits_GRK = vectors_GRD @ items_ND[negatives_GK].transpose(1, 2)
    same_GRK = targets_GR.unsqueeze(2) == negatives_GK.unsqueeze(1)
    negative_GR = functional.logsigmoid(-logits_GRK).masked_fill(same_GRK, 0.0).sum(2)
    negative_T = negative_GR.flatten()[:count]
    return -(exponent * positive_T + negative_T).mean() / (negatives_GK.shape[1] + 1)


def calibration(num_negatives: int, num_items: int, *, share: float = 0.75) -> float:
    """Return the exponent of gBCE for uniform negatives: b = a (t (1 - 1 / a) + 1 / a).

    a = K / (N - 1) is the share of the other items that is drawn; t = `share` says how much of the
    overconfidence that sampling brings is taken away: 0 is plain cross-entropy, 1 all.

    >>> calibration(99, 100), calibration(10, 1001, share=1.0), calibration(10, 1001, share=0.0)
    (1.0, 0.01, 1.0)
    """
    drawn = min(1.0, num_negatives / max(1, num_items - 1))
    return drawn * (share * (1 - 1 / drawn) + 1 / drawn)


def pairwise(
    vectors_TD: Tensor, targets_T: Tensor, items_ND: Tensor, negatives_K: Tensor
) -> Tensor:
    """Return the mean of -log sigmoid(score of the target - score of a negative): BPR.

    References:
        Rendle et al., "BPR: Bayesian Personalized Ranking from Implicit Feedback", UAI 2009.

    >>> user, items_ND = torch.tensor([[1.0, 0.0]]), torch.zeros(3, 2)
    >>> round(pairwise(user, torch.tensor([1]), items_ND, torch.tensor([2])).item(), 4)
    0.6931
    """
    lead_TK = _own(vectors_TD, targets_T, items_ND).unsqueeze(1) - (
        vectors_TD @ items_ND[negatives_K].T
    )
    other_TK = ~_same(targets_T, negatives_K)
    return -(functional.logsigmoid(lead_TK) * other_TK).sum() / other_TK.sum().clamp(min=1)


def log_chances(counts_N: Tensor, *, power: float = 1.0) -> Tensor:
    """Return the log-probability of each row to be drawn by its count plus one, to a power.

    Row 0 is never drawn.

    >>> log_chances(torch.tensor([0.0, 0.0, 2.0])).exp().round(decimals=2).tolist()
    [0.0, 0.25, 0.75]
    """
    weights = (counts_N.double() + 1).pow(power)
    weights[0] = 0.0
    return (weights / weights.sum()).log().float()


def _own(vectors_TD: Tensor, targets_T: Tensor, items_ND: Tensor) -> Tensor:
    return (vectors_TD * items_ND[targets_T]).sum(-1)


def _same(targets_T: Tensor, negatives_K: Tensor) -> Tensor:
    return targets_T.unsqueeze(1) == negatives_K.unsqueeze(0)
