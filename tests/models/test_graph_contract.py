"""What every model of the graph must do, and a check that none escapes."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import ouzel.models.graph as graph
from ouzel.bundle.tensors import read_tensors, write_tensors
from ouzel.evaluation.by_history import fold_in_scorer
from ouzel.events.interactions import History, from_histories
from ouzel.features.matrix import matrix_of
from ouzel.features.recency import fade_of, weighted_rows
from ouzel.inference.fold_in import SumOfInputs
from ouzel.inference.history_fold import fold_in_of
from ouzel.models.graph import GRAPH_MODELS
from ouzel.models.graph.lightgcn import LightGCN, LightGCNConfig
from ouzel.models.graph_encoder import GraphEncoder, Links
from ouzel.training.descent import Descent
from ouzel.training.factorization import fit_encoder
from tests.models.test_encoder_contract import NUM_ROWS, histories, matrix, rows


def fitted(kind: type[GraphEncoder], *, seed: int = 0, **settings: object) -> GraphEncoder:
    torch.manual_seed(seed)
    config = replace(kind.presets["S"], **{"dim": 8, "half_life": None, **settings})
    model = kind.build(config, num_rows=NUM_ROWS)
    descent = Descent(model, matrix(), seed=seed)
    for _ in range(60):
        descent.epoch()
    return model


def folded_in(model: GraphEncoder, rows_n: np.ndarray) -> np.ndarray:
    """Return the vector (D,) of a history, event by event; zeros if nothing in it is known."""
    fold_in = model.tensors()["fold_in"]
    inputs, fade = fold_in["inputs"], fade_of(model.config.half_life)
    known, weights = weighted_rows(rows_n, num_rows=len(inputs), fade=fade)
    total = np.zeros(inputs.shape[1])
    for row, weight in zip(known.tolist(), weights.tolist(), strict=True):
        total += weight * inputs[row]
    return total / np.sqrt(max(1e-9, weights.sum()))


def vectors_of(model: GraphEncoder) -> np.ndarray:
    return model.tensors()["items"]["vectors"]


def test_every_file_of_the_folder_is_a_model_of_the_closed_tuple() -> None:
    folder = Path(graph.__file__).parent
    files = {path.stem for path in folder.glob("*.py")} - {"__init__"}
    assert files == {model.__module__.rsplit(".", 1)[1] for model in GRAPH_MODELS}
    assert files == {model.name for model in GRAPH_MODELS}


@pytest.mark.parametrize("kind", GRAPH_MODELS)
class TestContract:
    def test_shapes(self, kind) -> None:
        model = fitted(kind)
        users_UD, items_ND = model(Links.of(matrix()))
        assert (users_UD.shape, items_ND.shape) == ((60, 8), (NUM_ROWS, 8))
        assert vectors_of(model).shape == (NUM_ROWS, 8) and not vectors_of(model)[0].any()
        assert all(torch.isfinite(weights).all() for weights in model.state_dict().values())

    def test_a_checkerboard_is_learned_for_people_who_were_not_there(self, kind) -> None:
        model = fitted(kind)
        for side in (0, 6):
            for left_out in range(1, 7):
                seen = rows(*[side + item for item in range(1, 7) if item != left_out][:3])
                scores = vectors_of(model) @ folded_in(model, seen)
                scores[[0, *seen]] = -np.inf
                best = set((np.argsort(-scores)[:3]).tolist())
                assert best == set(range(side + 1, side + 7)) - set(seen.tolist())

    def test_users_of_the_data_are_folded_in_as_trained(self, kind) -> None:
        model = fitted(kind)
        users_UD, _ = model(Links.of(matrix()))
        for user in (0, 7):
            trained = users_UD[user].detach().numpy()
            served = folded_in(model, matrix().line(user))
            cosine = trained @ served / np.linalg.norm(trained) / np.linalg.norm(served)
            assert cosine == pytest.approx(1, abs=1e-5)

    def test_gradients_reach_all_that_is_trained(self, kind) -> None:
        model = fitted(kind)
        model.zero_grad()
        users_UD, items_ND = model(Links.of(matrix()))
        (users_UD @ items_ND.T).square().sum().backward()
        for weights in model.parameters():
            assert weights.grad is not None and weights.grad[1:].any(dim=1).all()

    def test_the_seed_decides(self, kind) -> None:
        one, two, other = fitted(kind), fitted(kind), fitted(kind, seed=1)
        assert np.array_equal(vectors_of(one), vectors_of(two))
        assert not np.array_equal(vectors_of(one), vectors_of(other))

    def test_the_loss_falls(self, kind) -> None:
        torch.manual_seed(0)
        model = kind.build(replace(kind.presets["S"], dim=8), num_rows=NUM_ROWS)
        descent = Descent(model, matrix(), seed=0)
        losses = [descent.epoch() for _ in range(6)]
        assert losses[-1] < losses[0]

    def test_what_is_served_from_a_file_scores_alike(self, kind, tmp_path: Path) -> None:
        model = fitted(kind, half_life=2.0)
        read = {}
        for name, arrays in model.tensors().items():
            write_tensors(tmp_path / name, arrays)
            read[name] = read_tensors(tmp_path / name)
        asked = [*histories(4), History(rows(3, 99, 3, 1), np.arange(4))]
        served = fold_in_scorer(read)(asked, np.zeros(len(asked), np.int64))
        expected = [vectors_of(model) @ folded_in(model, history.rows) for history in asked]
        np.testing.assert_allclose(served, np.stack(expected), rtol=1e-4, atol=1e-5)

    def test_who_is_unknown_has_no_vector(self, kind) -> None:
        lone = matrix_of(from_histories([History(rows(1, 2), np.arange(2))], num_rows=4))
        model = kind.build(replace(kind.presets["S"], dim=4), num_rows=4)
        assert np.isfinite(Descent(model, lone, seed=0).epoch())
        tensors = model.tensors()
        fold_in = fold_in_of(tensors["fold_in"], tensors["items"]["vectors"])
        assert fold_in.vector(rows()) is None and fold_in.vector(rows(0, 77)) is None
        assert fold_in.vector(rows(3)) is None, "an item that nobody had to do with"
        assert fold_in.vector(rows(3, 1)) is not None

    def test_the_newest_count_most_if_asked(self, kind) -> None:
        model = fitted(kind, half_life=0.5)
        left, right = (
            vectors_of(model) @ folded_in(model, rows(8, 9, 1)),
            vectors_of(model) @ folded_in(model, rows(1, 9, 8)),
        )
        assert left[2] > right[2] and right[10] > left[10]

    def test_one_item_and_one_user_are_no_trouble(self, kind) -> None:
        lone = matrix_of(from_histories([History(rows(1, 1), np.arange(2))], num_rows=2))
        model = kind.build(replace(kind.presets["S"], dim=4), num_rows=2)
        assert np.isfinite(Descent(model, lone, seed=0).epoch())
        assert np.isfinite(folded_in(model, rows(1))).all()

    def test_data_of_others_are_refused(self, kind) -> None:
        model = kind.build(kind.presets["S"], num_rows=NUM_ROWS + 1)
        with pytest.raises(ValueError, match="the matrix has 13 rows, the model 14"):
            Descent(model, matrix(), seed=0)

    def test_validation_ends_it_and_the_best_is_kept(self, kind, tmp_path: Path) -> None:
        model = kind.build(replace(kind.presets["S"], dim=4), num_rows=NUM_ROWS)
        scores = iter([0.1, 0.3, 0.2, 0.2, 0.2, 0.9])
        kept = []

        def validate() -> float:
            kept.append(copy.deepcopy(model.tensors()))
            return next(scores)

        result = fit_encoder(
            model, matrix(), epochs=9, minutes=None, validate=validate, directory=tmp_path
        )
        assert (result.epochs, result.best_epoch, result.best_score) == (5, 2, 0.3)
        assert np.array_equal(vectors_of(model), kept[1]["items"]["vectors"])

    @pytest.mark.parametrize(
        "wrong", [{"dim": 0}, {"epochs": 0}, {"half_life": 0.0}, {"learning_rate": 0.0}]
    )
    def test_an_impossible_config_is_refused(self, kind, wrong) -> None:
        with pytest.raises(ValueError, match=next(iter(wrong))):
            replace(kind.presets["S"], **wrong)


@pytest.mark.parametrize("wrong", [{"num_layers": -1}, {"num_negatives": 0}, {"temperature": 0.0}])
def test_impossible_settings_of_a_model_are_refused(wrong) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        LightGCNConfig(**wrong)


@pytest.mark.parametrize("num_layers", [0, 1, 2])
def test_lightgcn_is_the_formula(num_layers: int) -> None:
    torch.manual_seed(0)
    config = LightGCNConfig(dim=4, num_layers=num_layers, temperature=None)
    model = LightGCN.build(config, num_rows=NUM_ROWS)
    lines = np.zeros((60, NUM_ROWS))
    for line, history in zip(lines, histories(), strict=True):
        line[history.rows] = 1
    scale = np.maximum(lines.sum(axis=0), 1)
    edges = lines / np.sqrt(lines.sum(axis=1, keepdims=True)) / np.sqrt(scale)
    layers = [model.items.weight.detach().numpy()]
    for _ in range(num_layers):
        layers.append(edges.T @ (edges @ layers[-1]))
    expected = np.mean(layers, axis=0)
    users_UD, items_ND = model(Links.of(matrix()))
    np.testing.assert_allclose(items_ND.detach().numpy(), expected, atol=1e-5)
    np.testing.assert_allclose(users_UD.detach().numpy(), edges @ expected, atol=1e-5)


def test_the_gradient_of_the_edges_is_that_of_a_dense_product() -> None:
    links = Links.of(matrix())
    dense = torch.stack([links.users(column) for column in torch.eye(NUM_ROWS).split(1, dim=1)])
    dense_UN = dense.squeeze(2).T
    ours = torch.rand(NUM_ROWS, 3, requires_grad=True)
    theirs = ours.detach().clone().requires_grad_()
    factor = torch.rand(60, 3)
    (links.users(ours) * factor).sum().backward()
    (dense_UN @ theirs * factor).sum().backward()
    torch.testing.assert_close(ours.grad, theirs.grad)


def test_a_damaged_fold_in_is_told() -> None:
    vectors = np.ones((3, 2), np.float32)
    with pytest.raises(ValueError, match="'fade' is missing"):
        fold_in_of({"inputs": vectors}, vectors)
    with pytest.raises(ValueError, match="do not fit each other"):
        SumOfInputs.from_tensors({"inputs": vectors[:2], "fade": np.ones(1)}, vectors)
