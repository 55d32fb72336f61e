"""FTRL-Proximal: a learning rate and a memory for each coordinate, and weights that are exactly 0.

For a coordinate with gradient g, sums z and n of what came before and weight w:

    s = (sqrt(n + g^2) - sqrt(n)) / alpha,    z += g - s w,    n += g^2
    w = 0 if |z| <= l1, else -(z - sign(z) l1) / ((beta + sqrt(n)) / alpha + l2)

A coordinate that has no gradient stays as it is, so an id costs nothing until it occurs.

References:
    McMahan et al., "Ad Click Prediction: a View from the Trenches", KDD 2013, algorithm 1.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer


class FTRL(Optimizer):
    """The optimiser over parameters whose gradients are sums over examples, not means.

    >>> weight = torch.nn.Parameter(torch.zeros(2))
    >>> optimizer = FTRL([weight], alpha=1.0, beta=1.0, l1=1.0, l2=0.0)
    >>> weight.grad = torch.tensor([-3.0, 0.5])
    >>> optimizer.step()
    >>> weight.tolist()  # (3 - 1) / (1 + 3), and one that l1 holds at 0
    [0.5, -0.0]
    """

    def __init__(
        self, params: Iterable[Tensor], *, alpha: float, beta: float, l1: float, l2: float
    ) -> None:
        if not alpha > 0 or beta < 0 or l1 < 0 or l2 < 0:
            raise ValueError(
                f"alpha is {alpha}, beta {beta}, l1 {l1}, l2 {l2}: give alpha more than 0 and the "
                "others 0 or more"
            )
        super().__init__(params, {"alpha": alpha, "beta": beta, "l1": l1, "l2": l2})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Move every weight by its own rate."""
        for group in self.param_groups:
            for weight in group["params"]:
                if weight.grad is not None:
                    _move(weight, self.state[weight], group)


def _move(weight: Tensor, sums: dict[str, Tensor], group: dict[str, Any]) -> None:
    if not sums:
        # A weight to start from is kept as the z that would have led to it.
        sums["n"] = torch.zeros_like(weight)
        sums["z"] = -weight * (group["beta"] / group["alpha"] + group["l2"])
        sums["z"] += torch.sign(sums["z"]) * group["l1"]
    gradient, n, z = weight.grad, sums["n"], sums["z"]
    assert gradient is not None
    grown = n + gradient.square()
    z += gradient - (grown.sqrt() - n.sqrt()) / group["alpha"] * weight
    n.copy_(grown)
    rate = (group["beta"] + n.sqrt()) / group["alpha"] + group["l2"]
    weight.copy_(-torch.sign(z) * (z.abs() - group["l1"]).clamp(min=0) / rate)
