"""Item-kNN: items that the same people had to do with.

The similarity of items i and j is s_ij = c_ij / (sqrt(n_i n_j) + shrink), where c_ij is the sum of
weights of the users who have both, n_i = c_ii, and `shrink` makes likeness on few users count for
less. The weight of a user with m items is (1 + k1) / (1 + k1 (1 - b + b m / mean m)), as BM25
weighs long documents: who has seen everything says little about what goes together; k1 = 0 lets all
users weigh 1, which is the cosine.

Cost: the sum of the squared lengths of histories in time; memory is what is found, cut to `keep`
neighbours an item. A request adds `keep` numbers per event of the history.

References:
    Sarwar et al., "Item-based Collaborative Filtering Recommendation Algorithms", WWW 2001.
    Robertson and Zaragoza, "The Probabilistic Relevance Framework: BM25 and Beyond", 2009.
    Ferrari Dacrema et al., "Are We Really Making Much Progress?", RecSys 2019, for its strength.

Shape legend: N = catalogue rows with the padding row 0, U = users, W = weights kept.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from ouzel.features.matrix import Matrix, cooccurrences
from ouzel.models.about import About
from ouzel.models.closed_form import ClosedForm, ItemWeights, check_kept


@dataclass(frozen=True, kw_only=True)
class ItemKNNConfig:
    """How likeness is measured; every field changes what is computed."""

    shrink: float = 10.0
    """What is added to every denominator."""
    k1: float = 1.0
    """How much the number of a user's items matters; 0: not at all."""
    b: float = 0.75
    """How far a user's weight goes by that number, 0 to 1."""
    keep: int = 200
    """Neighbours of each row."""
    half_life: float | None = 2.0
    """After how many events one counts half as much in a request; None: all count alike."""

    def __post_init__(self) -> None:
        check_kept(self.keep, self.half_life)
        if self.shrink < 0 or self.k1 < 0:
            raise ValueError(f"shrink is {self.shrink}, k1 is {self.k1}: give 0 or more")
        if not 0 <= self.b <= 1:
            raise ValueError(f"b is {self.b}: give 0 to 1")


PRESETS = {"S": ItemKNNConfig()}


class ItemKNN(ClosedForm):
    """The model over catalogue rows; the module's docstring says how it works."""

    name = "item_knn"
    about = About(
        paper="Sarwar et al., WWW 2001",
        cost="one count of pairs; a request adds a few sparse rows",
        use="a strong and simple first model, of any catalogue, explained by what was seen",
    )
    presets = PRESETS
    config: ItemKNNConfig

    @classmethod
    def fit(cls, matrix: Matrix, config: ItemKNNConfig) -> Self:
        """Return the model of `matrix`.

        Raises:
            ValueError: there are fewer than two items.
        """
        if matrix.num_rows < 3:
            raise ValueError("item_knn compares items, and there is one: add items")
        weights_U = _user_weights(matrix.lengths_U(), k1=config.k1, b=config.b)
        sizes_N = np.bincount(matrix.rows_E, weights_U[matrix.users_E()], minlength=matrix.num_rows)
        parts = []
        for rows, others, counts in cooccurrences(matrix, weights_U):
            likeness = counts / (np.sqrt(sizes_N[rows] * sizes_N[others]) + config.shrink)
            parts.append(_nearest(rows, others, likeness, config.keep))
        rows, others, values = (np.concatenate(columns) for columns in zip(*parts, strict=True))
        lengths_N = np.bincount(rows, minlength=matrix.num_rows)
        offsets = np.concatenate([[0], np.cumsum(lengths_N)]).astype(np.int64)
        return cls(config, ItemWeights(offsets, others.astype(np.int32), values.astype(np.float32)))


def _user_weights(lengths_U: NDArray[np.int64], *, k1: float, b: float) -> NDArray[np.float64]:
    mean = lengths_U[lengths_U > 0].mean()
    return np.asarray((1 + k1) / (1 + k1 * (1 - b + b * lengths_U / mean)), np.float64)


def _nearest(
    rows: NDArray[np.int64], others: NDArray[np.int64], values: NDArray[np.float64], keep: int
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]:
    """Return of each row the `keep` others of largest value, itself left out, ascending."""
    apart = rows != others
    rows, others, values = rows[apart], others[apart], values[apart]
    order = np.lexsort((others, -values, rows))
    starts = np.searchsorted(rows, rows)
    kept = np.sort(order[np.arange(len(order)) - starts < keep])
    return rows[kept], others[kept], values[kept]
