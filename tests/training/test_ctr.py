"""The loop of models of fields: unknown labels, repeatable, kept at its best, ended in time."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from ouzel.features.examples import Examples, Past
from ouzel.models.ctr import MLP, LogisticRegression
from ouzel.models.ctr.base import DeepConfig, Layout
from ouzel.training.ctr import CTRSettings, auc_validator, fit_ctr, predict, told_settings

ITEMS = np.arange(12)[:, None] + 4
LAYOUT = Layout(num_ids=16, request=(1,), item=(1,), history=0)
CONFIG = DeepConfig(dim=4, hidden=8, history=0)


def made(*, known=MLP, actions=("like",)):
    torch.manual_seed(0)
    config = CONFIG if known is MLP else known.presets["S"]
    return known(config, LAYOUT, actions)


def examples(labels: np.ndarray, *, count: int = 48) -> Examples:
    rng = np.random.default_rng(0)
    rows = 1 + np.arange(count) % 11
    nothing = Past(np.zeros(0, np.int32), np.zeros(count, np.int64), np.zeros(count, np.int64))
    requests = rng.integers(1, 4, (count, 1)).astype(np.int32)
    return Examples(requests, rows[:, None].astype(np.int32), labels, nothing)


def liked(count: int = 48) -> np.ndarray:
    return (np.arange(count) % 11 % 2).astype(np.float32)[:, None, None]


def fitted(model, data, **settings):
    told = {"epochs": 3, "batch_size": 16, **settings}
    return fit_ctr(model, lambda rng: data, ITEMS, CTRSettings(**told), validate=None)


@pytest.mark.parametrize("known", [MLP, LogisticRegression])
def test_training_comes_to_the_same_weights_each_time(known) -> None:
    models = [made(known=known) for _ in range(3)]
    for model, seed in zip(models, (0, 0, 1), strict=True):
        fitted(model, examples(liked()), seed=seed)
    first, same, other = (list(model.state_dict().values()) for model in models)
    assert all(torch.equal(*pair) for pair in zip(first, same, strict=True))
    assert not all(torch.equal(*pair) for pair in zip(first, other, strict=True))


def test_an_action_that_is_not_known_teaches_nothing() -> None:
    both = np.repeat(liked(), 2, axis=2)
    both[:, :, 1] = np.nan
    model = made(actions=("like", "share"))
    head = model.deep.head
    before = head.weight.detach().clone()
    fitted(model, examples(both))
    assert not torch.equal(head.weight[0], before[0])
    assert torch.equal(head.weight[1], before[1])


def test_the_best_epoch_is_kept_and_patience_ends_it() -> None:
    scores = iter([0.6, 0.8, 0.7, 0.7, 0.9])
    model, kept = made(), []

    def validate() -> float:
        kept.append({name: tensor.clone() for name, tensor in model.state_dict().items()})
        return next(scores)

    settings = CTRSettings(epochs=5, patience=2, batch_size=16)
    data = examples(liked())
    result = fit_ctr(model, lambda rng: data, ITEMS, settings, validate=validate)
    assert (result.epochs, result.best_epoch, result.best_score) == (4, 2, 0.8)
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, kept[1][name])


def test_every_epoch_may_draw_other_examples_and_time_ends_it() -> None:
    drawn = []

    def draw(rng: np.random.Generator) -> Examples:
        drawn.append(rng.random())
        return examples(liked())

    settings = CTRSettings(epochs=9, batch_size=16, minutes=1e-9)
    assert fit_ctr(made(), draw, ITEMS, settings, validate=None).epochs == 1
    fit_ctr(made(), draw, ITEMS, CTRSettings(epochs=2, batch_size=16), validate=None)
    assert len(drawn) == 3 and drawn[0] == drawn[1] != drawn[2]


def test_auc_is_that_of_each_action_where_it_is_known() -> None:
    labels = np.repeat(liked(), 3, axis=2)
    labels[:20, :, 1] = np.nan
    labels[:, :, 2] = 1
    data, model = examples(labels), made(actions=("a", "b", "c"))
    score = auc_validator(model, data, ITEMS)()
    alone = []
    for action, first in ((0, 0), (1, 20)):
        logits = predict(model, data, ITEMS)[first:, 0, action]
        positive = labels[first:, 0, action] == 1
        above = np.sign(logits[positive][:, None] - logits[~positive]) / 2 + 0.5
        alone.append(above.mean())
    assert score == pytest.approx(np.mean(alone))


def test_the_penalty_holds_vectors_small() -> None:
    sizes = []
    for l2 in (0.0, 10.0):
        model = made()
        fitted(model, examples(liked()), l2=l2, learning_rate=0.02, epochs=20)
        sizes.append(model.vectors.table.weight.norm().item())
    assert sizes[1] < 0.5 * sizes[0]


def test_settings_are_read_and_refused() -> None:
    assert told_settings({"l2": "0.5", "hidden": "3"}, "adamw") == {"l2": 0.5}
    for wrong in ({"l2": "-1"}, {"l2": "x"}, {"epochs": "0"}, {"learning_rate": "0"}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            told_settings(wrong, "adamw")
    with pytest.raises(ValueError, match="average_decay"):
        told_settings({"average_decay": "1"}, "adamw")
    with pytest.raises(ValueError, match="no example"):
        fitted(made(), examples(liked(0), count=0))


@pytest.mark.parametrize(("name", "optimizer"), [("ftrl_l1", "adamw"), ("l2", "ftrl")])
def test_a_setting_of_the_other_optimizer_is_refused(name: str, optimizer) -> None:
    with pytest.raises(ValueError, match=f"{name} is nothing to {optimizer}"):
        told_settings({name: "1"}, optimizer)
