"""Every loss through the fit loop, with the negatives that it says it draws."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from ouzel.events.interactions import History, Interactions, from_histories
from ouzel.models.sequence.esasrec import ESASRec, ESASRecConfig
from ouzel.training import objectives
from ouzel.training.fit import FitSettings, fit, told_settings
from ouzel.training.losses import calibration, full_softmax, sampled_softmax
from ouzel.training.objectives import LOSSES, Objective, loss_named
from tests.tiny import START_MS

NUM_ROWS = 60


def walks() -> Interactions:
    """Return users who go from each item to the one after it; low rows are the popular ones."""
    rng = np.random.default_rng(0)
    histories = []
    for _ in range(40):
        first = int(rng.integers(1, 15) ** 2 % 50) + 1
        rows = np.arange(first, first + 8, dtype=np.int32)
        histories.append(History(rows, START_MS + np.arange(8, dtype=np.int64) * 60_000))
    return from_histories(histories, num_rows=NUM_ROWS)


def model() -> ESASRec:
    torch.manual_seed(1)
    config = ESASRecConfig(dim=8, num_layers=1, num_heads=2, window=6, temperature=0.2)
    return ESASRec(config, NUM_ROWS)


@pytest.mark.parametrize("name", [loss.name for loss in LOSSES])
def test_every_loss_is_reached_by_fit_and_falls(name: str, tmp_path) -> None:
    settings = FitSettings(
        loss=name, epochs=10, batch_tokens=64, num_negatives=8, learning_rate=2e-2
    )
    net = model()
    fit(net, walks(), settings, max_length=6, validate=None, directory=tmp_path)
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert rows[-1]["loss"] < 0.8 * rows[0]["loss"]
    assert all(torch.isfinite(weight).all() for weight in net.state_dict().values())


def batch():
    generator = torch.Generator().manual_seed(0)
    return torch.randn(9, 8, generator=generator), torch.arange(3, 12)


SAMPLED = [loss.name for loss in LOSSES if loss.negatives != "all"]


@pytest.mark.parametrize("name", SAMPLED)
def test_rows_that_a_batch_needs_give_what_the_whole_table_gives(name: str, monkeypatch) -> None:
    """Where a batch needs fewer rows than there are, only those vectors are made."""
    monkeypatch.setattr(objectives, "POSITIONS_A_DRAW", 4)
    net, (vectors, targets) = model(), batch()
    objective = Objective(name, walks(), num_negatives=8)
    asked = []
    original, net.item = net.item, lambda rows, table: asked.append(rows) or original(rows, table)
    found = objective(net, vectors, targets, np.random.default_rng(4))
    negatives = objective._draws(targets.numpy(), np.random.default_rng(4))
    assert negatives.shape == ((3, 8) if name in ("bce", "gbce") else (8,))
    assert asked[0].tolist() == sorted({*targets.tolist(), *negatives.ravel().tolist()})
    more = () if objective._log_chance_N is None else (objective._log_chance_N,)
    told = {"exponent": calibration(8, NUM_ROWS - 1)} if name == "gbce" else {}
    expected = objective.loss.of(
        vectors, targets, net.item_vectors(), torch.from_numpy(negatives), *more, **told
    )
    torch.testing.assert_close(found, expected)


def drawn(name: str, *, count: int = 8) -> tuple[np.ndarray, torch.Tensor]:
    objective = Objective(name, walks(), num_negatives=count)
    return objective._draw(np.arange(3, 12), np.random.default_rng(4)), objective._log_chance_N


def test_negatives_are_drawn_as_the_name_says(monkeypatch) -> None:
    rows, chances = drawn("bpr")
    assert len(set(rows.tolist())) == 8 and rows.min() >= 1 and chances is None
    rows, chances = drawn("batch_softmax")
    assert set(rows.tolist()) <= set(range(3, 12)) and len(rows) == 8
    rows, chances = drawn("popular_softmax", count=200_000)
    found = np.bincount(rows, minlength=NUM_ROWS) / len(rows)
    assert rows.min() >= 1 and rows.max() < NUM_ROWS
    np.testing.assert_allclose(found, chances.exp().numpy(), atol=0.003)


def test_a_small_catalogue_has_the_full_softmax_in_place_of_a_sample() -> None:
    net, (vectors, targets) = model(), batch()
    objective = Objective("sampled_softmax", walks(), num_negatives=NUM_ROWS)
    found = objective(net, vectors, targets, np.random.default_rng(0))
    assert found.equal(full_softmax(vectors, targets, net.item_vectors()))


def test_the_default_is_the_sampled_softmax_over_uniform_negatives() -> None:
    net, (vectors, targets) = model(), batch()
    objective = Objective(FitSettings().loss, walks(), num_negatives=55)
    found = objective(net, vectors, targets, np.random.default_rng(2))
    rows = torch.from_numpy(np.random.default_rng(2).choice(59, size=55, replace=False) + 1)
    assert found.equal(sampled_softmax(vectors, targets, net.item_vectors(), rows))


def test_what_cannot_be_is_refused_with_the_nearest_name() -> None:
    with pytest.raises(ValueError, match="no loss 'ful_softmax': did you mean 'full_softmax'"):
        FitSettings(loss="ful_softmax")
    with pytest.raises(ValueError, match="no loss 'x': choose one of sampled_softmax, "):
        loss_named("x")
    with pytest.raises(ValueError, match="num_negatives is 'many'"):
        told_settings({"num_negatives": "many"})
    with pytest.raises(ValueError, match="learning_rate is 0"):
        told_settings({"learning_rate": "0"})
