"""A model of fields as the ranker of a home's model: trained on its log, added to its Bundle.

The fields are the item, the columns of the catalogue that say something that repeats, and when the
request comes; who asks is known by their history. (The log has no columns of users yet.) An
example is an event with items that were drawn at random beside it: the model learns which of them
happened, and where events have values which are liked.

Shape legend: E = events, K = items of an example, A = actions, N = catalogue rows, S = places of
the item's fields.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import torch
from numpy.typing import NDArray

from ouzel.bundle.bundle import Bundle, write_bundle
from ouzel.bundle.index import KeptLists
from ouzel.compression.export import export_ctr, graph_signatures
from ouzel.compression.parity import measure_ctr_parity
from ouzel.data.split import Split
from ouzel.evaluation.protocol import Scorer
from ouzel.evaluation.sample import mean_ndcg, sampled
from ouzel.events.interactions import Interactions
from ouzel.features.examples import Examples, Past
from ouzel.features.fields import (
    TIME_FIELDS,
    Schema,
    event_ids,
    field_of,
    row_field,
    with_year,
)
from ouzel.inference.fields import FieldRanker
from ouzel.inference.onnxruntime import CTR, FieldsGraph
from ouzel.models.ctr.base import CTRModel
from ouzel.models.registry import ctr_model_named
from ouzel.recommender.cores import usable_threads
from ouzel.recommender.evaluate import compare, reordered, scorers_of_bundle
from ouzel.recommender.home import Home
from ouzel.recommender.options import Progress, TrainOptions
from ouzel.training.ctr import CTRResult, CTRSettings, auc_validator, fit_ctr
from ouzel.training.ranking import actions_of

NEGATIVES = 7
"""Items beside each event that are drawn at random."""

RESERVED = ("item", "user", *(field.name for field in TIME_FIELDS))
"""Columns of the catalogue by the names of other fields are left out."""

JUDGED_TARGETS = 2_000
EVENTS_PER_EPOCH = 50_000
VALIDATION_EVENTS = 4_000
BATCH = 128
"""Events of a step, each with its negatives."""


@dataclass(frozen=True)
class Fielded:
    """The events of a home as examples: their fields, their actions, what stops training."""

    schema: Schema
    items_NS: NDArray[np.int32]
    actions: tuple[str, ...]
    draw: Callable[[np.random.Generator], Examples]
    validation: Examples | None


def fielded(columns: Mapping[str, Sequence[str]], split: Split, *, seed: int) -> Fielded:
    """Return what a model of fields learns from: columns aligned to rows, and a split of events.

    >>> from ouzel.data.split import leave_one_out
    >>> from ouzel.events.interactions import History, from_histories
    >>> visits = from_histories([History(np.array([1, 3, 2, 3, 1]), np.arange(5))], num_rows=4)
    >>> found = fielded({"genres": ["", "a|b", "b", "a"]}, leave_one_out(visits), seed=0)
    >>> [field.name for field in found.schema.fields], found.actions
    (['hour', 'weekday', 'item', 'genres'], ('interact',))
    """
    train = split.train
    seen_N = np.unique(train.rows_E)
    kept = {name: texts for name, texts in columns.items() if name not in RESERVED}
    told = with_year({name: texts[: train.num_rows] for name, texts in kept.items()})
    named = {name: [texts[row] for row in seen_N.tolist()] for name, texts in told.items()}
    found = [field_of(name, "item", texts) for name, texts in sorted(named.items())]
    schema = Schema(
        (
            *TIME_FIELDS,
            row_field("item", "item", train.num_rows),
            *(field for field in found if field is not None),
        )
    )
    rows = ["", *map(str, range(1, train.num_rows))]
    items_NS = schema.encode("item", {**told, "item": rows})
    happened = actions_of(train)
    labels_EA = _labels(train, happened)
    negatives = np.asarray(seen_N, np.int64)

    def draw(rng: np.random.Generator) -> Examples:
        count = min(EVENTS_PER_EPOCH, len(train))
        chosen = np.sort(rng.choice(len(train), count, replace=False))
        return _examples(schema, train, chosen, labels_EA[chosen], negatives, rng)

    validation = None
    if len(split.validation):
        rng = np.random.default_rng(seed)
        ends = rng.permutation(split.validation.ends_T)[:VALIDATION_EVENTS]
        of_interact = np.full((len(ends), len(happened)), np.nan, np.float32)
        of_interact[:, 0] = 1
        validation = _examples(schema, split.full, ends, of_interact, negatives, rng)
    return Fielded(schema, items_NS, tuple(happened), draw, validation)


def fit_fields(
    found: Fielded, options: TrainOptions, progress: Progress
) -> tuple[CTRModel, CTRResult]:
    """Return a model of fields, stopped early by the validation part.

    >>> from ouzel.data.split import leave_one_out
    >>> from ouzel.events.interactions import History, from_histories
    >>> from ouzel.recommender.options import Silent
    >>> visits = from_histories([History(np.array([1, 2, 3, 1]), np.arange(4))], num_rows=4)
    >>> found = fielded({}, leave_one_out(visits), seed=0)
    >>> fit_fields(found, TrainOptions(ctr="mlp", minutes=1e-9), Silent())[1].epochs
    1
    """
    assert options.ctr is not None
    known = ctr_model_named(options.ctr)
    progress.say(f"Training {known.name} on the fields of requests and items")
    torch.manual_seed(options.seed)
    model = known.build(known.presets["S"], found.schema, found.actions)
    settings = CTRSettings(minutes=options.minutes, seed=options.seed, batch_size=BATCH)
    validate = None
    if found.validation is None:
        settings = replace(settings, epochs=3)
    else:
        validate = auc_validator(model, found.validation, found.items_NS)
    result = fit_ctr(
        model, found.draw, found.items_NS, settings, validate=validate, on_epoch=progress.epoch
    )
    if validate is not None:
        progress.say(
            f"AUC against items at random on validation: {result.best_score:.4f} "
            f"(epoch {result.best_epoch} of {result.epochs})"
        )
    return model, result


def add_fields(
    home: Home, bundle: Bundle, split: Split, options: TrainOptions, progress: Progress
) -> tuple[Bundle, list[dict[str, Any]]]:
    """Return a Bundle with a model of fields as ranker, and its rows of the comparison.

    It is made of `bundle`, and written but not yet served. Where the order it gives is no better on
    validation targets, it is left out: `bundle` as it is.

    Raises:
        ValueError: the graph differs from the model by more than is promised.

    >>> add_fields(None, None, None, TrainOptions(), None)
    Traceback (most recent call last):
    ...
    ValueError: ctr is None: name a model of fields, such as deepfm
    """
    if options.ctr is None:
        raise ValueError("ctr is None: name a model of fields, such as deepfm")
    with home.log() as log:
        catalog = log.catalog
        known = slice(0, bundle.manifest.num_rows)
        columns = {name: catalog.column(name)[known] for name in catalog.column_names}
    found = fielded(columns, split, seed=options.seed)
    model, result = fit_fields(found, options, progress)
    graph = export_ctr(model)[CTR]
    session = FieldsGraph(graph, threads=usable_threads())
    asked = found.draw(np.random.default_rng(options.seed))
    bound = measure_ctr_parity(model, session, asked, found.items_NS)
    told = {
        "name": model.name,
        "config": msgspec.to_builtins(model.config),
        "actions": list(found.actions),
        "history": model.layout.history,
        "fields": msgspec.to_builtins(found.schema.fields),
    }
    tensors = {"items": found.items_NS}
    ranker = FieldRanker.from_told(told, session, tensors)
    whole = scorers_of_bundle(bundle, split.train, threads=usable_threads())
    models = reordered(whole, ranker, model.name)
    if not _better(models, split, options.seed, progress):
        return bundle, bundle.manifest.metrics
    rows = compare(models, split, name=options.split, progress=progress)
    if rows:
        rows[0] |= {"epochs": result.epochs, "best_epoch": result.best_epoch}
        rows[0]["seconds"] = round(result.seconds)
    manifest = bundle.manifest
    changed = {
        "features": {**manifest.features, CTR: told},
        "graphs": {**manifest.graphs, **graph_signatures({CTR: graph})},
        "error_bounds": {**manifest.error_bounds, CTR: bound},
        "metrics": rows,
        "parent": bundle.digest,
    }
    return _grown(home, bundle, changed, tensors={CTR: tensors}, graphs={CTR: graph}), rows


def _better(models: Mapping[str, Scorer], split: Split, seed: int, progress: Progress) -> bool:
    """Return whether the first scorer puts validation targets higher than the second.

    Where there are none, it is what was asked for.
    """
    if not len(split.validation.ends_T):
        return True
    sample = sampled(split.validation, JUDGED_TARGETS, seed=seed)
    (name, ordered), (_, alone) = list(models.items())[:2]
    after, before = (mean_ndcg(each, split.full, sample) for each in (ordered, alone))
    figures = f"NDCG@10 {after:.4f} on validation, {before:.4f} without"
    better = after > before
    progress.say(f"{name} is {'served' if better else 'no better and left out'}: {figures}")
    return better


def _grown(
    home: Home,
    bundle: Bundle,
    changed: Mapping[str, Any],
    *,
    tensors: Mapping[str, Mapping[str, NDArray[Any]]],
    graphs: Mapping[str, bytes],
) -> Bundle:
    """Return a Bundle with all that another has, and more."""
    kept = [Path(name) for name in bundle.manifest.files]
    fields = {
        name: getattr(bundle.manifest, name)
        for name in bundle.manifest.__struct_fields__
        if name not in ("format_version", "files")
    }
    there = {path.stem: bundle.tensors(path.stem) for path in kept if path.suffix == ".safetensors"}
    ran = {
        path.stem: bundle.graph(path.stem).read_bytes() for path in kept if path.suffix == ".onnx"
    }
    grown = write_bundle(
        home.bundles,
        manifest_fields={**fields, **changed},
        tensors={**there, **tensors},
        graphs={**ran, **graphs},
    )
    lists = KeptLists(home.root, bundle.digest).read()
    if lists is not None:
        KeptLists(home.root, grown.digest).keep(lists)
    return grown


def _labels(
    interactions: Interactions, happened: Mapping[str, NDArray[np.bool_]]
) -> NDArray[np.float32]:
    """Return the labels (E, A) of events: NaN where a like is not told, for there is no value."""
    labels_EA = np.stack(list(happened.values()), axis=1).astype(np.float32)
    labels_EA[~np.isfinite(interactions.values_E), 1:] = np.nan
    return labels_EA


def _examples(
    schema: Schema,
    interactions: Interactions,
    chosen_E: NDArray[np.int64],
    labels_EA: NDArray[np.float32],
    negatives: NDArray[np.int64],
    rng: np.random.Generator,
) -> Examples:
    """Return events, each with items at random that it was not: there nothing else is known."""
    count, (_, actions) = len(chosen_E), labels_EA.shape
    users_E = np.searchsorted(interactions.offsets_U1, chosen_E, side="right") - 1
    drawn_EK = negatives[rng.integers(0, len(negatives), (count, NEGATIVES))]
    rows_EK = np.concatenate([interactions.rows_E[chosen_E, None], drawn_EK], axis=1)
    labels_EKA = np.full((count, 1 + NEGATIVES, actions), np.nan, np.float32)
    labels_EKA[:, 0] = labels_EA
    labels_EKA[:, 1:, 0] = np.where(rows_EK[:, 1:] == rows_EK[:, :1], np.nan, 0)
    past = Past(interactions.rows_E, interactions.offsets_U1[users_E], chosen_E)
    requests_ES = event_ids(schema, interactions.times_ms_E[chosen_E])
    return Examples(requests_ES, rows_EK.astype(np.int32), labels_EKA, past)
