"""Fits a ranker on the frozen states of a sequence model.

A step takes the newest window of some users, lets the sequence model make states and user vectors
of all its positions, and draws the same number of each user: who has a long history asks no more
often. At each position the ranker is to tell the event that came next from what retrieval would
have put before it: a sample of the best items of the model's own search, the better the likelier.

Each action has a softmax of its own, over the positions at which it happened.

References:
    Kool et al., "Stochastic Beams and Where to Find Them", ICML 2019, for samples without
    repetition by Gumbel noise. Polyak and Juditsky, "Acceleration of Stochastic Approximation by
    Averaging", SIAM J. Control Optim. 1992.

Shape legend: T = drawn positions, B = windows, L = length, D = vector size, N = catalogue rows,
C = candidates of a position, the target first, A = actions, E = interactions.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.utils import clip_grad_norm_

from ouzel.events.interactions import Interactions
from ouzel.features.batches import TrainingBatch, mixed_batches, newest_windows
from ouzel.models.protocols import Ranker, SequenceEncoder
from ouzel.training.repeatable import repeatable
from ouzel.training.states import rank_states, read_states


@dataclass(frozen=True, kw_only=True)
class RankingSettings:
    """How to train a ranker; its shape is its own config."""

    epochs: int = 40
    """At most this many passes over the training windows."""
    minutes: float | None = None
    """Stop at the first epoch end after this much training time; None: no limit."""
    learning_rate: float = 2e-3
    """Of AdamW with betas (0.9, 0.98)."""
    weight_decay: float = 0.01
    """Of AdamW, on every parameter."""
    batch_size: int = 32
    """Users of one step."""
    positions: int = 4
    """How many positions of each are learned from."""
    breadth: int = 500
    """How many of the best items by retrieval are candidates, as when it serves."""
    num_negatives: int = 96
    """How many of them a position is told apart from."""
    sharpness: float = 0.5
    """They are drawn as exp(sharpness x score): 0 draws all alike."""
    average_decay: float = 0.998
    """How much of the average of the weights outlives a step; 0: no average."""
    clip_norm: float = 1.0
    """Largest norm of the gradient."""
    patience: int = 4
    """Epochs without a better NDCG@10 before stopping."""
    seed: int = 0
    """Of the weights' start, dropout, windows, positions and candidates."""


@dataclass(frozen=True)
class RankingResult:
    """How training ended; `start_score` is what the untrained ranker, that is retrieval, scored."""

    epochs: int
    best_epoch: int
    best_score: float
    start_score: float
    seconds: float


def actions_of(interactions: Interactions) -> dict[str, NDArray[np.bool_]]:
    """Return by action at which of the E interactions it happened.

    `interact` always; `like` where the value is at least the median of the values, which needs
    values that differ.

    >>> from ouzel.events.interactions import group_by_user
    >>> users, rows = np.zeros(3, np.int64), np.array([1, 2, 3], np.int32)
    >>> x = group_by_user(users, rows, users, np.array([1, 4, 5], np.float32), num_rows=4)
    >>> {name: happened.tolist() for name, happened in actions_of(x).items()}
    {'interact': [True, True, True], 'like': [False, True, True]}
    """
    actions = {"interact": np.ones(len(interactions), np.bool_)}
    values = interactions.values_E[np.isfinite(interactions.values_E)]
    if len(values) and values.min() < values.max():
        with np.errstate(invalid="ignore"):
            liked = interactions.values_E >= max(np.median(values), np.nextafter(values.min(), 9e9))
        actions["like"] = liked
    return actions


def fit_ranker(
    ranker: Ranker,
    model: SequenceEncoder,
    interactions: Interactions,
    settings: RankingSettings,
    *,
    validate: Callable[[], float] | None,
    on_epoch: Callable[[dict[str, float]], None] = lambda row: None,
) -> RankingResult:
    """Return how training went; `ranker` ends with its best weights, `model` is left as it was.

    `validate` returns the score to maximise (NDCG@10) and is also asked before the first epoch: a
    ranker that never gets better than retrieval ends as retrieval. None trains all epochs and
    keeps the average of the weights.

    Raises:
        ValueError: there is nothing to learn from: no user has two interactions.

    >>> from ouzel.events.interactions import History, from_histories
    >>> from ouzel.models.ranking import TargetAttention
    >>> from ouzel.models.sequence.esasrec import ESASRec, ESASRecConfig
    >>> x = from_histories([History(np.array([1, 2], np.int32), np.array([10, 20]))], num_rows=3)
    >>> model = ESASRec(ESASRecConfig(dim=8, num_layers=1), x.num_rows)
    >>> ranker = TargetAttention.build(model.config, ("interact",), x.num_rows)
    >>> fit_ranker(ranker, model, x, RankingSettings(epochs=1), validate=None).epochs
    1
    """
    if not (interactions.lengths_U() >= 2).any():
        raise ValueError("no user has two interactions to learn from; add data with histories")
    run = _Run(ranker, model, interactions, settings)
    start = best = run.judged(validate)
    kept, best_epoch, epoch = run.weights(), 0, 0
    while epoch < settings.epochs and epoch - best_epoch < settings.patience and run.in_time():
        epoch += 1
        row = run.epoch(epoch)
        score = run.judged(validate)
        if validate is None or score > best:
            best, best_epoch, kept = score, epoch, run.average
            kept = {name: tensor.clone() for name, tensor in kept.items()}
        on_epoch(row if validate is None else {**row, "ndcg@10": round(score, 5)})
    ranker.load_state_dict(kept)
    ranker.eval()
    return RankingResult(epoch, best_epoch, best, start, run.seconds)


class _Run:
    """One training run between its epochs."""

    def __init__(
        self,
        ranker: Ranker,
        model: SequenceEncoder,
        interactions: Interactions,
        settings: RankingSettings,
    ) -> None:
        self.ranker, self.model, self.settings = ranker, model.eval(), settings
        self.interactions = interactions
        happened = actions_of(interactions)
        self.happened_EA = np.stack([happened[name] for name in ranker.config.actions], axis=1)
        self.average = self.weights()
        self.seconds, self.steps = 0.0, 0
        with torch.no_grad():
            self.vectors_ND = model.item_vectors()
        self.optimizer = torch.optim.AdamW(
            ranker.parameters(),
            lr=settings.learning_rate,
            betas=(0.9, 0.98),
            weight_decay=settings.weight_decay,
        )

    def weights(self) -> dict[str, Tensor]:
        """Return a copy of the ranker's weights."""
        return {name: tensor.clone() for name, tensor in self.ranker.state_dict().items()}

    def in_time(self) -> bool:
        """Return whether there is training time left."""
        return self.settings.minutes is None or self.seconds < self.settings.minutes * 60

    def judged(self, validate: Callable[[], float] | None) -> float:
        """Return the validation score of the average of the weights."""
        if validate is None:
            return 0.0
        weights = self.weights()
        self.ranker.load_state_dict(self.average)
        self.ranker.eval()
        score = validate()
        self.ranker.load_state_dict(weights)
        return score

    @repeatable()
    def epoch(self, number: int) -> dict[str, float]:
        """Return the figures of one pass over the windows."""
        started = time.perf_counter()
        rng = np.random.default_rng([self.settings.seed, number])
        torch.manual_seed(int(rng.integers(2**31)))
        length = self.model.config.window
        windows = newest_windows(self.interactions, max_length=length)
        self.ranker.train()
        losses = [
            self._step(batch, rng)
            for batch in mixed_batches(
                self.interactions, windows, size=self.settings.batch_size, rng=rng
            )
        ]
        seconds = time.perf_counter() - started
        self.seconds += seconds
        loss = round(float(np.mean(losses)), 5)
        return {"epoch": number, "loss": loss, "seconds": round(seconds, 2)}

    def _step(self, batch: TrainingBatch, rng: np.random.Generator) -> float:
        settings = self.settings
        draws_BL = np.where(batch.targets_BL > 0, rng.random(batch.targets_BL.shape), 0)
        drawn = np.argsort(-draws_BL, axis=1)[:, : settings.positions]
        lines, places = np.nonzero(np.take_along_axis(draws_BL, drawn, axis=1))
        columns = drawn[lines, places]
        targets_T = torch.from_numpy(batch.targets_BL[lines, columns])
        inputs = (batch.rows_BL, batch.times_BL, batch.request_times_BL)
        states = read_states(self.model, inputs, (lines, columns))
        scores_TN = states.query_BD @ self.vectors_ND.T
        scores_TN[self._seen(batch.places_BL[lines, columns])] = -torch.inf
        scores_TN[:, 0] = -torch.inf
        candidates_TC, weights_TC = candidates_of(scores_TN, targets_T, settings)
        logits_TCA = rank_states(self.ranker, states, candidates_TC, self.vectors_ND)
        happened_TA = torch.from_numpy(self.happened_EA[batch.places_BL[lines, columns]])
        loss = _softmax_loss(logits_TCA + weights_TC.unsqueeze(-1), happened_TA)
        self.optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        clip_grad_norm_(self.ranker.parameters(), settings.clip_norm)
        self.optimizer.step()
        self._follow()
        return loss.item()

    def _seen(self, places_T: NDArray[np.int64]) -> tuple[Tensor, Tensor]:
        """Return (lines, rows): what the user of each target had met before, in scores (T, N)."""
        offsets = self.interactions.offsets_U1
        starts_T = offsets[np.searchsorted(offsets, places_T, side="right") - 1]
        spans = list(zip(starts_T.tolist(), places_T.tolist(), strict=True))
        rows = np.concatenate([self.interactions.rows_E[start:end] for start, end in spans])
        lines = np.repeat(np.arange(len(places_T)), places_T - starts_T)
        return torch.from_numpy(lines), torch.from_numpy(rows.astype(np.int64))

    @torch.no_grad()
    def _follow(self) -> None:
        """Move the average towards the weights, faster while there are few steps to average."""
        self.steps += 1
        decay = min(self.settings.average_decay, (1 + self.steps) / (10 + self.steps))
        weights = self.ranker.state_dict()
        for name, average in self.average.items():
            average.lerp_(weights[name], 1 - decay)


def candidates_of(
    scores_TN: Tensor, targets_T: Tensor, settings: RankingSettings
) -> tuple[Tensor, Tensor]:
    """Return candidate rows (T, C), the target first, and what to add to their logits.

    That is 0, but -inf for a row that scored -inf and for one that is the target again.

    >>> scores = torch.tensor([[-torch.inf, 3.0, 2.0, -torch.inf]])
    >>> rows, weights = candidates_of(scores, torch.tensor([2]), RankingSettings())
    >>> rows[0, :2].tolist(), weights.tolist()
    ([2, 1], [[0.0, 0.0, -inf, -inf, -inf]])
    """
    best = scores_TN.topk(min(settings.breadth, scores_TN.shape[1]), dim=1)
    rows, weights = best.indices, torch.zeros_like(best.values)
    weights[best.values.isneginf() | (rows == targets_T.unsqueeze(1))] = -torch.inf
    # The largest of scores with Gumbel noise are a sample without repetition, each as likely as
    # exp(score) says.
    noise = -torch.log(-torch.log(torch.rand_like(best.values)))
    drawn = settings.sharpness * best.values + weights + noise
    chosen = drawn.topk(min(settings.num_negatives, drawn.shape[1]), dim=1).indices
    rows, weights = rows.gather(1, chosen), weights.gather(1, chosen)
    target = targets_T.unsqueeze(1)
    return torch.cat([target, rows], dim=1), torch.cat([torch.zeros_like(target), weights], dim=1)


def _softmax_loss(logits_TCA: Tensor, happened_TA: Tensor) -> Tensor:
    losses_TA = torch.logsumexp(logits_TCA, dim=1) - logits_TCA[:, 0]
    return losses_TA[happened_TA].mean()
