"""The ranker of a model: fitted on its states, alone or as a part of a training."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import msgspec
import numpy as np
import torch

from ouzel.bundle.bundle import Bundle
from ouzel.data.split import Split
from ouzel.events.interactions import Interactions
from ouzel.inference.input_table import InputTable
from ouzel.inference.onnxruntime import CTR
from ouzel.models.protocols import Ranker, SequenceEncoder
from ouzel.models.ranking.target_attention import TargetAttention
from ouzel.models.sequence import SEQUENCE_MODELS
from ouzel.ranking.scoring import BREADTH
from ouzel.recommender.cores import usable_threads
from ouzel.recommender.evaluate import compare, recorded_split, scorers_of
from ouzel.recommender.home import Home
from ouzel.recommender.index import index_of
from ouzel.recommender.options import Progress, TrainOptions
from ouzel.recommender.publish import Provenance, export, publish, validation_histories
from ouzel.training.ranking import RankingResult, RankingSettings, actions_of, fit_ranker
from ouzel.training.ranking_validation import ranked_validator

VALIDATION_TARGETS = 1000
EPOCHS_WITHOUT_VALIDATION = 3


def settings_for(options: TrainOptions) -> RankingSettings:
    """Return how to fit a ranker.

    >>> settings_for(TrainOptions(seed=3)).seed
    3
    """
    return RankingSettings(minutes=options.minutes, breadth=BREADTH, seed=options.seed)


def fit_split_ranker(
    model: SequenceEncoder, split: Split, options: TrainOptions, progress: Progress
) -> tuple[Ranker, RankingResult]:
    """Return a ranker fitted on the training part, stopped early by the validation part.

    >>> from ouzel.events.interactions import History, from_histories
    >>> from ouzel.models.sequence.esasrec import ESASRec, ESASRecConfig
    >>> from ouzel.recommender.evaluate import split_of
    >>> from ouzel.recommender.options import Silent
    >>> visit = History(np.array([1, 2, 1, 2], np.int32), np.array([10, 20, 30, 40]))
    >>> split = split_of(from_histories([visit], num_rows=3), "leave-one-out")
    >>> model = ESASRec(ESASRecConfig(dim=8, num_layers=1), num_rows=3)
    >>> fit_split_ranker(model, split, TrainOptions(minutes=1e-6), Silent())[1].epochs
    1
    """
    progress.say("Training the ranker on the model's states")
    ranker = _untrained(model, split.train, options)
    settings, validate = settings_for(options), None
    if len(split.validation.ends_T):
        validate = ranked_validator(
            ranker,
            model,
            split.full,
            split.validation,
            breadth=settings.breadth,
            max_targets=VALIDATION_TARGETS,
            seed=options.seed,
        )
    else:
        settings = replace(settings, epochs=EPOCHS_WITHOUT_VALIDATION)
    result = fit_ranker(
        ranker, model, split.train, settings, validate=validate, on_epoch=progress.epoch
    )
    progress.say(
        f"NDCG@10 on validation: {result.start_score:.4f} by retrieval, {result.best_score:.4f} "
        f"ranked (epoch {result.best_epoch} of {result.epochs})"
    )
    return ranker, result


def refit_ranker(
    model: SequenceEncoder,
    interactions: Interactions,
    options: TrainOptions,
    first: RankingResult,
    progress: Progress,
) -> Ranker:
    """Return a ranker fitted on everything, for as long as was best before.

    >>> from ouzel.events.interactions import History, from_histories
    >>> from ouzel.models.sequence.esasrec import ESASRec, ESASRecConfig
    >>> from ouzel.recommender.options import Silent
    >>> visit = History(np.array([1, 2, 1, 2], np.int32), np.array([10, 20, 30, 40]))
    >>> x = from_histories([visit], num_rows=3)
    >>> model = ESASRec(ESASRecConfig(dim=8, num_layers=1), num_rows=3)
    >>> before = RankingResult(epochs=2, best_epoch=1, best_score=1, start_score=0, seconds=1)
    >>> refit_ranker(model, x, TrainOptions(), before, Silent()).config.actions
    ('interact',)
    """
    progress.say(f"Training the ranker again on all events, for {first.best_epoch} epochs")
    ranker = _untrained(model, interactions, options)
    settings = replace(settings_for(options), epochs=first.best_epoch)
    fit_ranker(ranker, model, interactions, settings, validate=None, on_epoch=progress.epoch)
    return ranker


def unordered(features: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a manifest tells but for what orders its lists, which a ranker does alone.

    >>> unordered({"preset": "S", "blend": {"sources": []}})
    {'preset': 'S'}
    """
    return {name: told for name, told in features.items() if name not in ("ranker", CTR, "blend")}


def add_ranker(home: Home, options: TrainOptions, progress: Progress) -> Bundle:
    """Return the home's model with a ranker, trained on what the model was and served from now on.

    Raises:
        ValueError: there is no trained model, its log changed, or it was trained on everything.

    >>> from pathlib import Path
    >>> from ouzel.recommender.options import Silent
    >>> add_ranker(Home(Path("no-such-home")), TrainOptions(), Silent())
    Traceback (most recent call last):
    ...
    ValueError: no-such-home has no model yet: run `ouzel train --data PATH --out no-such-home`
    """
    parent = home.current()
    if parent.manifest.model not in {known.name for known in SEQUENCE_MODELS if known.ranked}:
        raise ValueError(f"no ranker can read the states of {parent.manifest.model}: train another")
    features = unordered(parent.manifest.features)
    if features.get("refit"):
        raise ValueError(
            f"the model of {home.root} was trained on all events, which leaves nothing to stop the "
            "ranker by: train it with the ranker, `ouzel train --refit --ranker`"
        )
    interactions, split = recorded_split(home, parent)
    model = trained_model(parent)
    ranker, result = fit_split_ranker(model, split, options, progress)
    progress.say("Exporting the graphs and checking them against the model")
    exported = export(
        model,
        interactions,
        held_out=validation_histories(split),
        precision=options.state_precision,
        threads=usable_threads(),
        ranker=ranker,
        earlier=parent,
    )
    rows = compare(scorers_of(exported), split, name=features["split"], progress=progress)
    if rows:
        rows[0] |= {"epochs": result.epochs, "best_epoch": result.best_epoch}
        rows[0]["seconds"] = round(result.seconds)
    provenance = Provenance(
        features=features,
        catalogue_digest=parent.manifest.catalogue_digest,
        data=parent.manifest.data,
        metrics=rows,
        seed=options.seed,
        parent=parent.digest,
        index=index_of(exported.vectors_ND, exported.graphs, interactions),
    )
    bundle = publish(home, exported, interactions, provenance)
    home.store().promote(bundle.digest)
    return bundle


def trained_model(bundle: Bundle) -> SequenceEncoder:
    """Return the torch model that a Bundle was made from.

    >>> from types import SimpleNamespace
    >>> from ouzel.models.sequence.esasrec import ESASRec, ESASRecConfig
    >>> model = ESASRec(ESASRecConfig(dim=8, num_layers=1), num_rows=3)
    >>> weights = {name: tensor.numpy() for name, tensor in model.state_dict().items()}
    >>> arrays = {"inputs": {"table": weights.pop("items.weight")}, "weights": weights}
    >>> manifest = SimpleNamespace(model="esasrec", config={"dim": 8, "num_layers": 1}, num_rows=3)
    >>> trained_model(SimpleNamespace(manifest=manifest, tensors=arrays.get)).config.dim
    8
    """
    manifest = bundle.manifest
    (model_class,) = (known for known in SEQUENCE_MODELS if known.name == manifest.model)
    config_class = type(next(iter(model_class.presets.values())))
    config: Any = msgspec.convert(manifest.config, config_class)
    model = model_class(config, manifest.num_rows)
    arrays = {**bundle.tensors("weights"), "items.weight": InputTable.of(bundle).whole()}
    model.load_state_dict({name: torch.from_numpy(np.array(a)) for name, a in arrays.items()})
    return model.eval()


def _untrained(model: SequenceEncoder, interactions: Interactions, options: TrainOptions) -> Ranker:
    torch.manual_seed(options.seed)
    actions = tuple(actions_of(interactions))
    return TargetAttention.build(model.read_by_rankers(), actions, interactions.num_rows)
