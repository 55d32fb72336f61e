"""EASE: the linear model in which each item is foretold by all others, in closed form.

B minimises |X - X B|^2 + l2 |B|^2 with a diagonal of zeros, so that no item foretells itself. With
P = (X^T X + l2 I)^-1 that is B_ij = -P_ij / P_jj for i != j. A user's scores are the line of the
items seen, times B.

Who asks to be forgotten is taken out of P exactly, without fitting again, by the identity of
Sherman, Morrison and Woodbury: for the lines Y (k, N) that leave,
P' = P + P Y^T (I - Y P Y^T)^-1 Y P.

Cost: fit is N^3 multiply-adds and two arrays (N, N) of float32 (20,000 items: 3.2 GiB), beside the
sum of the squared lengths of histories; forgetting k users 2 k N^2. Serving keeps the `keep`
weights of largest size from each item and adds up `keep` numbers per event of the history.

References:
    Steck, "Embarrassingly Shallow Autoencoders for Sparse Data", WWW 2019. Sherman and Morrison,
    "Adjustment of an Inverse Matrix Corresponding to a Change in One Element of a Given Matrix",
    1950.

Shape legend: N = catalogue rows with the padding row 0, k = users, W = weights kept.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ouzel.features.matrix import Matrix, cooccurrences
from ouzel.models.about import About
from ouzel.models.closed_form import ClosedForm, ItemWeights, check_kept


@dataclass(frozen=True, kw_only=True)
class EASEConfig:
    """How the model is fitted; every field changes what is computed."""

    l2: float = 500.0
    """What is added to the diagonal: more of it trusts rare items less."""
    keep: int = 300
    """Weights of each row that are kept for serving, those of largest size."""
    half_life: float | None = 5.0
    """After how many events one counts half as much in a request; None: all count alike."""

    def __post_init__(self) -> None:
        check_kept(self.keep, self.half_life)
        if not self.l2 > 0:
            raise ValueError(f"l2 is {self.l2}: give more than 0")


PRESETS = {"S": EASEConfig()}


class EASE(ClosedForm):
    """The model over catalogue rows; the module's docstring says how it works."""

    name = "ease"
    about = About(
        paper="Steck, WWW 2019",
        cost="one inverse of an items x items matrix; a request adds a few sparse rows",
        use="up to about 20,000 items, an answer in seconds to minutes, taste more than order",
    )
    presets = PRESETS
    config: EASEConfig

    def __init__(self, config: EASEConfig, inverse: Tensor) -> None:
        """Make the model of P (N - 1, N - 1), the padding row left out."""
        super().__init__(config, _largest(inverse, config.keep))
        self.inverse = inverse

    @classmethod
    def fit(cls, matrix: Matrix, config: EASEConfig) -> Self:
        """Return the model of `matrix`.

        Raises:
            ValueError: there are fewer than two items, too many for the memory of this machine, or
                too little `l2` to tell them apart.
        """
        if matrix.num_rows < 3:
            raise ValueError("ease foretells items by other items, and there is one: add items")
        _check_memory(matrix.num_rows - 1)
        gram = torch.zeros(matrix.num_rows - 1, matrix.num_rows - 1)
        flat = gram.view(-1).numpy()
        for rows, others, counts in cooccurrences(matrix):
            flat[(rows - 1) * (matrix.num_rows - 1) + others - 1] = counts
        if config.l2 < torch.finfo(torch.float32).eps * float(gram.diagonal().max()):
            raise ValueError(f"l2 is {config.l2}: items seen as often as these need more of it")
        gram.diagonal().add_(config.l2)
        return cls(config, _inverted(gram))

    def without(self, lines: Sequence[NDArray[np.int32]]) -> Self:
        """Return the model as if users with these rows, each distinct, had never been in the data.

        Raises:
            ValueError: a row is outside the catalogue, or the lines were never in the data.
        """
        leaving = torch.zeros(len(lines), len(self.inverse))
        for line, rows in zip(leaving, lines, strict=True):
            if len(rows) and not 0 < rows.min() <= rows.max() <= len(self.inverse):
                raise ValueError(f"rows {rows.tolist()}: give rows from 1 to {len(self.inverse)}")
            line[torch.from_numpy(rows.astype(np.int64)) - 1] = 1
        reach = leaving @ self.inverse
        inner = torch.eye(len(lines)) - reach @ leaving.T
        if not torch.linalg.eigvalsh(inner).min() > 0:
            raise ValueError("these users were not in the data: give the rows they were there with")
        gone = reach.T @ torch.linalg.solve(inner, reach)
        return type(self)(self.config, self.inverse + gone)


def _inverted(gram: Tensor) -> Tensor:
    """Return the inverse of a positive matrix; its memory is used up.

    Raises:
        ValueError: it is not positive in float32.
    """
    try:
        factor = torch.linalg.cholesky(gram, out=gram)
    except torch.linalg.LinAlgError:  # type: ignore[attr-defined]
        raise ValueError("some items are always seen together: give more l2") from None
    return torch.cholesky_inverse(factor)


def _check_memory(num_items: int) -> None:
    needed = 8 * num_items**2
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if needed > memory:
        raise ValueError(
            f"ease needs {needed / 2**30:,.0f} GiB for {num_items:,} items and this machine has "
            f"{memory / 2**30:,.0f}: take item_knn or ials, or leave rare items out with k_core"
        )


def _largest(inverse: Tensor, keep: int) -> ItemWeights:
    """Return the weights B, of each row the `keep` of largest size."""
    num_items, diagonal = len(inverse), inverse.diagonal()
    keep = min(keep, num_items - 1)
    rows_NK, values_NK = np.empty((num_items, keep), np.int32), np.empty((num_items, keep), "f4")
    for first in range(0, num_items, 1024):
        part = inverse[first : first + 1024] / -diagonal
        part[torch.arange(len(part)), torch.arange(first, first + len(part))] = 0
        places = part.abs().topk(keep, dim=1).indices.sort(dim=1).values
        rows_NK[first : first + 1024] = places.numpy() + 1
        values_NK[first : first + 1024] = part.gather(1, places).numpy()
    offsets = np.concatenate([[0, 0], np.arange(1, num_items + 1) * keep]).astype(np.int64)
    return ItemWeights(offsets, rows_NK.ravel(), values_NK.ravel())
