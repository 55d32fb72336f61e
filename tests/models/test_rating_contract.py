"""What every model of ratings must do; the check that none escapes is with the factor models."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from ouzel.bundle.tensors import read_tensors, write_tensors
from ouzel.evaluation.by_history import rating_predictor
from ouzel.evaluation.rating import damped_means, random_folds, rating_errors
from ouzel.events.interactions import History, Interactions, group_by_user
from ouzel.features.matrix import RatedMatrix, rated_matrix_of
from ouzel.inference.history_fold import fold_in_of
from ouzel.inference.rated_fold_in import RatedFoldIn
from ouzel.models import gibbs
from ouzel.models.factorization import RATING_MODELS
from ouzel.models.factorization.svd import SVD
from ouzel.models.factorization.svdpp import SVDpp, SVDppConfig
from ouzel.models.gibbs import Side
from ouzel.models.rating import RatingModel

NUM_ROWS = 13
SMALL = {"dim": 3, "epochs": 25, "samples": 5}


def ratings(num_users: int = 60, *, seed: int = 0) -> Interactions:
    """Return users who like the items of their own half of the catalogue: 5 here, about 2 there."""
    rng = np.random.default_rng(seed)
    users = np.repeat(np.arange(num_users), 9)
    rows = np.concatenate([1 + rng.permutation(NUM_ROWS - 1)[:9] for _ in range(num_users)])
    own = (rows > 6) == (users % 2 == 1)
    values = np.where(own, 5, 2) - rng.integers(0, 2, len(rows)) * ~own
    return rated(users, rows, values)


def rated(users: np.ndarray, rows: np.ndarray, values: np.ndarray) -> Interactions:
    times = np.arange(len(rows), dtype=np.int64)
    columns = (users.astype(np.int64), rows.astype(np.int32), times, values.astype(np.float32))
    return group_by_user(*columns, num_rows=NUM_ROWS)


def visit(rows: list[int], values: list[float] | None) -> History:
    told = None if values is None else np.array(values, np.float32)
    return History(np.array(rows, np.int32), np.arange(len(rows), dtype=np.int64), told)


def fitted(kind: type[RatingModel], *, seed: int = 0, **settings: object) -> RatingModel:
    torch.manual_seed(seed)
    matrix = rated_matrix_of(ratings())
    model = kind.build(replace(kind.presets["S"], **SMALL, **settings), matrix)
    for _ in range(SMALL["epochs"]):
        model.sweep(matrix)
    return model


def fold_in(model: RatingModel) -> RatedFoldIn:
    tensors = model.tensors()
    found = fold_in_of(tensors["fold_in"], tensors["items"]["vectors"])
    assert isinstance(found, RatedFoldIn)
    return found


def oracle(model: RatingModel, history: History) -> np.ndarray:
    """Return what each draw predicts of each item, averaged, one rating after another."""
    tensors = model.tensors()
    told, vectors = tensors["fold_in"], tensors["items"]["vectors"].astype(np.float64)
    scale, implied = told["values"]
    latest: dict[int, float] = {}
    for row, value in zip(history.rows.tolist(), history.values.tolist(), strict=True):
        if row < NUM_ROWS and (not np.isnan(value) or row not in latest):
            latest[row] = value
    total = np.zeros(NUM_ROWS)
    num_draws, size = told["means"].shape
    for draw in range(num_draws):
        own = vectors[:, draw * (size + 1) : (draw + 1) * (size + 1)]
        precision = told["precisions"][draw].astype(np.float64)
        mean = told["means"][draw].astype(np.float64)
        if "partners" in told:
            partners = told["partners"][:, draw * size : (draw + 1) * size]
            mean = mean + sum(partners[row] for row in latest) / len(latest) ** 0.5
        left, right = precision.copy(), precision @ mean
        for row, value in latest.items():
            given = implied if np.isnan(value) else value
            left += told["noise"][draw] * np.outer(own[row, :-1], own[row, :-1])
            missing = (given - own[row, -1]) / scale
            right += told["noise"][draw] * own[row, :-1] * missing
        user = np.linalg.solve(left, right)
        total += own[:, -1] + scale * own[:, :-1] @ user
    return total / num_draws


@pytest.mark.parametrize("kind", RATING_MODELS)
class TestContract:
    def test_shapes(self, kind) -> None:
        model = fitted(kind)
        tensors = model.tensors()
        vectors = tensors["items"]["vectors"]
        assert vectors.shape == (NUM_ROWS, 5 * (3 + 1 + 1)) and vectors.dtype == np.float32
        assert not vectors[0].any() and np.isfinite(vectors).all()
        assert len(tensors["fold_in"]["noise"]) == 5

    def test_a_checkerboard_is_learned_for_people_who_were_not_there(self, kind) -> None:
        predict = rating_predictor(fitted(kind).tensors())
        left = predict(visit([1, 2, 7, 8], [5, 5, 1, 2]), np.arange(1, NUM_ROWS))
        right = predict(visit([1, 2, 7, 8], [1, 2, 5, 5]), np.arange(1, NUM_ROWS))
        assert left[[2, 3, 4, 5]].min() > left[[8, 9, 10, 11]].max() + 1.5
        assert right[[8, 9, 10, 11]].min() > right[[2, 3, 4, 5]].max() + 1.5

    def test_it_errs_less_than_means_do(self, kind) -> None:
        x = ratings()
        test_E = random_folds(x, 5, seed=0)[0]
        train = x.keep(~test_E)
        matrix = rated_matrix_of(train)
        torch.manual_seed(0)
        model = kind.build(replace(kind.presets["S"], **SMALL), matrix)
        for _ in range(SMALL["epochs"]):
            model.sweep(matrix)
        errors = rating_errors(rating_predictor(model.tensors()), x, test_E)
        assert errors.rmse < 0.6 < 1.2 < rating_errors(damped_means(train), x, test_E).rmse
        assert errors.num_ratings == test_E.sum()

    def test_values_of_another_scale_are_predicted_alike(self, kind) -> None:
        """Stars or percent; items differ in how they are liked by all, too."""
        x = ratings()
        told = []
        for scale, shift in ((1, 0), (16, 4)):
            values_E = scale * (x.values_E + x.rows_E) + shift
            matrix = rated_matrix_of(replace(x, values_E=values_E.astype(np.float32)))
            torch.manual_seed(0)
            model = kind.build(replace(kind.presets["S"], dim=2, epochs=5, samples=2), matrix)
            for _ in range(5):
                model.sweep(matrix)
            history = visit([1, 9], [6 * scale + shift, 11 * scale + shift])
            predict = rating_predictor(model.tensors())
            told.append((predict(history, np.arange(1, NUM_ROWS)) - shift) / scale)
        np.testing.assert_allclose(told[0], told[1], atol=0.05)
        assert told[0][9:].mean() > told[0][:3].mean() + 4

    def test_the_seed_decides(self, kind) -> None:
        one, two, other = (
            fitted(kind, seed=seed).tensors()["items"]["vectors"] for seed in (0, 0, 1)
        )
        assert np.array_equal(one, two) and not np.array_equal(one, other)

    def test_the_loss_falls(self, kind) -> None:
        matrix = rated_matrix_of(ratings())
        torch.manual_seed(0)
        model = kind.build(replace(kind.presets["S"], **SMALL), matrix)
        losses = [model.sweep(matrix) for _ in range(10)]
        assert losses[-1] < 0.7 * losses[0] and losses[-1] < 0.5

    def test_what_is_served_from_a_file_predicts_alike(self, kind, tmp_path: Path) -> None:
        model = fitted(kind)
        read = {}
        for name, arrays in model.tensors().items():
            write_tensors(tmp_path / name, arrays)
            read[name] = read_tensors(tmp_path / name)
        predict = rating_predictor(read)
        for history in (
            visit([1, 8, 3], [5, 2, 4]),
            visit([4, 99, 4, 9], [5, 3, 1, float("nan")]),
            visit([4, 9, 4], [2, float("nan"), float("nan")]),
        ):
            expected = oracle(model, history)[1:]
            found = predict(history, np.arange(1, NUM_ROWS))
            np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)

    def test_every_event_counts_and_a_value_more_than_none(self, kind) -> None:
        model = fold_in(fitted(kind))
        liked, clicked = visit([1, 2], [5, 5]), visit([1, 2], None)
        nan = float("nan")
        before = model.query_session(visit([1], [5]), 0)
        for history in (liked, clicked, visit([1, 2], [5, 1])):
            assert np.abs(model.query_session(history, 0) - before).max() > 1e-3
        first = model.query_session(visit([1, 1], [2, nan]), 0)
        np.testing.assert_array_equal(first, model.query_session(visit([1], [2]), 0))
        again = model.query_session(visit([1, 1], [2, 4]), 0)
        np.testing.assert_array_equal(again, model.query_session(visit([1], [4]), 0))

    def test_who_is_unknown_has_no_vector_and_is_rated_as_the_average(self, kind) -> None:
        model = fitted(kind)
        assert fold_in(model).query_session(visit([], []), 0) is None
        assert fold_in(model).query_session(visit([0, 77], [5, 5]), 0) is None
        anybody = rating_predictor(model.tensors())(visit([], []), np.arange(1, NUM_ROWS))
        assert (np.abs(anybody - ratings().values_E.mean()) < 1.2).all()

    def test_items_of_nobody_and_few_ratings_are_no_trouble(self, kind) -> None:
        few = rated_matrix_of(rated(np.array([0, 0, 3]), np.array([1, 2, 1]), np.array([1, 5, 2])))
        model = kind.build(replace(kind.presets["S"], **SMALL), few)
        for _ in range(SMALL["epochs"]):
            assert np.isfinite(model.sweep(few))
        found = rating_predictor(model.tensors())(visit([1], [2]), np.arange(1, NUM_ROWS))
        assert np.isfinite(found).all()
        assert np.ptp(found[2:]) < 1e-5 or kind is not SVD  # nothing is known of any of them

    def test_data_of_others_are_refused(self, kind) -> None:
        model = kind.build(kind.presets["S"], rated_matrix_of(ratings()))
        with pytest.raises(ValueError, match="another than the model was made for"):
            model.sweep(rated_matrix_of(ratings(seed=1)))

    def test_draws_are_kept_evenly_up_to_the_last_sweep(self, kind) -> None:
        config = replace(kind.presets["S"], dim=1, epochs=12, samples=3)
        matrix = rated_matrix_of(ratings())
        model = kind.build(config, matrix)
        kept = []
        for _ in range(12):
            model.sweep(matrix)
            kept.append(len(model.tensors()["fold_in"]["noise"]) if model._draws else 0)
        assert kept == [0, 0, 0, 0, 0, 1, 1, 1, 2, 2, 2, 3]

    @pytest.mark.parametrize("wrong", [{"dim": 0}, {"epochs": 0}, {"samples": 0}])
    def test_an_impossible_config_is_refused(self, kind, wrong) -> None:
        with pytest.raises(ValueError, match=next(iter(wrong))):
            replace(kind.presets["S"], **wrong)


def test_an_impossible_ridge_is_refused() -> None:
    with pytest.raises(ValueError, match="l2 is 0"):
        SVDppConfig(l2=0.0)


def test_funk_has_no_biases() -> None:
    model = fitted(SVD, biased=False)
    vectors = model.tensors()["items"]["vectors"]
    assert vectors.shape == (NUM_ROWS, 5 * (3 + 1))
    np.testing.assert_allclose(vectors[1:, 3], ratings().values_E.mean(), rtol=1e-5)
    assert fold_in(model).dim == 20


def test_that_something_was_rated_at_all_tells_the_implicit_model() -> None:
    """Who chose items 1 to 3 loves all others, who chose 4 to 6 does not; that alone is told."""
    users = np.repeat(np.arange(60), 7)
    places, kinds = np.tile(np.arange(7), 60), users % 2
    rows = np.where(places < 3, 1 + places + 3 * kinds, 7 + (places + users) % 6)
    x = rated(users, rows, np.where(places < 3, 3, np.where(kinds == 0, 5, 1)))
    matrix = rated_matrix_of(x)
    torch.manual_seed(0)
    model = SVDpp.build(SVDppConfig(**SMALL), matrix)
    for _ in range(SMALL["epochs"]):
        model.sweep(matrix)
    tensors = model.tensors()
    nothing_said = np.full(5, 1e-9)
    lovers, others = visit([1, 2, 3], [3, 3, 3]), visit([4, 5, 6], [3, 3, 3])
    gaps = []
    for weight in (1, 0):
        told = {**tensors["fold_in"], "noise": nothing_said}
        told["partners"] = weight * tensors["fold_in"]["partners"]
        predict = rating_predictor({**tensors, "fold_in": told})
        gaps.append((predict(lovers, np.arange(7, 13)) - predict(others, np.arange(7, 13))).mean())
    assert gaps[0] > 2 and abs(gaps[1]) < 1e-3


def test_vectors_are_drawn_from_what_the_ratings_leave_open() -> None:
    """The mean and the spread of many draws are those of the normal distribution by the book."""
    users, values = np.repeat(np.arange(4000), 4), np.tile([1.0, 2, 3, 5], 4000)
    x = rated(users, np.tile(np.arange(1, 5), 4000), values)
    torch.manual_seed(0)
    features, offsets = torch.randn(NUM_ROWS, 2), torch.linspace(-1, 1, NUM_ROWS)
    side = Side(rated_matrix_of(x), 2, l2=None)
    for _ in range(2):  # a draw does not depend on the one before
        side.draw_vectors(features, offsets, 0.7)
    chosen = features[1:5].numpy()
    precision = 0.7 * chosen.T @ chosen + gibbs.FIRST_PRECISION * np.eye(2)
    targets = np.array([1.0, 2, 3, 5]) - offsets[1:5].numpy()
    mean = np.linalg.solve(precision, 0.7 * chosen.T @ targets)
    found = side.vectors_XK.numpy()
    np.testing.assert_allclose(found.mean(0), mean, atol=0.02)
    np.testing.assert_allclose(np.cov(found.T), np.linalg.inv(precision), atol=0.01)


@pytest.mark.parametrize("turned", [False, True])
def test_the_implicit_term_is_a_ridge_regression(turned, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both ways of solving it, by partners and by lines, are the formula; noise left out."""
    monkeypatch.setattr(gibbs, "_noise", lambda precision, count: torch.zeros(count, 2))
    matrix = rated_matrix_of(ratings(30))
    matrix = matrix.transposed() if turned else matrix
    implicit = gibbs._Implicit(matrix.pairs, 0.5)
    num_lines, num_partners = matrix.pairs.num_users, matrix.pairs.num_rows
    assert implicit._by_line == (num_lines < num_partners) == turned
    chosen = np.zeros((num_lines, num_partners))
    for line in range(num_lines):
        partners = matrix.pairs.line(line)
        chosen[line, partners] = len(partners) ** -0.5 if len(partners) else 0
    apart = torch.randn(num_lines, 2)
    expected = np.linalg.solve(
        chosen.T @ chosen + 0.5 * np.eye(num_partners), chosen.T @ apart.numpy()
    )
    np.testing.assert_allclose(implicit.draw(apart, torch.eye(2)), expected, atol=1e-4)
    np.testing.assert_allclose(implicit.means_XK(2), chosen @ expected, atol=1e-4)


def test_what_does_not_fit_into_memory_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gibbs, "MOST_LINES", 5)
    with pytest.raises(ValueError, match="take svd"):
        SVDpp.build(SVDpp.presets["S"], rated_matrix_of(ratings()))


def test_a_prior_is_drawn_near_what_the_vectors_show() -> None:
    matrix = rated_matrix_of(ratings(400))
    side = Side(matrix, 2, l2=None)
    torch.manual_seed(0)
    side.vectors_XK = torch.randn(400, 2) * torch.tensor([0.5, 2.0]) + torch.tensor([1.0, -3.0])
    means, precisions = [], []
    for _ in range(200):
        side.draw_prior()
        means.append(side.prior.mean_K)
        precisions.append(side.prior.precision_KK)
    np.testing.assert_allclose(torch.stack(means).mean(0), [1.0, -3.0], atol=0.2)
    expected = np.array([0.5, 2.0]) / np.sqrt(400 + gibbs.MEAN_WEIGHT)
    np.testing.assert_allclose(torch.stack(means).std(0), expected, rtol=0.25)
    spread = torch.linalg.inv(torch.stack(precisions).mean(0)).diagonal().sqrt()
    np.testing.assert_allclose(spread, [0.5, 2.0], rtol=0.1)


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ([np.nan, np.nan], "none of 2 events has a value: add a column `value`"),
        ([3.0, 3.0], "all 2 ratings are 3, which tells no item from another"),
        ([3.0, np.inf], "values reach from 3.0 to inf"),
    ],
)
def test_what_is_no_rating_is_refused(values, told) -> None:
    with pytest.raises(ValueError, match=told):
        rated_matrix_of(rated(np.zeros(2), np.array([1, 2]), np.array(values)))


def test_events_without_a_value_are_left_out_and_the_newest_value_counts() -> None:
    users, rows = np.array([1, 1, 1, 0, 1]), np.array([4, 2, 4, 3, 2])
    matrix = rated_matrix_of(rated(users, rows, np.array([1, 2, 3, np.nan, np.nan])))
    assert isinstance(matrix, RatedMatrix)
    assert matrix.pairs.line(1).tolist() == [2, 4] and matrix.values_E.tolist() == [2.0, 3.0]
    assert len(matrix.pairs.line(0)) == 0 and len(matrix) == 2
    turned = matrix.transposed()
    assert turned.pairs.line(4).tolist() == [1] and turned.values_E.tolist() == [2.0, 3.0]
