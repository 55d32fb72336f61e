"""Models that learn one event at a time: exactly, in any mini-batches, and to some avail."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from ouzel.features.matrix import matrix_of_pairs
from ouzel.models import steps
from ouzel.models.drawing import other_rows, unseen_rows
from ouzel.models.encoder import Encoder
from ouzel.models.factorization import FACTORIZATION_MODELS
from ouzel.models.factorization.bpr import BPR, BPRConfig
from ouzel.models.factorization.eals import EALS, EALSConfig
from ouzel.models.factorization.isgd import ISGD, ISGDConfig
from ouzel.models.online import OnlineEncoder
from ouzel.models.steps import Tables, ranked_steps, squared_steps, turns

ONLINE = [model for model in FACTORIZATION_MODELS if issubclass(model, OnlineEncoder)]
NUM_USERS, NUM_ROWS = 30, 21


def stream(events: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Return users who take the items of their own third of the catalogue, in random order."""
    rng = np.random.default_rng(seed)
    users = rng.integers(NUM_USERS, size=events)
    rows = 1 + (users % 3) * 7 % (NUM_ROWS - 1) + rng.integers(6, size=events)
    return users, rows.astype(np.int32)


def built(kind: type[Encoder], *, seed: int = 0, **settings: object) -> OnlineEncoder:
    torch.manual_seed(seed)
    config = replace(kind.presets["S"], **{"dim": 8, "half_life": None, **settings})
    return kind.build(config, num_users=NUM_USERS, num_rows=NUM_ROWS)


def tables(dim: int) -> Tables:
    rng = np.random.default_rng(1)
    users, items = rng.normal(0, 0.3, (NUM_USERS, dim)), rng.normal(0, 0.3, (NUM_ROWS, dim))
    return Tables(users.astype(np.float32), items.astype(np.float32), 0.1, 0.05)


def looped(told: Tables, users, rows, others=None, targets=None) -> list[float]:
    """Return the scores of the steps, as their formulas say them, in float64."""
    users_UD, items_ND = told.users_UD.astype(float), told.items_ND.astype(float)
    scores = []
    for place, (user, row) in enumerate(zip(users, rows, strict=True)):
        p, q = users_UD[user].copy(), items_ND[row].copy()
        scores.append(float(p @ q))
        if others is None:
            error = targets[place] - p @ q
            users_UD[user] += told.rate * (error * q - told.l2 * p)
            items_ND[row] += told.rate * (error * p - told.l2 * q)
            continue
        o = items_ND[others[place]].copy()
        less = 1 / (1 + np.exp(p @ q - p @ o))
        users_UD[user] += told.rate * (less * (q - o) - told.l2 * p)
        items_ND[row] += told.rate * (less * p - told.l2 * q)
        items_ND[others[place]] += told.rate * (-less * p - told.l2 * o)
    told.users_UD[:], told.items_ND[:] = users_UD, items_ND
    return scores


@pytest.fixture(params=["kernel", "numpy"])
def engine(request, monkeypatch) -> str:
    if request.param == "numpy":
        monkeypatch.setattr(steps, "_kernel", lambda: None)
    elif steps._kernel() is None:
        pytest.skip("the kernel was not built here")
    return request.param


@pytest.mark.parametrize("dim", [3, 16, 37])
class TestSteps:
    def test_squares_go_as_a_loop_would(self, engine, dim) -> None:
        users, rows = stream(400)
        targets = np.random.default_rng(2).normal(1, 1, 400).astype(np.float32)
        one, other = tables(dim), tables(dim)
        scores = squared_steps(one, users, rows, targets)
        np.testing.assert_allclose(scores, looped(other, users, rows, None, targets), atol=2e-4)
        np.testing.assert_allclose(one.users_UD, other.users_UD, atol=2e-4)
        np.testing.assert_allclose(one.items_ND, other.items_ND, atol=2e-4)

    def test_pairs_go_as_a_loop_would(self, engine, dim) -> None:
        users, rows = stream(400)
        others = (rows + np.random.default_rng(2).integers(1, 19, 400) - 1) % 20 + 1
        assert (others != rows).all()
        one, other = tables(dim), tables(dim)
        scores, _ = ranked_steps(one, users, rows, others)
        np.testing.assert_allclose(scores, looped(other, users, rows, others), atol=2e-4)
        np.testing.assert_allclose(one.users_UD, other.users_UD, atol=2e-4)
        np.testing.assert_allclose(one.items_ND, other.items_ND, atol=2e-4)


def test_a_turn_shares_nothing_and_keeps_the_order() -> None:
    users, rows = stream(300)
    others = rows[::-1].copy()
    found = list(turns(users, rows, others))
    assert sorted(np.concatenate(found).tolist()) == list(range(300))
    turn_of = np.empty(300, int)
    for number, turn in enumerate(found):
        turn_of[turn] = number
    for late in range(300):
        for early in range(late):
            shared = {rows[early], others[early]} & {rows[late], others[late]}
            if users[early] == users[late] or shared:
                assert turn_of[early] < turn_of[late]
    assert list(turns(users[:0], rows[:0])) == []


@pytest.mark.parametrize("kind", ONLINE)
class TestOnline:
    def test_learning_foretells_what_comes_next(self, kind) -> None:
        """Predict, then learn: the target's place among all items, against who never learns."""
        users, rows = stream(1500)
        model, still = built(kind), built(kind)
        ranks: dict[str, list[int]] = {"learning": [], "still": []}
        for first in range(0, 1500, 10):
            part = slice(first, first + 10)
            for name, of in (("learning", model), ("still", still)):
                users_UD, items_ND = of.arrays()
                scores = items_ND[1:] @ users_UD[users[first]]
                ranks[name].append(int((scores > scores[rows[first] - 1]).sum()))
            model.partial_fit(users[part], rows[part])
        learned = np.array(ranks["learning"])
        assert (learned[-50:] < 7).mean() > 0.8 > 0.7 > (learned[:10] < 7).mean()
        assert np.mean(ranks["still"][-50:]) > 2 * learned[-50:].mean()

    def test_the_score_returned_is_the_one_before(self, kind) -> None:
        model = built(kind)
        users, rows = stream(200)
        model.partial_fit(users, rows)
        users_UD, items_ND = model.arrays()
        expected = float(users_UD[4] @ items_ND[9])
        (score,) = model.partial_fit(np.array([4]), np.array([9], np.int32))
        assert score == pytest.approx(expected, abs=1e-5)
        assert float(model.arrays()[0][4] @ model.arrays()[1][9]) > expected

    def test_users_and_items_that_are_unknown_come_into_the_tables(self, kind) -> None:
        model = built(kind)
        users, rows = stream(200)
        model.partial_fit(users, rows)
        before = [table.copy() for table in model.arrays()]
        model.partial_fit(np.array([NUM_USERS + 2]), np.array([NUM_ROWS + 1], np.int32))
        users_UD, items_ND = model.arrays()
        assert users_UD.shape == (NUM_USERS + 3, 8) and items_ND.shape == (NUM_ROWS + 2, 8)
        assert np.array_equal(users_UD[:NUM_USERS], before[0])
        fresh = np.full(300, NUM_USERS + 2), np.full(300, NUM_ROWS + 1, np.int32)
        model.partial_fit(*fresh)
        users_UD, items_ND = model.arrays()
        assert users_UD[-1] @ items_ND[-1] > 0.5 and not items_ND[0].any()
        assert len(model.tensors()["items"]["vectors"]) == NUM_ROWS + 2
        assert len(model.tensors()["learning"]["users"]) == NUM_USERS + 3

    def test_other_vectors_stay_as_they_are(self, kind) -> None:
        model = built(kind)
        model.partial_fit(*stream(200))
        before = [table.copy() for table in model.arrays()]
        model.partial_fit(np.array([3]), np.array([5], np.int32))
        moved = [(old != fresh).any(1) for old, fresh in zip(before, model.arrays(), strict=True)]
        assert np.flatnonzero(moved[0]).tolist() == [3]
        others = {BPR: [1], ISGD: range(1, 7), EALS: [0]}[kind]
        assert moved[1][5] and moved[1].sum() - 1 in others

    def test_what_is_none_is_refused(self, kind) -> None:
        model = built(kind)
        with pytest.raises(ValueError, match="2 users and 1 rows"):
            model.partial_fit(np.array([1, 2]), np.array([1], np.int32))
        for users, rows in (([-1], [1]), ([1], [0])):
            with pytest.raises(ValueError, match="give users from 0 and rows from 1"):
                model.partial_fit(np.array(users), np.array(rows, np.int32))
        assert len(model.partial_fit(np.empty(0, int), np.empty(0, np.int32))) == 0


@pytest.mark.parametrize("kind", [ISGD, EALS])
@pytest.mark.parametrize("batch", [1, 7, 500])
def test_how_a_stream_is_cut_changes_nothing(kind, batch) -> None:
    users, rows = stream(500)
    settings = {"negatives": 0} if kind is ISGD else {}
    whole, cut = built(kind, **settings), built(kind, **settings)
    together = whole.partial_fit(users, rows)
    parts = [slice(at, at + batch) for at in range(0, 500, batch)]
    apart = np.concatenate([cut.partial_fit(users[part], rows[part]) for part in parts])
    np.testing.assert_allclose(apart, together, atol=1e-5)
    for one, other in zip(cut.arrays(), whole.arrays(), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5)


def test_the_others_of_bpr_are_any_items_but_its_own() -> None:
    rows = np.repeat(np.arange(1, NUM_ROWS), 300)
    others = other_rows(rows, NUM_ROWS)
    assert (others != rows).all() and others.min() == 1 and others.max() == NUM_ROWS - 1
    counts = np.bincount(others, minlength=NUM_ROWS)[1:]
    assert counts.min() > 200


def test_what_was_seen_is_drawn_again() -> None:
    users, rows = np.zeros(3000, int), np.tile(np.arange(1, 11), 300).astype(np.int32)
    matrix = matrix_of_pairs(users, rows, num_users=1, num_rows=NUM_ROWS)
    seen = (unseen_rows(matrix, users, rows) <= 10).mean()
    assert seen == pytest.approx((9 / 19) ** 2, abs=0.05)


def test_negatives_follow_each_event_and_go_to_0() -> None:
    model = built(ISGD, negatives=3)
    kept = [table.copy() for table in model.arrays()]
    torch.manual_seed(4)
    others = other_rows(np.full(3, 7), NUM_ROWS)
    torch.manual_seed(4)
    (score,) = model.partial_fit(np.array([2]), np.array([7], np.int32))
    expected = Tables(*kept, model.config.rate, model.config.l2)
    rows, targets = np.concatenate([[7], others]), np.array([1.0, 0, 0, 0])
    assert score == pytest.approx(looped(expected, [2] * 4, rows, None, targets)[0], abs=1e-6)
    for one, other in zip(model.arrays(), kept, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-6)


def test_targets_are_what_scores_go_to() -> None:
    model = built(ISGD, rate=0.1)
    users, rows = stream(8000)
    targets = np.where(rows % 2, 3.0, -1.0).astype(np.float32)
    scores = model.partial_fit(users, rows, targets)
    errors = np.square(targets - scores)
    assert errors[-1000:].mean() < 0.1 * errors[:1000].mean()
    with pytest.raises(ValueError, match="8000 rows and 1 targets"):
        model.partial_fit(users, rows, targets[:1])


@pytest.mark.parametrize(
    ("config", "wrong"),
    [
        *((kind, wrong) for kind in (BPRConfig, ISGDConfig) for wrong in ("rate", "l2", "alpha")),
        (ISGDConfig, "negatives"),
        (EALSConfig, "alpha"),
        (EALSConfig, "l2"),
        (EALSConfig, "popularity"),
    ],
)
def test_impossible_settings_are_refused(config, wrong) -> None:
    with pytest.raises(ValueError, match=f"{wrong} is -1"):
        config(**{wrong: -1.0})


def eals_loss(model: EALS, lines: np.ndarray) -> float:
    """Return the whole loss of the docstring, term by term."""
    config, counts = model.config, np.maximum(lines.sum(0), 1)
    powers = counts**config.popularity
    weights = config.alpha * powers / powers.mean()
    users, items = (table.astype(float) for table in model.arrays())
    scores = users @ items[1:].T
    total = (lines * (scores - 1) ** 2).sum() + (weights * scores**2).sum()
    per_user = lines.sum(1) + weights.sum()
    per_item = lines.sum(0) + len(users) * weights
    norms = (users**2).sum(1), (items[1:] ** 2).sum(1)
    return float(total + config.l2 * (per_user @ norms[0] + per_item @ norms[1]))


class TestEALS:
    def lines(self, users, rows) -> np.ndarray:
        lines = np.zeros((NUM_USERS, NUM_ROWS - 1))
        lines[users, rows - 1] = 1
        return lines

    def test_each_sweep_lowers_the_loss_until_it_is_at_rest(self) -> None:
        users, rows = stream(150)
        matrix = matrix_of_pairs(users, rows, num_users=NUM_USERS, num_rows=NUM_ROWS)
        model = built(EALS, alpha=0.2, l2=0.05)
        losses = []
        for _ in range(200):
            losses.append(eals_loss(model, self.lines(users, rows)))
            model.sweep(matrix)
        assert (np.diff(losses) <= 1e-3).all() and losses[-1] < 0.7 * losses[0]
        at_rest = eals_loss(model, self.lines(users, rows))
        rng = np.random.default_rng(3)
        for table in model.arrays():
            kept = table.copy()
            table[:] = kept + rng.normal(0, 1e-2, table.shape)
            assert eals_loss(model, self.lines(users, rows)) > at_rest
            table[:] = kept

    def test_an_event_goes_to_where_its_vectors_are_at_rest(self) -> None:
        """The planted fault would be a Gram matrix, a weight or a count of before the event."""
        users, rows = stream(150)
        model = built(EALS, alpha=0.2, l2=0.05, popularity=0.8)
        matrix = matrix_of_pairs(users, rows, num_users=NUM_USERS, num_rows=NUM_ROWS)
        model.sweep(matrix)
        for user, row in ((3, 5), (3, 6), (8, 5), (20, 5), (20, 5)):
            users, rows = np.append(users, user), np.append(rows, row)
            lines = self.lines(users, rows)
            model.partial_fit(np.array([user]), np.array([row], np.int32))
            self.assert_best(model, 1, row, lines)

    def assert_best(self, model: EALS, side: int, place: int, lines: np.ndarray) -> None:
        table, at_rest = model.arrays()[side], eals_loss(model, lines)
        kept = table[place].copy()
        for step in np.concatenate([np.eye(8), -np.eye(8)]):
            table[place] = kept + 0.02 * step
            assert eals_loss(model, lines) > at_rest - 1e-5
            table[place] = kept

    def test_a_popular_item_that_was_not_seen_counts_more(self) -> None:
        model = built(EALS, popularity=0.5, alpha=0.3)
        users = np.concatenate([np.arange(16), [0]])
        rows = np.concatenate([np.full(16, 1), [2]]).astype(np.int32)
        model.partial_fit(users, rows)
        weights = model._weights()
        assert weights[1] == pytest.approx(4 * weights[2]) and weights[0] == 0
        assert weights[1:].mean() == pytest.approx(0.3)

    def test_what_was_read_from_a_file_goes_on_as_if_never_stopped(self) -> None:
        users, rows = stream(400)
        whole, first = built(EALS), built(EALS)
        whole.partial_fit(users, rows)
        first.partial_fit(users[:300], rows[:300])
        second = built(EALS, seed=5)
        second.load_state_dict(first.state_dict())
        matrix = matrix_of_pairs(users[:300], rows[:300], num_users=NUM_USERS, num_rows=NUM_ROWS)
        second.remember(matrix)
        second.partial_fit(users[300:], rows[300:])
        for one, other in zip(second.arrays(), whole.arrays(), strict=True):
            np.testing.assert_allclose(one, other, atol=1e-4)
