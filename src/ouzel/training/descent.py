"""Training of graph models: Adam over batches of edges, each told apart from shared negatives.

Shape legend: E = edges, T = edges of a batch, K = negatives.
"""

from __future__ import annotations

import numpy as np
import torch

from ouzel.features.matrix import Matrix
from ouzel.models.graph_encoder import GraphEncoder, Links
from ouzel.training.losses import full_softmax, sampled_softmax
from ouzel.training.repeatable import repeatable
from ouzel.training.samplers import uniform_negatives


class Descent:
    """The training of one model on one matrix, an epoch at a time.

    >>> from ouzel.models.graph.lightgcn import LightGCN, LightGCNConfig
    >>> matrix = Matrix(np.array([0, 2]), np.array([1, 2], np.int32), 3)
    >>> model = LightGCN.build(LightGCNConfig(dim=2), num_rows=3)
    >>> descent = Descent(model, matrix, seed=0)
    >>> descent.epoch() > descent.epoch()
    True
    """

    def __init__(self, model: GraphEncoder, matrix: Matrix, *, seed: int) -> None:
        """Raises: ValueError if the matrix is of another catalogue than the model."""
        if matrix.num_rows != model.items.num_embeddings:
            raise ValueError(
                f"the matrix has {matrix.num_rows} rows, the model {model.items.num_embeddings}: "
                "give the matrix of its catalogue"
            )
        self.model = model
        self.matrix = matrix
        self.links = Links.of(matrix)
        self.users_E = torch.from_numpy(matrix.users_E())
        self.rows_E = torch.from_numpy(matrix.rows_E.astype(np.int64))
        self.optimizer = torch.optim.Adam(model.parameters(), lr=model.config.learning_rate)
        self.rng = np.random.default_rng(seed)

    def epoch(self) -> float:
        """Return the mean loss of an edge; the model is settled after that."""
        order = torch.from_numpy(self.rng.permutation(len(self.rows_E)))
        total = 0.0
        with repeatable():
            size = self.model.config.batch_size
            for start in range(0, len(order), size):
                batch_T = order[start : start + size]
                total += len(batch_T) * self._step(batch_T)
            self.model.settle(self.matrix)
        return total / len(order)

    def _step(self, batch_T: torch.Tensor) -> float:
        users_UD, items_ND = self.model(self.links)
        vectors_TD, targets_T = users_UD[self.users_E[batch_T]], self.rows_E[batch_T]
        if self.model.config.num_negatives >= self.matrix.num_rows - 1:
            loss = full_softmax(vectors_TD, targets_T, items_ND)
        else:
            negatives_K = uniform_negatives(
                self.rng, num_rows=self.matrix.num_rows, count=self.model.config.num_negatives
            )
            loss = sampled_softmax(vectors_TD, targets_T, items_ND, torch.from_numpy(negatives_K))
        self.optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()
        return loss.item()
