"""What every model of one formula must do, and a check that none escapes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import ouzel.models.neighbours as neighbours
from ouzel.bundle.tensors import read_tensors, write_tensors
from ouzel.evaluation.by_history import item_item_scorer
from ouzel.events.interactions import History, from_histories
from ouzel.features.matrix import Matrix, matrix_of
from ouzel.features.recency import fade_of, weighted_rows
from ouzel.models.closed_form import ClosedForm
from ouzel.models.neighbours import NEIGHBOUR_MODELS
from ouzel.models.neighbours.ease import EASE, EASEConfig
from ouzel.models.neighbours.item_knn import ItemKNN, ItemKNNConfig

NUM_ROWS = 13


def histories(num_users: int = 60) -> list[History]:
    """Return users who like the items of their own half of the catalogue, five of six of them."""
    rng = np.random.default_rng(0)
    sides = [1 + 6 * (user % 2) + rng.permutation(6)[:5] for user in range(num_users)]
    return [History(rows.astype(np.int32), np.arange(5, dtype=np.int64)) for rows in sides]


def matrix(num_users: int = 60) -> Matrix:
    return matrix_of(from_histories(histories(num_users), num_rows=NUM_ROWS))


def fitted(kind: type[ClosedForm], **settings: object) -> ClosedForm:
    return kind.fit(matrix(), replace(kind.presets["S"], **settings))


def scores_of(model: ClosedForm, rows_n: np.ndarray) -> np.ndarray:
    """Return the score (N,) of every row, event by event; -inf where nothing speaks of it."""
    scores_N = np.full(model.num_rows, -np.inf)
    fade = fade_of(model.config.half_life)
    known, weights = weighted_rows(rows_n, num_rows=model.num_rows, fade=fade)
    for row, weight in zip(known.tolist(), weights.tolist(), strict=True):
        span = slice(*model.weights.offsets_N1[row : row + 2])
        told = model.weights.rows_W[span]
        before = np.where(np.isfinite(scores_N[told]), scores_N[told], 0)
        scores_N[told] = before + weight * model.weights.values_W[span]
    return scores_N


def rows(*chosen: int) -> np.ndarray:
    return np.array(chosen, np.int32)


def test_every_file_of_the_folder_is_a_model_of_the_closed_tuple() -> None:
    folder = Path(neighbours.__file__).parent
    files = {path.stem for path in folder.glob("*.py")} - {"__init__"}
    assert files == {model.__module__.rsplit(".", 1)[1] for model in NEIGHBOUR_MODELS}
    assert files == {model.name for model in NEIGHBOUR_MODELS}


@pytest.mark.parametrize("kind", NEIGHBOUR_MODELS)
class TestContract:
    def test_shapes(self, kind) -> None:
        model = fitted(kind)
        assert model.num_rows == NUM_ROWS
        scores = scores_of(model, rows(1, 2))
        assert scores.shape == (NUM_ROWS,) and scores[0] == -np.inf
        assert np.isfinite(model.weights.values_W).all()

    def test_a_checkerboard_is_learned(self, kind) -> None:
        model = fitted(kind)
        for history in histories(8):
            scores = scores_of(model, history.rows)
            scores[history.rows] = -np.inf
            missing = set(range(1, 7)) if history.rows[0] < 7 else set(range(7, 13))
            assert {int(scores.argmax())} == missing - set(history.rows.tolist())

    def test_the_same_data_give_the_same_model(self, kind) -> None:
        one, two = fitted(kind).weights, fitted(kind).weights
        assert np.array_equal(one.rows_W, two.rows_W)
        assert np.array_equal(one.values_W, two.values_W)

    def test_what_is_served_from_a_file_scores_alike(self, kind, tmp_path: Path) -> None:
        model = fitted(kind, half_life=2.0)
        write_tensors(tmp_path / "item_item", model.tensors()["item_item"])
        scorer = item_item_scorer({"item_item": read_tensors(tmp_path / "item_item")})
        asked = [*histories(4), History(rows(3, 99, 3, 1), np.arange(4))]
        served = scorer(asked, np.zeros(len(asked), np.int64))
        expected = np.stack([scores_of(model, history.rows) for history in asked])
        np.testing.assert_allclose(served, expected, rtol=1e-5, atol=1e-6)

    def test_the_newest_count_most_if_asked(self, kind) -> None:
        model = fitted(kind, half_life=0.5)
        left, right = scores_of(model, rows(8, 9, 1)), scores_of(model, rows(1, 9, 8))
        assert left[2] > left[10] and right[10] > right[2]
        alike = fitted(kind, half_life=None)
        np.testing.assert_allclose(scores_of(alike, rows(8, 1)), scores_of(alike, rows(1, 8, 1)))

    def test_no_more_weights_are_kept_than_asked_and_the_largest(self, kind) -> None:
        whole, cut = fitted(kind), fitted(kind, keep=3)
        assert np.diff(cut.weights.offsets_N1).max() == 3
        for row in range(1, NUM_ROWS):
            span = slice(*cut.weights.offsets_N1[row : row + 2])
            smallest = np.abs(cut.weights.values_W[span]).min()
            left_out = np.isin(
                whole.weights.rows_W[slice(*whole.weights.offsets_N1[row : row + 2])],
                cut.weights.rows_W[span],
                invert=True,
            )
            others = whole.weights.values_W[slice(*whole.weights.offsets_N1[row : row + 2])]
            assert np.abs(others[left_out]).max(initial=0) <= smallest + 1e-6

    def test_one_item_is_refused_and_one_user_is_not(self, kind) -> None:
        lone = matrix_of(from_histories([History(rows(1, 1), np.arange(2))], num_rows=2))
        with pytest.raises(ValueError, match="there is one: add items"):
            kind.fit(lone, kind.presets["S"])
        one = matrix_of(from_histories([History(rows(1, 2), np.arange(2))], num_rows=4))
        scores = scores_of(kind.fit(one, kind.presets["S"]), rows(1))
        assert scores[2] > 0 and not scores[3] > 0

    def test_who_is_unknown_gets_no_score(self, kind) -> None:
        assert (scores_of(fitted(kind), rows()) == -np.inf).all()
        assert (scores_of(fitted(kind), rows(0, 77)) == -np.inf).all()

    @pytest.mark.parametrize("wrong", [{"keep": 0}, {"half_life": 0.0}, {"half_life": -1.0}])
    def test_an_impossible_config_is_refused(self, kind, wrong) -> None:
        with pytest.raises(ValueError, match=next(iter(wrong))):
            replace(kind.presets["S"], **wrong)


@pytest.mark.parametrize(
    ("config", "wrong"),
    [(EASEConfig, {"l2": 0.0}), (ItemKNNConfig, {"shrink": -1.0}), (ItemKNNConfig, {"b": 2.0})],
)
def test_impossible_settings_of_a_model_are_refused(config, wrong) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        config(**wrong)


def test_ease_is_the_formula() -> None:
    model = EASE.fit(matrix(), EASEConfig(l2=3.0, half_life=None))
    lines = np.zeros((60, NUM_ROWS - 1))
    for line, history in zip(lines, histories(), strict=True):
        line[history.rows - 1] = 1
    inverse = np.linalg.inv(lines.T @ lines + 3.0 * np.eye(NUM_ROWS - 1))
    weights = -inverse / np.diag(inverse)
    np.fill_diagonal(weights, 0)
    seen = rows(1, 2, 8)
    expected = weights[seen - 1].sum(axis=0)
    np.testing.assert_allclose(scores_of(model, seen)[1:], expected, atol=1e-5)


def test_who_is_forgotten_was_never_there() -> None:
    leaving = [history.rows for history in histories()[50:]]
    fresh = EASE.fit(matrix(50), EASEConfig(l2=3.0))
    assert not np.allclose(fresh.inverse, EASE.fit(matrix(), EASEConfig(l2=3.0)).inverse, atol=1e-4)
    model = EASE.fit(matrix(), EASEConfig(l2=3.0)).without(leaving)
    np.testing.assert_allclose(model.inverse, fresh.inverse, atol=1e-5)
    np.testing.assert_allclose(
        scores_of(model, rows(1, 8)), scores_of(fresh, rows(1, 8)), atol=1e-4
    )


def test_who_was_never_there_cannot_be_forgotten() -> None:
    model = EASE.fit(matrix(2), EASEConfig(l2=0.01))
    with pytest.raises(ValueError, match="were not in the data"):
        model.without([np.arange(1, NUM_ROWS, dtype=np.int32)])
    with pytest.raises(ValueError, match="give rows from 1 to 12"):
        model.without([rows(NUM_ROWS)])


def test_item_knn_is_the_cosine_with_shrinkage() -> None:
    visits = [rows(1, 2), rows(1, 2, 3), rows(1)]
    x = from_histories([History(v, np.arange(len(v))) for v in visits], num_rows=4)
    model = ItemKNN.fit(matrix_of(x), ItemKNNConfig(shrink=1.0, k1=0.0))
    scores = scores_of(model, rows(1))
    assert scores[2] == pytest.approx(2 / (np.sqrt(3 * 2) + 1))
    assert scores[3] == pytest.approx(1 / (np.sqrt(3 * 1) + 1))
    damped = scores_of(ItemKNN.fit(matrix_of(x), ItemKNNConfig(shrink=0.0, k1=1.0, b=1.0)), rows(1))
    heavy, pair, lone = 2 / (1 + 1.5), 2 / (1 + 1.0), 2 / (1 + 0.5)
    sizes = heavy + pair + lone, heavy
    assert damped[3] == pytest.approx(heavy / np.sqrt(sizes[0] * sizes[1]))


def pairs_seen(times: int, *, num_rows: int) -> Matrix:
    together = History(rows(1, 2), np.arange(2, dtype=np.int64))
    return matrix_of(from_histories([together] * times, num_rows=num_rows))


def test_what_does_not_fit_into_memory_is_refused_before_it_is_made() -> None:
    wide = pairs_seen(1, num_rows=10_000_000)
    with pytest.raises(ValueError, match=r"ease needs .* GiB for 9,999,999 items .* take item_knn"):
        EASE.fit(wide, EASEConfig())


def test_items_that_are_always_together_need_more_l2() -> None:
    alike = pairs_seen(20_000, num_rows=3)
    with pytest.raises(ValueError, match="l2 is 1e-06: items seen as often"):
        EASE.fit(alike, EASEConfig(l2=1e-6))
