"""The fit loop: reproducible, resumable, stopping at the right moment with the right weights."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from ouzel.events.interactions import History, Interactions, from_histories
from ouzel.models.sequence.esasrec import ESASRec, ESASRecConfig
from ouzel.training.checkpoint import forget, load_checkpoint
from ouzel.training.fit import FitResult, FitSettings, fit
from tests.tiny import START_MS


def data(num_users: int = 30) -> Interactions:
    rng = np.random.default_rng(0)
    histories = []
    for _ in range(num_users):
        length = int(rng.integers(2, 15))
        times = START_MS + np.cumsum(rng.integers(0, 10**7, length))
        histories.append(History(rng.integers(1, 20, length).astype(np.int32), times))
    return from_histories(histories, num_rows=20)


def model() -> ESASRec:
    torch.manual_seed(1)
    return ESASRec(ESASRecConfig(dim=8, num_heads=2, window=6), 20)


def run(net: ESASRec, folder: Path, *, validate=None, **changes) -> FitResult:
    settings = FitSettings(**{"epochs": 4, "batch_tokens": 64, "num_negatives": 8, **changes})
    return fit(net, data(), settings, max_length=6, validate=validate, directory=folder)


def weights(net: ESASRec) -> torch.Tensor:
    return torch.cat([tensor.flatten() for tensor in net.state_dict().values()])


def test_the_same_seed_gives_the_same_weights_and_another_does_not(tmp_path: Path) -> None:
    nets = [model(), model(), model()]
    for net, seed in zip(nets, (5, 5, 6), strict=True):
        run(net, tmp_path / str(id(net)), seed=seed)
    assert torch.equal(weights(nets[0]), weights(nets[1]))
    assert not torch.equal(weights(nets[0]), weights(nets[2]))


def test_two_threads_add_up_in_one_order(tmp_path: Path, two_threads: None) -> None:
    """Gathers must be large for torch to add their gradients up from several threads."""
    rng = np.random.default_rng(0)
    times = START_MS + np.arange(100)
    rows = rng.integers(1, 20, (40, 100)).astype(np.int32)
    long = from_histories([History(row, times) for row in rows], num_rows=20)
    nets = []
    for _ in range(2):
        torch.manual_seed(1)
        nets.append(ESASRec(ESASRecConfig(num_layers=1, window=50), 20))
        settings = FitSettings(epochs=1, batch_tokens=2000, num_negatives=8)
        folder = tmp_path / str(len(nets))
        fit(nets[-1], long, settings, max_length=50, validate=None, directory=folder)
    assert torch.equal(weights(nets[0]), weights(nets[1]))


class InterruptionError(Exception):
    """Stands for a crash or Ctrl-C."""


@pytest.mark.parametrize("validated", [True, False])
def test_an_interrupted_run_ends_with_the_same_weights(tmp_path: Path, validated: bool) -> None:
    scores = iter([0.1, 0.3, 0.2])
    validate = (lambda: next(scores)) if validated else None
    whole = model()
    run(whole, tmp_path / "whole", epochs=6, validate=validate)

    scores = iter([0.1, 0.3, 0.2])

    def stop(epoch: int, fraction: float) -> None:
        if epoch == 4 and fraction > 0.5:
            raise InterruptionError

    settings = FitSettings(epochs=6, batch_tokens=64, num_negatives=8)
    with pytest.raises(InterruptionError):
        fit(
            model(), data(), settings,
            max_length=6, validate=validate, directory=tmp_path / "cut", on_batch=stop,
        )  # fmt: skip
    assert (tmp_path / "cut" / "checkpoint.safetensors").exists()
    scores = iter([0.3, 0.2])
    resumed = model()
    run(resumed, tmp_path / "cut", epochs=6, validate=validate)
    assert torch.equal(weights(whole), weights(resumed))
    lines = (tmp_path / "cut" / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["epoch"] for line in lines] == [1, 2, 3, 4, 5, 6]
    # What came after the training was interrupted: there is nothing to train again.
    again = model()
    run(again, tmp_path / "cut", epochs=6, validate=validate)
    assert torch.equal(weights(whole), weights(again))
    assert (tmp_path / "cut" / "metrics.jsonl").read_text().splitlines() == lines
    forget(tmp_path / "cut")
    assert not (tmp_path / "cut" / "checkpoint.safetensors").exists()


def test_a_checkpoint_of_other_data_or_settings_is_not_taken_up(tmp_path: Path) -> None:
    def stop(epoch: int, fraction: float) -> None:
        if epoch == 2:
            raise InterruptionError

    settings = FitSettings(epochs=3, batch_tokens=64, num_negatives=8)
    with pytest.raises(InterruptionError):
        fit(
            model(), data(), settings,
            max_length=6, validate=None, directory=tmp_path, on_batch=stop,
        )  # fmt: skip
    fresh, changed = model(), model()
    run(fresh, tmp_path / "fresh", epochs=3, learning_rate=1e-2)
    run(changed, tmp_path, epochs=3, learning_rate=1e-2)
    assert torch.equal(weights(fresh), weights(changed))


def test_a_checkpoint_of_a_longer_run_is_not_taken_up(tmp_path: Path) -> None:
    run(model(), tmp_path / "long", epochs=4)
    short, fresh = model(), model()
    assert run(short, tmp_path / "long", epochs=2).epochs == 2
    run(fresh, tmp_path / "fresh", epochs=2)
    assert torch.equal(weights(short), weights(fresh))


def test_a_damaged_checkpoint_is_told(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.safetensors"
    path.write_bytes(b"not a checkpoint")
    with pytest.raises(ValueError, match="delete it to start over"):
        load_checkpoint(path, "any")


def test_the_best_weights_are_kept_and_patience_ends_the_run(tmp_path: Path) -> None:
    net, kept = model(), {}
    scores = iter([0.2, 0.5, 0.4, 0.3, 0.9])

    def validate() -> float:
        score = next(scores)
        kept[score] = weights(net).clone()
        return score

    result = run(net, tmp_path, epochs=50, validate=validate, validate_every=1, patience=2)
    assert (result.epochs, result.best_epoch, result.best_score) == (4, 2, 0.5)
    assert torch.equal(weights(net), kept[0.5])


def test_minutes_end_the_run_at_an_epoch(tmp_path: Path) -> None:
    assert run(model(), tmp_path, epochs=50, minutes=1e-6).epochs == 1


def test_gradients_are_clipped(tmp_path: Path) -> None:
    """With a clip of nearly nothing AdamW still moves, so compare with plain clipping off."""
    norms = []
    original = torch.nn.utils.clip_grad_norm_

    def record(parameters, limit):
        parameters = list(parameters)
        total = original(parameters, limit)
        norms.append(float(torch.cat([p.grad.flatten() for p in parameters]).norm()))
        return total

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("ouzel.training.fit.clip_grad_norm_", record)
        run(model(), tmp_path, epochs=1, clip_norm=0.01)
    assert norms and max(norms) <= 0.0101


def test_data_without_a_second_event_is_refused(tmp_path: Path) -> None:
    single = from_histories([History(np.array([1], np.int32), np.array([5]))], num_rows=3)
    with pytest.raises(ValueError, match="two interactions"):
        fit(
            model(), single, FitSettings(),
            max_length=6, validate=None, directory=tmp_path,
        )  # fmt: skip


def test_training_lowers_the_loss(tmp_path: Path) -> None:
    run(model(), tmp_path, epochs=12, learning_rate=1e-2)
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert rows[-1]["loss"] < rows[0]["loss"] - 0.1
    assert set(rows[0]) == {"epoch", "loss", "seconds", "tokens_per_s"}


@pytest.mark.parametrize("decay", [0.0, 0.9])
def test_what_is_kept_is_the_moving_average_of_the_weights(tmp_path: Path, decay: float) -> None:
    net, after_steps = model(), []
    average = weights(net).clone()
    settings = FitSettings(epochs=2, batch_tokens=64, num_negatives=8, average_decay=decay)
    fit(
        net, data(), settings, max_length=6, validate=None, directory=tmp_path,
        on_batch=lambda epoch, fraction: after_steps.append(weights(net).clone()),
    )  # fmt: skip
    for step, now in enumerate(after_steps, start=1):
        kept = min(decay, (1 + step) / (10 + step))
        average = kept * average + (1 - kept) * now
    torch.testing.assert_close(weights(net), average, rtol=1e-4, atol=1e-6)
    assert torch.equal(weights(net), after_steps[-1]) == (decay == 0)


def test_training_goes_on_from_the_weights_and_not_from_their_average(tmp_path: Path) -> None:
    ends = []
    for validate in (None, lambda: 0.5):
        net, after_steps = model(), []
        settings = FitSettings(epochs=4, batch_tokens=64, num_negatives=8, validate_every=1)
        fit(
            net, data(), settings, max_length=6, validate=validate,
            directory=tmp_path / str(len(ends)),
            on_batch=lambda epoch, fraction, net=net, to=after_steps: to.append(weights(net)),
        )  # fmt: skip
        ends.append(after_steps[-1])
    assert torch.equal(*ends)
