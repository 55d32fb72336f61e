"""Losses as functions of vectors and targets.

Shape legend: T = positions with a target, D = vector size, N = catalogue rows, K = negatives.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional


def full_softmax(vectors_TD: Tensor, targets_T: Tensor, items_ND: Tensor) -> Tensor:
    """Return the mean cross-entropy of the targets against every item; row 0 is no item.

    >>> user, items_ND = torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 0.0], [9, 0], [0, 9]])
    >>> [full_softmax(user, torch.tensor([row]), items_ND).round().item() for row in (1, 2)]
    [0.0, 9.0]
    """
    return functional.cross_entropy(vectors_TD @ items_ND[1:].T, targets_T - 1)


def sampled_softmax(
    vectors_TD: Tensor, targets_T: Tensor, items_ND: Tensor, negatives_K: Tensor
) -> Tensor:
    """Return the mean cross-entropy of each target against the shared `negatives_K`.

    A negative that is the target itself does not count against it. With uniform negatives the
    usual log-Q correction is the same for all of them and is left out.

    References:
        Jean et al., "On Using Very Large Target Vocabulary for Neural Machine Translation", 2015.

    >>> user, items_ND = torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 0.0], [9, 0], [0, 9]])
    >>> target_T, negatives_K = torch.tensor([1]), torch.tensor([1])
    >>> sampled_softmax(user, target_T, items_ND, negatives_K).item()  # only the target was drawn
    0.0
    """
    positive_T = (vectors_TD * items_ND[targets_T]).sum(-1)
    logits_TK = vectors_TD @ items_ND[negatives_K].T
    same_TK = targets_T.unsqueeze(1) == negatives_K.unsqueeze(0)
    logits_TK = logits_TK.masked_fill(same_TK, -torch.inf)
    everything = torch.cat([positive_T.unsqueeze(1), logits_TK], dim=1)
    return (torch.logsumexp(everything, dim=1) - positive_T).mean()
