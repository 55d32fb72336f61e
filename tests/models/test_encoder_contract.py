"""What every factor model must do, and a check that none escapes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import ouzel.models.factorization as factorization
from ouzel.bundle.tensors import read_tensors, write_tensors
from ouzel.data.split import leave_one_out
from ouzel.evaluation.by_history import fold_in_scorer
from ouzel.events.interactions import History, from_histories
from ouzel.features.matrix import Matrix
from ouzel.features.recency import fade_of, weighted_rows
from ouzel.inference.fold_in import FoldIn
from ouzel.models.encoder import Encoder
from ouzel.models.factorization import FACTORIZATION_MODELS, RATING_MODELS
from ouzel.models.factorization.eals import EALS
from ouzel.models.factorization.fpmc import FPMC
from ouzel.models.factorization.ials import IALS, IALSConfig
from ouzel.training.factorization import fit_encoder, fold_in_validator

NUM_ROWS = 13


def histories(num_users: int = 60) -> list[History]:
    """Return users who like the items of their own half of the catalogue, five of six of them."""
    rng = np.random.default_rng(0)
    sides = [1 + 6 * (user % 2) + rng.permutation(6)[:5] for user in range(num_users)]
    return [History(rows.astype(np.int32), np.arange(5, dtype=np.int64)) for rows in sides]


def matrix(kind: type[Encoder] = IALS) -> Matrix:
    return kind.data_of(from_histories(histories(), num_rows=NUM_ROWS))


def fitted(kind: type[Encoder], *, seed: int = 0, **settings: object) -> Encoder:
    torch.manual_seed(seed)
    config = replace(
        kind.presets["S"],
        **{"dim": 8, "half_life": None, **settings},
    )
    model = kind.build(config, num_users=60, num_rows=NUM_ROWS)
    # A sweep of FPMC passes over so few events 66 times.
    for _ in range(1 if kind is FPMC else 6):
        model.sweep(matrix(kind))
    return model


def folded_in(model: Encoder, rows_n: np.ndarray) -> np.ndarray:
    """Return the vector (D,) of a history, event by event; zeros if nothing in it is known."""
    ridge = model.ridge()
    items = model.items.weight.detach().numpy().astype(np.float64)
    fade = fade_of(model.config.half_life)
    known, weights = weighted_rows(rows_n, num_rows=len(items), fade=fade)
    size = ridge.l2 * (weights.sum() + ridge.offset) ** ridge.power
    part = len(ridge.base)
    left = ridge.base.numpy().astype(np.float64) + size * np.eye(part)
    right = np.zeros(part)
    for row, weight in zip(known.tolist(), weights.tolist(), strict=True):
        left += weight * np.outer(items[row, :part], items[row, :part])
        right += weight * items[row, :part]
    solved = np.linalg.solve(left, right)
    if ridge.after is None:
        return solved
    after = ridge.after.numpy()
    return np.concatenate([solved, after[known[0]] if len(known) else 0 * after[0]])


def rows(*chosen: int) -> np.ndarray:
    return np.array(chosen, np.int32)


def test_every_file_of_the_folder_is_a_model_of_the_closed_tuple() -> None:
    folder = Path(factorization.__file__).parent
    files = {path.stem for path in folder.glob("*.py")} - {"__init__"}
    models = (*FACTORIZATION_MODELS, *RATING_MODELS)
    assert files == {model.__module__.rsplit(".", 1)[1] for model in models}
    assert files == {model.name for model in models}


@pytest.mark.parametrize("kind", FACTORIZATION_MODELS)
class TestContract:
    def test_shapes(self, kind) -> None:
        model = fitted(kind)
        assert model.items.weight.shape == (NUM_ROWS, 8)
        assert not model.items.weight[0].any()
        assert folded_in(model, rows(1, 2)).shape == (8,)
        assert all(torch.isfinite(weights).all() for weights in model.parameters())

    def test_a_checkerboard_is_learned_for_people_who_were_not_there(self, kind) -> None:
        model = fitted(kind)
        for history in histories(8):
            scores = model.items.weight.detach().numpy() @ folded_in(model, history.rows)
            scores[[0, *history.rows]] = -np.inf
            missing = set(range(1, 7)) if history.rows[0] < 7 else set(range(7, 13))
            assert {int(scores.argmax())} == missing - set(history.rows.tolist())

    def test_the_seed_decides(self, kind) -> None:
        one, two, other = fitted(kind), fitted(kind), fitted(kind, seed=1)
        assert torch.equal(one.items.weight, two.items.weight)
        assert not torch.equal(one.items.weight, other.items.weight)

    def test_the_loss_falls(self, kind) -> None:
        torch.manual_seed(0)
        config = replace(kind.presets["S"], dim=8)
        model = kind.build(config, num_users=60, num_rows=NUM_ROWS)
        losses = [model.sweep(matrix(kind)) for _ in range(4)]
        assert losses[-1] < losses[0]

    def test_what_is_served_from_a_file_scores_alike(self, kind, tmp_path: Path) -> None:
        model = fitted(kind, half_life=2.0)
        read = {}
        for name, arrays in model.tensors().items():
            write_tensors(tmp_path / name, arrays)
            read[name] = read_tensors(tmp_path / name)
        asked = [*histories(4), History(rows(3, 99, 3, 1), np.arange(4))]
        served = fold_in_scorer(read)(asked, np.zeros(len(asked), np.int64))
        items = model.items.weight.detach().numpy()
        expected = np.stack([items @ folded_in(model, history.rows) for history in asked])
        np.testing.assert_allclose(served, expected, rtol=1e-4, atol=1e-5)

    def test_who_is_unknown_has_no_vector(self, kind) -> None:
        tensors = fitted(kind).tensors()
        fold_in = FoldIn.from_tensors(tensors["fold_in"], tensors["items"]["vectors"])
        assert fold_in.vector(rows()) is None and fold_in.vector(rows(0, 77)) is None
        assert not folded_in(fitted(kind), rows(77)).any()

    def test_the_newest_count_most_if_asked(self, kind) -> None:
        model = fitted(kind, half_life=0.5, dim=2)
        items = model.items.weight.detach().numpy()
        left, right = (
            items @ folded_in(model, rows(8, 9, 1)),
            items @ folded_in(model, rows(1, 9, 8)),
        )
        assert left[2] > right[2] and right[10] > left[10]

    def test_one_item_one_user_and_items_of_nobody_are_no_trouble(self, kind) -> None:
        lone = kind.data_of(from_histories([History(rows(1, 1), np.arange(2))], num_rows=4))
        model = kind.build(replace(kind.presets["S"], dim=4), num_users=1, num_rows=4)
        assert np.isfinite(model.sweep(lone))
        assert np.isfinite(folded_in(model, rows(1))).all()

    def test_data_of_others_are_refused(self, kind) -> None:
        model = kind.build(kind.presets["S"], num_users=2, num_rows=NUM_ROWS)
        with pytest.raises(ValueError, match="the matrix has 60 users"):
            model.sweep(matrix(kind))

    def test_validation_ends_it_and_the_best_is_kept(self, kind, tmp_path: Path) -> None:
        model = kind.build(replace(kind.presets["S"], dim=4), num_users=60, num_rows=NUM_ROWS)
        scores = iter([0.1, 0.3, 0.2, 0.2, 0.2, 0.9])
        kept = []

        def validate() -> float:
            kept.append(model.items.weight.detach().clone())
            return next(scores)

        result = fit_encoder(
            model, matrix(kind), epochs=9, minutes=None, validate=validate, directory=tmp_path
        )
        assert (result.epochs, result.best_epoch, result.best_score) == (5, 2, 0.3)
        assert torch.equal(model.items.weight, kept[1])
        assert len((tmp_path / "metrics.jsonl").read_text().splitlines()) == 5

    @pytest.mark.parametrize("wrong", [{"dim": 0}, {"epochs": 0}, {"half_life": 0.0}])
    def test_an_impossible_config_is_refused(self, kind, wrong) -> None:
        with pytest.raises(ValueError, match=next(iter(wrong))):
            replace(kind.presets["S"], **wrong)


@pytest.mark.parametrize("wrong", [{"block": 0}, {"alpha": 0.0}, {"l2": -1.0}])
def test_impossible_settings_of_a_model_are_refused(wrong) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        IALSConfig(**wrong)


@pytest.mark.parametrize("kind", [IALS, EALS])
def test_what_was_not_seen_weighs_as_the_data_are_dense(kind) -> None:
    left_open = kind.presets["S"]
    dense = kind.settled(left_open, matrix()).alpha
    wide = kind.data_of(from_histories(histories(), num_rows=1 + 100 * (NUM_ROWS - 1)))
    assert kind.settled(left_open, wide).alpha == pytest.approx(dense / 100)
    assert kind.settled(replace(left_open, alpha=0.5), wide).alpha == 0.5


def test_validation_without_targets_is_none() -> None:
    split = leave_one_out(from_histories([History(rows(1), np.arange(1))], num_rows=3))
    model = IALS.build(IALSConfig(dim=2), num_users=1, num_rows=3)
    assert fold_in_validator(model, split, max_targets=3, seed=0) is None


def loss_of(model: IALS, lines: np.ndarray) -> float:
    """Return the whole loss of the docstring, term by term."""
    config = model.config
    users = model.users.weight.detach().double().numpy()
    items = model.items.weight.detach().double().numpy()[1:]
    scores = users @ items.T
    total = ((lines - scores) ** 2 * lines).sum() + config.alpha * (scores**2).sum()
    per_user = config.l2 * (lines.sum(1) + config.alpha * len(items)) ** config.power
    per_item = config.l2 * (lines.sum(0) + config.alpha * len(users)) ** config.power
    return float(total + per_user @ (users**2).sum(1) + per_item @ (items**2).sum(1))


@pytest.mark.parametrize("block", [8, 3])
def test_each_sweep_lowers_the_loss_of_ials_until_it_is_at_rest(block) -> None:
    lines = np.zeros((60, NUM_ROWS - 1))
    for line, history in zip(lines, histories(), strict=True):
        line[history.rows - 1] = 1
    torch.manual_seed(0)
    config = IALSConfig(dim=8, block=block, alpha=0.2, l2=0.05)
    model = IALS.build(config, num_users=60, num_rows=NUM_ROWS)
    losses = []
    for _ in range(60):
        losses.append(loss_of(model, lines))
        model.sweep(matrix())
    assert (np.diff(losses) <= 1e-3).all()
    weights = [model.users.weight, model.items.weight]
    before = [weight.detach().clone() for weight in weights]
    rng = np.random.default_rng(1)
    at_rest = loss_of(model, lines)
    for weight, start in zip(weights, before, strict=True):
        step = torch.from_numpy(rng.normal(0, 1e-2, start.shape).astype(np.float32))
        for sign in (1, -1):
            with torch.no_grad():
                weight.copy_(start + sign * step)
            assert loss_of(model, lines) > at_rest
        with torch.no_grad():
            weight.copy_(start)


def test_a_user_of_the_data_is_folded_in_as_trained() -> None:
    model = fitted(IALS)
    with torch.no_grad():
        model._solve(model.users.weight, model.items.weight, matrix(), everything=NUM_ROWS - 1)
    for user in (0, 7):
        expected = model.users.weight[user].detach().numpy()
        np.testing.assert_allclose(folded_in(model, matrix().line(user)), expected, atol=1e-4)
