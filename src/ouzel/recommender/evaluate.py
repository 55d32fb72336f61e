"""The table of accuracy: the model of a home beside every baseline, on what training left out."""

from __future__ import annotations

from typing import Any

from ouzel.data.split import Split, leave_one_out, temporal
from ouzel.evaluation.baselines import baseline_scorers
from ouzel.evaluation.protocol import Scorer, evaluate
from ouzel.evaluation.sequence import sequence_scorer
from ouzel.events.interactions import Interactions
from ouzel.inference.onnxruntime import Graphs
from ouzel.recommender.home import Home
from ouzel.recommender.options import Progress

SPLITS = {"leave-one-out": leave_one_out, "temporal": temporal}


def split_of(interactions: Interactions, name: str) -> Split:
    """Return `interactions` split as `name` says: a key of `SPLITS`.

    >>> import numpy as np
    >>> from ouzel.events.interactions import History, from_histories
    >>> visit = History(np.array([1, 2, 3], np.int32), np.array([10, 20, 30]))
    >>> len(split_of(from_histories([visit], num_rows=4), "leave-one-out").test)
    1
    """
    return SPLITS[name](interactions)


def compare(
    model: str, scorer: Scorer, split: Split, *, name: str, progress: Progress
) -> list[dict[str, Any]]:
    """Return the rows of `model` and of every baseline on the test part of the split `name`.

    The model's row comes first and says by how much it leads the `best_baseline` in NDCG@10,
    paired by target: `ndcg@10_lead` with its 95 % interval, `_low` to `_high`. Without a test part
    there are no rows.

    >>> import numpy as np
    >>> from ouzel.events.interactions import History, from_histories
    >>> from ouzel.recommender.options import Silent
    >>> visit = History(np.array([1, 2, 3], np.int32), np.array([10, 20, 30]))
    >>> split = leave_one_out(from_histories([visit], num_rows=4))
    >>> fixed = lambda histories, now_ms: np.array([[0, 1, 2, 9]], np.float32)
    >>> row = compare("fixed", fixed, split, name="leave-one-out", progress=Silent())[0]
    >>> row["recall@10"], row["ndcg@10_lead"]
    (1.0, 0.0)
    """
    if not len(split.test.ends_T):
        progress.say("Nothing to test on: no user has events in the test part")
        return []
    reports = [
        evaluate(
            scorer,
            split.full,
            split.test,
            model=model,
            split=name,
            progress=progress.step(f"Evaluating {model}"),
        )
        for model, scorer in {model: scorer, **baseline_scorers(split.train)}.items()
    ]
    rows: list[dict[str, Any]] = [report.row() for report in reports]
    best = max(range(1, len(rows)), key=lambda place: float(rows[place]["ndcg@10"]))
    lead = reports[0].against(reports[best], "ndcg")
    rows[0] |= {
        "best_baseline": rows[best]["model"],
        "ndcg@10_lead": lead.mean,
        "ndcg@10_lead_low": lead.low,
        "ndcg@10_lead_high": lead.high,
    }
    return rows


def evaluate_home(home: Home, progress: Progress, *, threads: int) -> list[dict[str, Any]]:
    """Return the rows of the home's model and of every baseline, the model first.

    After a refit it is the model that was trained without the test part that is measured.

    Raises:
        ValueError: there is no trained model, or the log no longer holds what it was trained on.

    >>> from pathlib import Path
    >>> from ouzel.recommender.options import Silent
    >>> evaluate_home(Home(Path("no-such-home")), Silent(), threads=1)
    Traceback (most recent call last):
    ...
    ValueError: no-such-home has no model yet: run `ouzel train --data PATH --out no-such-home`
    """
    bundle = home.measured()
    features = bundle.manifest.features
    with home.log() as log:
        interactions = log.interactions(until_offset=features["until_offset"])
        if log.digest(until_offset=features["until_offset"]) != bundle.manifest.data.digest:
            raise ValueError(
                f"the events in {home.root} are not those the model was trained on (some were "
                "deleted, or came late); train again to evaluate"
            )
    split = split_of(interactions, features["split"])
    graphs = Graphs.of(bundle, threads=threads)
    scorer = sequence_scorer(graphs, bundle.tensors("items")["vectors"])
    return compare(bundle.manifest.model, scorer, split, name=features["split"], progress=progress)
