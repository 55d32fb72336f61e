"""From a source of events to a served model: import, split, fit, export, measure, publish."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch

from ouzel.bundle.bundle import Bundle
from ouzel.bundle.manifest import DataRange
from ouzel.data.clean import implicit, k_core
from ouzel.data.dataset import Dataset
from ouzel.data.split import Split
from ouzel.events.alone import alone
from ouzel.events.interactions import Interactions
from ouzel.events.log import EventLog
from ouzel.inference.pool import slot_bytes
from ouzel.models.protocols import SequenceEncoder
from ouzel.models.registry import kind_of, model_named
from ouzel.models.sequence import SEQUENCE_MODELS
from ouzel.recommender.blend import blended
from ouzel.recommender.by_history import train_by_history
from ouzel.recommender.cautions import cautions
from ouzel.recommender.cores import usable_threads
from ouzel.recommender.evaluate import compare, scorers_of, split_of, with_blend
from ouzel.recommender.fields import add_fields
from ouzel.recommender.home import Home
from ouzel.recommender.index import index_of
from ouzel.recommender.options import Progress, TrainOptions
from ouzel.recommender.publish import (
    Exported,
    Provenance,
    export,
    newest_histories,
    publish,
    validation_histories,
)
from ouzel.recommender.ranker import fit_split_ranker, refit_ranker
from ouzel.training.checkpoint import CHECKPOINT, forget
from ouzel.training.fit import FitResult, FitSettings, fit
from ouzel.training.ranking import RankingResult
from ouzel.training.validation import ndcg_validator

STEPS_PER_EPOCH = 150
"""Small data gets small batches: about this many steps an epoch, within the bounds below."""

BATCH_TOKENS = (1024, 6400)
FULL_SOFTMAX_ITEMS = 16_384
"""Up to so many items a target is told from all of them, not from a sample: an epoch takes up to
twice as long, and what it comes to finds 5 % more (docs/decisions.md, 39)."""

DROPOUT = 0.2
SPARSE_DROPOUT = 0.5
SPARSE_EVENTS_PER_ITEM = 50
VALIDATION_TARGETS = 4000
EPOCHS_WITHOUT_VALIDATION = 20
REFIT = "refit"
"""Where in the training folder of a home the training on everything keeps its checkpoint."""


@dataclass(frozen=True)
class Trained:
    """What a training made: the Bundle that is served now, and the rows of the comparison."""

    bundle: Bundle
    rows: list[dict[str, Any]]
    result: FitResult


def cleaned(dataset: Dataset, options: TrainOptions, progress: Progress) -> Dataset:
    """Return `dataset` without what `options` leave out, after saying how much that is.

    Raises:
        ValueError: nothing would be left.

    >>> import polars as pl
    >>> from ouzel.data.read import from_arrow
    >>> from ouzel.recommender.options import Silent
    >>> rated = from_arrow(pl.DataFrame({"user": ["u", "u"], "item": [1, 2], "rating": [5.0, 2.0]}))
    >>> cleaned(rated, TrainOptions(min_value=4), Silent()).frame["item_id"].to_list()
    ['1']
    """
    frame = dataset.frame
    if not dataset.report.has_time:
        progress.warn(
            "The events have no times, so the order of the file stands for them: if a column has "
            "the times, name it (timestamp=COLUMN), in a new home"
        )
    if options.min_value is not None:
        frame = implicit(frame, threshold=options.min_value)
    if options.k_core is not None:
        frame = k_core(frame, users=options.k_core, items=options.k_core)
    if not len(frame):
        raise ValueError(
            f"min_value {options.min_value} leaves none of {len(dataset.frame):,} events: lower it"
        )
    if len(frame) < len(dataset.frame):
        progress.say(f"Cleaning leaves {len(frame):,} of {len(dataset.frame):,} events")
    return dataset.with_frame(frame)


def import_dataset(log: EventLog, dataset: Dataset, progress: Progress) -> None:
    """Put the events and items of `dataset` into the log; what is there already is passed over.

    Raises:
        ValueError: the home of the log is being served; the server alone may write then.

    >>> import tempfile
    >>> from pathlib import Path
    >>> import polars as pl
    >>> from ouzel.data.read import from_arrow
    >>> from ouzel.recommender.options import Silent
    >>> events = from_arrow(pl.DataFrame({"user": ["u", "u"], "item": ["a", "b"]}))
    >>> with tempfile.TemporaryDirectory() as folder, Home(Path(folder)).log() as log:
    ...     import_dataset(log, events, Silent())
    ...     log.catalog.ids([1, 2])
    ['a', 'b']
    """
    known = len(log.catalog) - 1
    with alone(log.path.parent):
        counts = log.import_frame(
            dataset.columns(),
            source_digest=dataset.digest,
            items=dataset.item_columns(),
            progress=progress.step("Importing events"),
        )
    progress.say(
        f"{counts.added:,} events imported, {counts.already_known:,} were there already; "
        f"{log.num_users:,} users and {len(log.catalog) - 1:,} items in all"
    )
    if known and counts.added and counts.items_added == dataset.frame["item_id"].n_unique():
        progress.warn(
            f"None of these items was among the {known:,} that the home had: if they had been read "
            "from the wrong column, take a new home, since nothing is taken back"
        )


def train_home(home: Home, options: TrainOptions, progress: Progress) -> Trained:
    """Return the model trained on all events in the home's log; it is served from now on.

    Raises:
        ValueError: there is too little data to split or learn from; the message says what to add.
            Or another process serves the home, trains it or imports into it.

    >>> import tempfile
    >>> from pathlib import Path
    >>> from ouzel.recommender.options import Silent
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     train_home(Home(Path(folder)), TrainOptions(), Silent())
    Traceback (most recent call last):
    ...
    ValueError: there are no events to split: give at least one
    """
    with alone(home.root):
        return _train(home, options, progress)


def _train(home: Home, options: TrainOptions, progress: Progress) -> Trained:
    torch.set_num_threads(usable_threads())
    interactions, split, provenance = _data_of(home, options)
    for caution in cautions(interactions):
        progress.warn(caution)
    in_epochs = kind_of(model_named(options.model)) == "sequence"
    if in_epochs:
        trained = _train_sequence(home, split, interactions, options, provenance, progress)
    else:
        trained = Trained(
            *train_by_history(home, split, interactions, options, provenance, progress)
        )
    if options.ctr is not None:
        bundle, rows = add_fields(home, trained.bundle, split, options, progress)
        trained = replace(trained, bundle=bundle, rows=rows)
    home.store().promote(trained.bundle.digest)
    if in_epochs:  # Else what is there is another model's, which may still go on.
        for directory in (home.training, home.training / REFIT):
            forget(directory)
    return trained


def goes_on(home: Home, options: TrainOptions) -> bool:
    """Return whether a training that was interrupted left an epoch to go on from.

    >>> from pathlib import Path
    >>> goes_on(Home(Path("no-such-home")), TrainOptions())
    False
    """
    in_epochs = kind_of(model_named(options.model)) == "sequence"
    return in_epochs and (home.training / CHECKPOINT).exists()


def _data_of(home: Home, options: TrainOptions) -> tuple[Interactions, Split, Provenance]:
    """Return all events of the home's log, how they are split, and what a manifest says of them."""
    with home.log() as log:
        offset = log.last_offset()
        interactions = log.interactions(until_offset=offset)
        split = split_of(interactions, options.split)
        data = DataRange(
            digest=log.digest(until_offset=offset),
            cut_off_ms=split.cut_off_ms,
            num_events=len(interactions),
            num_users=interactions.num_users,
        )
        catalogue_digest = log.catalog.digest(interactions.num_rows)
    features: dict[str, Any] = {"preset": options.preset, "split": options.split}
    if options.min_value is not None:
        features["min_value"] = options.min_value
    provenance = Provenance(
        features={**features, "until_offset": offset, "refit": False},
        catalogue_digest=catalogue_digest,
        data=data,
        metrics=[],
        seed=options.seed,
        parent=None,
    )
    return interactions, split, provenance


def _train_sequence(
    home: Home,
    split: Split,
    interactions: Interactions,
    options: TrainOptions,
    provenance: Provenance,
    progress: Progress,
) -> Trained:
    """Return a sequence model that is trained, exported, measured and published."""
    model, result = fit_split(home, split, options, progress)
    ranker, ranked = None, None
    if options.ranker:
        ranker, ranked = fit_split_ranker(model, split, options, progress)
    progress.say("Exporting the graphs and checking them against the model")
    exported = export(
        model,
        interactions,
        held_out=validation_histories(split),
        precision=options.state_precision,
        threads=usable_threads(),
        ranker=ranker,
    )
    progress.say(_states_line(exported))
    scorers = scorers_of(exported)
    provenance = blended(provenance, scorers, split, options, progress)
    scorers = with_blend(scorers, provenance.features, split.train)
    rows = compare(scorers, split, name=options.split, progress=progress)
    index = index_of(exported.vectors_ND, exported.graphs, interactions)
    provenance = replace(provenance, metrics=rows, index=index)
    bundle = publish(home, exported, interactions, provenance)
    if options.refit:
        bundle = _refit(home, interactions, options, (result, ranked), bundle, progress)
    return Trained(bundle, rows, result)


def _states_line(exported: Exported) -> str:
    shape = exported.graphs.shape
    line = f"User states are kept in {shape.precision}, {slot_bytes(shape):,} bytes each"
    measured = {} if exported.states is None else {r.precision: r for r in exported.states.measured}
    row = measured.get(shape.precision)
    if row is None:
        return line
    reference = measured["fp32"].ndcg_at_10
    return (
        f"{line}: {row.overlap_at_10:.1%} of the ten best items stay, NDCG@10 "
        f"{row.ndcg_at_10:.4f} ({reference:.4f} in fp32)"
    )


def fit_split(
    home: Home, split: Split, options: TrainOptions, progress: Progress
) -> tuple[SequenceEncoder, FitResult]:
    """Return a model fitted on the training part, stopped early by the validation part.

    >>> from pathlib import Path
    >>> import numpy as np
    >>> from ouzel.events.interactions import History, from_histories
    >>> from ouzel.recommender.options import Silent
    >>> once = History(np.array([1], np.int32), np.array([10]))
    >>> split = split_of(from_histories([once], num_rows=2), "leave-one-out")
    >>> fit_split(Home(Path("home")), split, TrainOptions(), Silent())
    Traceback (most recent call last):
    ...
    ValueError: no user has two interactions to learn from; add data with histories
    """
    model = _untrained_model(split.train, options)
    window = model.config.window
    settings = settings_for(split.train, options)
    validate = None
    if len(split.validation.ends_T):
        validate = ndcg_validator(
            model,
            split.full,
            split.validation,
            max_length=window,
            max_targets=VALIDATION_TARGETS,
            seed=options.seed,
        )
    else:
        told = progress.say if options.split == "none" else progress.warn
        told(
            "Nothing to validate on: no user has an event in the validation part. "
            f"Training for {EPOCHS_WITHOUT_VALIDATION} epochs"
        )
        settings = replace(settings, epochs=EPOCHS_WITHOUT_VALIDATION)
    result = fit(
        model,
        split.train,
        settings,
        max_length=window,
        validate=validate,
        directory=home.training,
        on_batch=_batch_progress(progress),
        on_epoch=progress.epoch,
    )
    progress.say(ended(result, settings))
    return model, result


def ended(result: FitResult, settings: FitSettings) -> str:
    """Return in words why a training ended, and which weights it leaves.

    >>> ended(FitResult(9, 7, 0.1, seconds=61.0), FitSettings(minutes=1))
    'Trained 9 epochs (the 1 minutes are over); the weights of epoch 7 stay'
    """
    if result.epochs >= settings.epochs:
        why = "that is all of them"
    elif settings.minutes is not None and result.seconds >= 60 * settings.minutes:
        why = f"the {settings.minutes:g} minutes are over"
    else:
        why = f"nothing was better for {settings.patience} validations"
    return f"Trained {result.epochs} epochs ({why}); the weights of epoch {result.best_epoch} stay"


def _refit(
    home: Home,
    interactions: Interactions,
    options: TrainOptions,
    first: tuple[FitResult, RankingResult | None],
    parent: Bundle,
    progress: Progress,
) -> Bundle:
    """Return the Bundle of a model trained on everything, for as long as was best before."""
    fitted, ranked = first
    progress.say(f"Training again on all events, for {fitted.best_epoch} epochs")
    model = _untrained_model(interactions, options)
    settings = replace(settings_for(interactions, options), epochs=fitted.best_epoch)
    fit(
        model,
        interactions,
        settings,
        max_length=model.config.window,
        validate=None,
        directory=home.training / REFIT,
        on_batch=_batch_progress(progress),
        on_epoch=progress.epoch,
    )
    manifest = parent.manifest
    provenance = Provenance(
        features={**manifest.features, "refit": True},
        catalogue_digest=manifest.catalogue_digest,
        data=DataRange(
            digest=manifest.data.digest,
            cut_off_ms=None,
            num_events=manifest.data.num_events,
            num_users=manifest.data.num_users,
        ),
        metrics=manifest.metrics,
        seed=options.seed,
        parent=parent.digest,
    )
    ranker = None
    if ranked is not None:
        ranker = refit_ranker(model, interactions, options, ranked, progress)
    exported = export(
        model,
        interactions,
        held_out=newest_histories(interactions),
        precision=options.state_precision,
        threads=usable_threads(),
        ranker=ranker,
    )
    index = index_of(exported.vectors_ND, exported.graphs, interactions)
    provenance = replace(provenance, index=index)
    return publish(home, exported, interactions, provenance)


def dropout_for(interactions: Interactions) -> float:
    """Return the dropout that the density of the data calls for.

    Where items have few events, a model of this size learns them by heart within ten epochs.

    >>> from ouzel.events.interactions import from_histories
    >>> dropout_for(from_histories([], num_rows=3))
    0.5
    """
    sparse = len(interactions) < SPARSE_EVENTS_PER_ITEM * interactions.num_rows
    return SPARSE_DROPOUT if sparse else DROPOUT


def _untrained_model(interactions: Interactions, options: TrainOptions) -> SequenceEncoder:
    torch.manual_seed(options.seed)
    settings = {"dropout": dropout_for(interactions), **options.checked_settings}
    return _sequence_model(options).build(options.preset, interactions.num_rows, **settings)


def _sequence_model(options: TrainOptions) -> type[SequenceEncoder]:
    (model_class,) = (known for known in SEQUENCE_MODELS if known.name == options.model)
    return model_class


def settings_for(interactions: Interactions, options: TrainOptions) -> FitSettings:
    """Return how to fit a sequence model: batches that give small data enough steps an epoch, and
    all items as negatives where they are few enough.

    >>> import numpy as np
    >>> from ouzel.events.interactions import History, from_histories
    >>> few = from_histories([History(np.array([1, 2], np.int32), np.array([10, 20]))], num_rows=3)
    >>> settings = settings_for(few, TrainOptions(minutes=5))
    >>> settings.batch_tokens, settings.loss
    (1024, 'full_softmax')
    """
    smallest, largest = BATCH_TOKENS
    tokens = min(largest, max(smallest, len(interactions) // STEPS_PER_EPOCH))
    usual: dict[str, Any] = {
        "batch_tokens": tokens,
        "learning_rate": _sequence_model(options).learning_rate,
    }
    few_items = interactions.num_rows - 1 <= FULL_SOFTMAX_ITEMS
    if few_items and "num_negatives" not in options.fit_settings:
        usual["loss"] = "full_softmax"
    told = {**usual, **options.fit_settings}
    return FitSettings(minutes=options.minutes, seed=options.seed, **told)


def _batch_progress(progress: Progress) -> Any:
    report: dict[int, Any] = {}

    def on_batch(epoch: int, fraction: float) -> None:
        if epoch not in report:
            report.clear()
            report[epoch] = progress.step(f"Epoch {epoch}")
        report[epoch](round(1000 * fraction), 1000)

    return on_batch
