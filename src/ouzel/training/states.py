"""The states of a frozen sequence model at chosen positions of histories, as a ranker reads them.

Shape legend: B = positions, L = length, D = dim, H = heads, E = D / H, N = catalogue rows.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ouzel.models.protocols import Ranker, SequenceEncoder


@dataclass(frozen=True)
class States:
    """User vectors and states at B positions.

    `keys` (B, H, E, L) and `values` (B, H, L, E) of the last layer; the first `length_B` count.
    """

    query_BD: Tensor
    now_B: Tensor
    length_B: Tensor
    keys: Tensor
    values: Tensor


@torch.no_grad()
def read_states(
    model: SequenceEncoder,
    inputs: tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]],
    chosen: tuple[NDArray[np.int64], NDArray[np.int64]],
) -> States:
    """Return the states after the events at `chosen` (lines, columns) of padded histories.

    `inputs` are rows, times and request times, (lines, L) each, with L at most the model's window.

    >>> from ouzel.models.sequence.esasrec import ESASRec, ESASRecConfig
    >>> model = ESASRec(ESASRecConfig(dim=8, num_layers=1), num_rows=4)
    >>> rows_BL = np.array([[1, 2, 3]])
    >>> chosen = (np.array([0, 0]), np.array([0, 2]))
    >>> states = read_states(model, (rows_BL, 10 * rows_BL, 11 * rows_BL), chosen)
    >>> states.now_B.tolist(), states.length_B.tolist()
    ([11, 33], [1, 3])
    """
    rows_BL, times_BL, requests_BL = map(torch.from_numpy, inputs)
    lines, columns = map(torch.from_numpy, chosen)
    length = torch.full((len(rows_BL),), rows_BL.shape[1])
    vectors_BLD = model(rows_BL, times_BL, requests_BL)
    start = torch.zeros_like(length)
    *_, keys, values, _ = model.encode(rows_BL, times_BL, length, start, model.items.weight)
    return States(
        vectors_BLD[lines, columns],
        requests_BL[lines, columns],
        columns + 1,
        keys.permute(0, 2, 3, 1)[lines],
        values.permute(0, 2, 1, 3)[lines],
    )


def rank_states(
    ranker: Ranker, states: States, candidates_BC: Tensor, vectors_ND: Tensor
) -> Tensor:
    """Return the ranker's logits (B, C, A) of candidate rows.

    >>> from ouzel.models.ranking import TargetAttention
    >>> from ouzel.models.sequence.esasrec import ESASRecConfig
    >>> ranker = TargetAttention.build(ESASRecConfig(dim=8, num_heads=1), ("interact",), num_rows=4)
    >>> one = torch.ones(1, dtype=torch.int64)
    >>> states = States(torch.ones(1, 8), one, one, torch.ones(1, 1, 8, 2), torch.ones(1, 1, 2, 8))
    >>> rank_states(ranker, states, torch.tensor([[1, 3]]), torch.eye(4, 8)).shape
    torch.Size([1, 2, 1])
    """
    rows_M, places_BC = torch.unique(candidates_BC, return_inverse=True)
    vectors_MD = vectors_ND[rows_M]
    lines_MF = ranker.item_lines(rows_M, vectors_MD)
    logits: Tensor = ranker(
        states.query_BD,
        states.now_B,
        states.length_B,
        vectors_MD[places_BC],
        lines_MF[places_BC],
        states.keys,
        states.values,
    )
    return logits
