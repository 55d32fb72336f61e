from types import SimpleNamespace

import numpy as np
import pytest

from ouzel.evaluation.metrics import UNRANKED
from ouzel.evaluation.protocol import evaluate
from ouzel.events.interactions import History, from_histories

NUM_ROWS = 30


@pytest.fixture
def full():
    rng = np.random.default_rng(0)
    visits = [rng.permutation(np.arange(1, NUM_ROWS))[: 3 + user] for user in range(12)]
    return from_histories(
        [History(v.astype(np.int32), 100 * u + np.arange(len(v))) for u, v in enumerate(visits)],
        num_rows=NUM_ROWS,
    )


def last_of_each(full):
    return SimpleNamespace(users_T=np.arange(full.num_users), ends_T=full.offsets_U1[1:] - 1)


def knows_the_future(full, *, off_by=0):
    """Return a scorer that finds the next item by the request time: only a test can."""

    def score(histories, now_ms):
        scores = np.zeros((len(histories), NUM_ROWS), np.float32)
        at = [int(np.flatnonzero(full.times_ms_E == now)[0]) + off_by for now in now_ms]
        scores[np.arange(len(at)), full.rows_E[at]] = 1
        return scores

    return score


def test_a_perfect_scorer_is_perfect_in_any_batch_size(full):
    for size in (1, 5, 256):
        report = evaluate(
            knows_the_future(full), full, last_of_each(full), model="oracle", batch_size=size
        )
        assert (report.ranks_T == 1).all()
    row = report.row()
    assert row["recall@10"] == row["hit_rate@10"] == row["ndcg@10"] == row["mrr@10"] == 1.0
    assert row["num_users"] == row["num_targets"] == 12 and row["num_unreachable"] == 0


def test_a_scorer_of_what_was_seen_is_worth_nothing(full):
    """Plants the fault of an evaluator that forgets to filter seen items, or shifts by one."""
    report = evaluate(
        knows_the_future(full, off_by=-1), full, last_of_each(full), model="late", k=3
    )
    assert report.row()["recall@3"] == 0


def test_histories_end_right_before_their_target(full):
    given = {}

    def score(histories, now_ms):
        given.update(zip(now_ms.tolist(), histories, strict=True))
        return np.zeros((len(histories), NUM_ROWS), np.float32)

    targets = SimpleNamespace(users_T=np.array([7, 7, 2]), ends_T=full.offsets_U1[[7, 7, 2]] + 2)
    targets.ends_T[1] += 1
    report = evaluate(score, full, targets, model="flat", batch_size=2)
    for user, end in zip(targets.users_T, targets.ends_T, strict=True):
        history = given[int(full.times_ms_E[end])]
        assert history.rows.tolist() == full.rows_E[full.offsets_U1[user] : end].tolist()
    assert report.ranks_T.tolist() == [27, 26, 27]  # the last among all unseen: ties count against


def test_a_repeat_is_unreachable_and_counted():
    full = from_histories([History(np.array([1, 2, 1], np.int32), np.arange(3))], num_rows=4)
    report = evaluate(
        lambda histories, now_ms: np.ones((1, 4), np.float32), full, last_of_each(full), model="m"
    )
    assert report.ranks_T.tolist() == [UNRANKED]
    assert report.row()["num_unreachable"] == 1


def test_coverage_and_scorers_of_a_shorter_catalogue(full):
    def always_low_rows(histories, now_ms):
        return np.tile(-np.arange(6, dtype=np.float32), (len(histories), 1))

    report = evaluate(always_low_rows, full, last_of_each(full), model="low", k=2)
    assert report.coverage <= 5 / (NUM_ROWS - 1)


def test_progress_counts_up_to_all(full):
    told = []
    evaluate(
        knows_the_future(full),
        full,
        last_of_each(full),
        model="oracle",
        batch_size=5,
        progress=lambda done, total: told.append((done, total)),
    )
    assert told == [(5, 12), (10, 12), (12, 12)]


def test_lead_over_another_model_is_paired(full):
    good = evaluate(knows_the_future(full), full, last_of_each(full), model="good")
    poor = evaluate(knows_the_future(full, off_by=-1), full, last_of_each(full), model="poor")
    lead = good.against(poor, "ndcg")
    assert lead.mean > 0.5 and lead.low > 0
    assert good.against(good).high == 0
    with pytest.raises(ValueError, match="unknown"):
        good.against(poor, "auc")
    other = evaluate(knows_the_future(full), full, last_of_each(full), model="k5", k=5)
    with pytest.raises(ValueError, match="different targets"):
        good.against(other)


def test_bad_input_is_refused(full):
    good = knows_the_future(full)
    nobody = SimpleNamespace(users_T=np.empty(0, np.int64), ends_T=np.empty(0, np.int64))
    with pytest.raises(ValueError, match="at least one target"):
        evaluate(good, full, nobody, model="m")
    stray = SimpleNamespace(users_T=np.array([0]), ends_T=full.offsets_U1[1:2])
    with pytest.raises(ValueError, match="not an event of its user 0"):
        evaluate(good, full, stray, model="m")
    for shape in ((12,), (1, NUM_ROWS), (12, NUM_ROWS + 1)):
        with pytest.raises(ValueError, match="the scorer gave"):
            evaluate(
                lambda histories, now_ms, shape=shape: np.zeros(shape, np.float32),
                full,
                last_of_each(full),
                model="m",
            )
