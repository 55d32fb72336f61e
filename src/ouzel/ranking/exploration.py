"""Places drawn by chance, each with the probability that it had.

The list is a draw of the Plackett-Luce model: each place goes to one of the items left, with a
probability in proportion to exp(gain / temperature). The largest of gain / temperature plus Gumbel
noise is such a draw.
Shape legend: K = candidates.

References:
    Plackett: The Analysis of Permutations, Applied Statistics 24, 1975.
    Yellott: The relationship between Luce's choice axiom, Thurstone's theory of comparative
    judgment, and the double exponential distribution, J. Mathematical Psychology 15, 1977.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def draw(
    gains_K: NDArray[np.float64], temperature: float, random: np.random.Generator
) -> tuple[int, float]:
    """Return a candidate drawn for a place, and the probability with which it was drawn.

    Candidates with a gain of -inf are never drawn; one at least has another.

    >>> draw(np.array([0.0, -np.inf]), 1.0, np.random.default_rng(1))
    (0, 1.0)
    """
    logits_K = (gains_K - gains_K.max()) / temperature
    chosen = int(np.argmax(logits_K + random.gumbel(size=len(logits_K))))
    return chosen, float(np.exp(logits_K[chosen]) / np.exp(logits_K).sum())
