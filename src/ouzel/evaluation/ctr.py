"""Metrics of predictions of what happened: which of two is likelier, and how sure to be of it.

Shape legend: E = examples.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def auc(labels_E: NDArray[np.floating], scores_E: NDArray[np.floating]) -> float:
    """Return how often an example with label 1 scores above one with label 0; ties count half.

    Raises:
        ValueError: a score is NaN, a label is neither 0 nor 1, or all labels are the same.

    References:
        Fawcett, "An introduction to ROC analysis", Pattern Recognition Letters 2006.

    >>> auc(np.array([1.0, 0, 1, 0]), np.array([3.0, 1, 2, 2]))
    0.875
    """
    positive_E = _positive(labels_E, scores_E)
    num_positive = int(np.count_nonzero(positive_E))
    num_negative = len(positive_E) - num_positive
    if not num_positive or not num_negative:
        raise ValueError("all labels are the same: AUC compares examples of both")
    _, inverse, counts = np.unique(scores_E, return_inverse=True, return_counts=True)
    ranks = np.cumsum(counts) - (counts - 1) / 2  # of equal scores the mean
    above = ranks[inverse][positive_E].sum() - num_positive * (num_positive + 1) / 2
    return float(above / (num_positive * num_negative))


def logloss(labels_E: NDArray[np.floating], logits_E: NDArray[np.floating]) -> float:
    """Return the mean of -log of the probability that was given to what happened.

    Raises:
        ValueError: a logit is NaN, or a label is neither 0 nor 1.

    >>> round(logloss(np.array([1.0, 0]), np.array([0.0, 0.0])), 4)
    0.6931
    """
    positive_E = _positive(labels_E, logits_E)
    signed_E = np.where(positive_E, logits_E, -logits_E).astype(np.float64)
    return float(np.logaddexp(0, -signed_E).mean())


def _positive(labels_E: NDArray[np.floating], scores_E: NDArray[np.floating]) -> NDArray[np.bool_]:
    if labels_E.shape != scores_E.shape or labels_E.ndim != 1 or not len(labels_E):
        raise ValueError(
            f"labels have shape {labels_E.shape}, scores {scores_E.shape}: give one of each"
        )
    if np.isnan(scores_E).any():
        raise ValueError("a score is NaN, so nothing can be compared: look at the model's training")
    if not np.isin(labels_E, (0, 1)).all():
        raise ValueError("a label is neither 0 nor 1: leave out what is not known")
    return np.asarray(labels_E == 1)
