"""Baselines, and the evaluator's self-test on published popularity figures."""

import gzip
import os
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from ouzel.evaluation.baselines import (
    baseline_scorers,
    popular_scorer,
    recent_popular_scorer,
)
from ouzel.evaluation.protocol import evaluate
from ouzel.events.interactions import History, from_histories

DATA = Path(os.environ.get("OUZEL_DATA", Path(__file__).parents[2] / "../shared/data"))


def leave_one_out(name):
    path = DATA / name / "sequences.txt.gz"
    if not path.exists():
        pytest.skip(f"{path} is absent: set OUZEL_DATA to the folder that holds {name}")
    with gzip.open(path, "rt") as lines:
        visits = [np.array(line.split()[1:], np.int32) for line in lines]
    num_rows = max(int(visit.max()) for visit in visits) + 1
    full = from_histories([History(v, np.arange(len(v))) for v in visits], num_rows=num_rows)
    last = np.zeros(len(full), np.bool_)
    last[full.offsets_U1[1:] - 1] = True
    last_two = last | np.roll(last, -1)
    targets = SimpleNamespace(users_T=np.arange(full.num_users), ends_T=np.flatnonzero(last))
    return full, full.keep(~last_two), targets


@pytest.mark.parametrize(
    ("name", "leaking", "honest"),
    [
        ("amazon-beauty", (0.0152, 0.0068), 0.0115),
        ("amazon-sports", (0.0094, 0.0053), 0.0091),
    ],
)
def test_popularity_comes_out_as_published(name, leaking, honest):
    """The published rows count the test items themselves; without them popularity is worth less.

    References: the PopRec rows of Zhou et al., S3-Rec, CIKM 2020.
    """
    full, train, targets = leave_one_out(name)
    report = evaluate(popular_scorer(full), full, targets, model="leaking")
    recall, ndcg, _ = report.values_TM().mean(axis=0)
    assert (round(recall, 4), round(ndcg, 4)) == leaking
    report = evaluate(popular_scorer(train), full, targets, model="popular")
    assert round(report.values_TM()[:, 0].mean(), 4) == honest


@pytest.fixture
def interactions():
    return from_histories(
        [
            History(np.array([1, 2], np.int32), np.array([0, 100])),
            History(np.array([1, 3], np.int32), np.array([10, 101])),
        ],
        num_rows=5,
    )


def test_recent_popularity_knows_nothing_of_the_future(interactions):
    scores = recent_popular_scorer(interactions, window_ms=50)([None] * 3, np.array([5, 101, 999]))
    assert scores.argmax(axis=1).tolist() == [1, 2, 2]
    assert scores[0, 1] > scores[0, 2] > scores[0, 3] > 0  # all-time counts, then rows, break ties


def test_every_baseline_scores_every_history(interactions):
    histories = [interactions.history(0), History(np.empty(0, np.int32), np.empty(0, np.int64))]
    for name, scorer in baseline_scorers(interactions).items():
        scores = scorer(histories, np.array([200, 200]))
        assert scores.shape == (2, 5) and scores.dtype == np.float32, name
        assert not np.isnan(scores).any()
