"""The table of accuracy: the model of a home beside every baseline, on what training left out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ouzel.bundle.bundle import Bundle
from ouzel.bundle.manifest import Kind
from ouzel.data.split import Split, leave_one_out, nothing_held_out, temporal
from ouzel.evaluation.baselines import baseline_scorers
from ouzel.evaluation.blended import blended_scorer, fused_scorer, parts_with
from ouzel.evaluation.by_history import Tensors, fold_in_scorer, item_item_scorer
from ouzel.evaluation.cold import figures_of, parts_of
from ouzel.evaluation.protocol import Scorer, evaluate
from ouzel.evaluation.ranked import ranked_scorer, reordered_scorer
from ouzel.evaluation.sequence import sequence_scorer
from ouzel.events.interactions import Interactions
from ouzel.inference.fields import FieldRanker
from ouzel.inference.onnxruntime import CTR, Graphs
from ouzel.ranking.blending import Blender
from ouzel.ranking.scoring import BREADTH, action_weights
from ouzel.recommender.home import Home
from ouzel.recommender.options import Progress

if TYPE_CHECKING:
    from ouzel.recommender.publish import Exported

ITEM_FILES: dict[Kind, tuple[str, ...]] = {
    "encoder": ("items", "fold_in"),
    "closed_form": ("item_item",),
}
"""The files that a model without states is served from."""

SPLITS = {"leave-one-out": leave_one_out, "temporal": temporal, "none": nothing_held_out}


def split_of(interactions: Interactions, name: str) -> Split:
    """Return `interactions` split as `name` says: a key of `SPLITS`.

    Raises:
        ValueError: so many events have the same time that none comes before the others.

    >>> from ouzel.events.interactions import History, from_histories
    >>> visit = History(np.array([1, 2, 3], np.int32), np.array([10, 20, 30]))
    >>> len(split_of(from_histories([visit], num_rows=4), "leave-one-out").test)
    1
    """
    split = SPLITS[name](interactions)
    if name == "temporal" and not len(split.train):
        raise ValueError(
            f"of {len(interactions):,} events too many have the same time, so none comes before "
            "the others to learn from: take split leave-one-out, or give events the times at "
            "which they happened"
        )
    return split


def compare(
    models: Mapping[str, Scorer], split: Split, *, name: str, progress: Progress
) -> list[dict[str, Any]]:
    """Return the rows of `models` and of every baseline on the test part of the split `name`.

    The first model is what is served: its row says by how much it leads the `best_baseline` of all
    the others in NDCG@10, paired by target: `ndcg@10_lead` with its 95 % interval, `_low` to
    `_high`, and likewise `recall@10_lead`. Every row has its figures on cold and on warm targets
    (`ouzel.evaluation.cold`). Without a test part there are no rows.

    >>> from ouzel.events.interactions import History, from_histories
    >>> from ouzel.recommender.options import Silent
    >>> visit = History(np.array([1, 2, 3], np.int32), np.array([10, 20, 30]))
    >>> split = leave_one_out(from_histories([visit], num_rows=4))
    >>> fixed = lambda histories, now_ms: np.array([[0, 1, 2, 9]], np.float32)
    >>> row = compare({"fixed": fixed}, split, name="leave-one-out", progress=Silent())[0]
    >>> row["recall@10"], row["ndcg@10_lead"]
    (1.0, 0.0)
    """
    if not len(split.test.ends_T):
        if name != "none":
            progress.warn("Nothing to test on: no user has events in the test part")
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
        for model, scorer in {**models, **baseline_scorers(split.train)}.items()
    ]
    parts = parts_of(split.full, split.train, split.test)
    rows: list[dict[str, Any]] = [report.row() | figures_of(report, parts) for report in reports]
    best = max(range(1, len(rows)), key=lambda place: float(rows[place]["ndcg@10"]))
    rows[0]["best_baseline"] = rows[best]["model"]
    for metric in ("ndcg", "recall"):
        lead = reports[0].against(reports[best], metric)
        rows[0] |= {
            f"{metric}@10_lead": lead.mean,
            f"{metric}@10_lead_low": lead.low,
            f"{metric}@10_lead_high": lead.high,
        }
    return rows


def recorded_split(home: Home, bundle: Bundle) -> tuple[Interactions, Split]:
    """Return the events that a Bundle of `home` was made from, and how they were split.

    Raises:
        ValueError: the log no longer holds them.

    >>> import tempfile
    >>> from pathlib import Path
    >>> from types import SimpleNamespace
    >>> data = SimpleNamespace(digest="of other events")
    >>> manifest = SimpleNamespace(features={"until_offset": 0, "split": "temporal"}, data=data)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     recorded_split(Home(Path(folder)), SimpleNamespace(manifest=manifest))
    ... # doctest: +ELLIPSIS
    Traceback (most recent call last):
    ...
    ValueError: the events in ... are not those the model was trained on ...
    """
    features = bundle.manifest.features
    with home.log() as log:
        interactions = log.interactions(until_offset=features["until_offset"])
        if log.digest(until_offset=features["until_offset"]) != bundle.manifest.data.digest:
            raise ValueError(
                f"the events in {home.root} are not those the model was trained on (some were "
                "deleted, or came late); train again to evaluate"
            )
    return interactions, split_of(interactions, features["split"])


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
    _, split = recorded_split(home, bundle)
    models = scorers_of_bundle(bundle, split.train, threads=threads)
    return compare(models, split, name=features["split"], progress=progress)


def scorers_of_bundle(bundle: Bundle, train: Interactions, *, threads: int) -> dict[str, Scorer]:
    """Return the scorers of what a Bundle serves, the whole of it first, by name.

    `train` is what other sources are fitted on, if the Bundle blends its model with some.

    >>> from types import SimpleNamespace
    >>> arrays = {"offsets": np.zeros(4, np.int64), "rows": np.zeros(0, np.int32)}
    >>> arrays |= {"values": np.zeros(0, np.float32), "fade": np.ones(1)}
    >>> manifest = SimpleNamespace(kind="closed_form", model="ease", features={})
    >>> bundle = SimpleNamespace(manifest=manifest, tensors={"item_item": arrays}.get)
    >>> list(scorers_of_bundle(bundle, train=None, threads=1))
    ['ease']
    """
    manifest = bundle.manifest
    if manifest.kind != "sequence":
        tensors = {name: bundle.tensors(name) for name in ITEM_FILES[manifest.kind]}
        models = {manifest.model: history_scorer(manifest.kind, tensors)}
    else:
        ranker = manifest.features.get("ranker")
        models = served_scorers(
            manifest.model,
            Graphs.of(bundle, threads=threads),
            bundle.tensors("items")["vectors"],
            None if ranker is None else bundle.tensors("ranker")["items"],
            () if ranker is None else ranker["config"]["actions"],
        )
    fields = FieldRanker.of(bundle, threads=threads)
    if fields is not None:
        return reordered(models, fields, manifest.features[CTR]["name"])
    return with_blend(models, manifest.features, train)


def reordered(models: dict[str, Scorer], ranker: FieldRanker, name: str) -> dict[str, Scorer]:
    """Return the scorers with the first of them in the order of a model of fields before them.

    >>> from types import SimpleNamespace
    >>> list(reordered({"ials": None}, SimpleNamespace(actions=("interact",)), "deepfm"))
    ['ials + deepfm', 'ials']
    """
    first, score = next(iter(models.items()))
    weights_A = action_weights(ranker.actions, None)
    whole = reordered_scorer(score, ranker, weights_A=weights_A, breadth=BREADTH)
    return {f"{first} + {name}": whole, **models}


def history_scorer(kind: Kind, tensors: Tensors) -> Scorer:
    """Return the scorer of a model that keeps no states, from what a Bundle holds of it.

    >>> arrays = {"offsets": np.zeros(4, np.int64), "rows": np.zeros(0, np.int32)}
    >>> arrays |= {"values": np.zeros(0, np.float32), "fade": np.ones(1)}
    >>> score = history_scorer("closed_form", {"item_item": arrays})
    """
    return fold_in_scorer(tensors) if kind == "encoder" else item_item_scorer(tensors)


def scorers_of(exported: Exported) -> dict[str, Scorer]:
    """Return the scorers of an exported model: with its ranker, if it has one, and without.

    >>> from types import SimpleNamespace
    >>> from ouzel.features.states import StateShape
    >>> graphs = SimpleNamespace(shape=StateShape(1, 1, 2, 4), num_rows=3)
    >>> exported = SimpleNamespace(model=SimpleNamespace(name="esasrec"), graphs=graphs,
    ...                            ranker=None, items_NF=None, vectors_ND=np.ones((3, 2)))
    >>> list(scorers_of(exported))
    ['esasrec']
    """
    actions = () if exported.ranker is None else exported.ranker.config.actions
    return served_scorers(
        exported.model.name, exported.graphs, exported.vectors_ND, exported.items_NF, actions
    )


def with_blend(
    scorers: dict[str, Scorer], features: Mapping[str, Any], train: Interactions
) -> dict[str, Scorer]:
    """Return the scorers of what a manifest with these `features` serves, the whole of it first.

    Beside a blend there are the model alone, and reciprocal-rank fusion of the same sources.

    >>> list(with_blend({"ease": lambda histories, now_ms: None}, {}, train=None))
    ['ease']
    """
    if "blend" not in features:
        return scorers
    name, scorer = next(iter(scorers.items()))
    parts = parts_with(scorer, train)
    blended = blended_scorer(parts, Blender.from_manifest(features["blend"]))
    return {f"{name} + blend": blended, **scorers, f"{name} + fusion": fused_scorer(parts)}


def served_scorers(
    model: str,
    graphs: Graphs,
    vectors_ND: NDArray[np.float32],
    items_NF: NDArray[np.float32] | None,
    actions: Sequence[str],
) -> dict[str, Scorer]:
    """Return the scorers of what serves, the whole of it first, by name.

    >>> from types import SimpleNamespace
    >>> from ouzel.features.states import StateShape
    >>> graphs = SimpleNamespace(shape=StateShape(1, 1, 2, 4), num_rows=3)
    >>> vectors_ND = np.ones((3, 2), np.float32)
    >>> list(served_scorers("esasrec", graphs, vectors_ND, vectors_ND, ["interact"]))
    ['esasrec + ranker', 'esasrec']
    """
    retrieval = {model: sequence_scorer(graphs, vectors_ND)}
    if items_NF is None:
        return retrieval
    ranked = ranked_scorer(
        graphs,
        (vectors_ND, items_NF),
        weights_A=action_weights(actions, None),
        breadth=BREADTH,
    )
    return {f"{model} + ranker": ranked, **retrieval}
