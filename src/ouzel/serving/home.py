"""A home on disk as an engine: the log, the promoted Bundle, and the stages of its request path."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from ouzel.bundle.bundle import Bundle, load_bundle
from ouzel.bundle.index import KeptLists
from ouzel.bundle.store import BundleStore
from ouzel.events.log import EventLog
from ouzel.inference.audit import audit_tolerance
from ouzel.inference.no_states import NoStates
from ouzel.inference.onnxruntime import Graphs
from ouzel.inference.shared import Directory
from ouzel.inference.states import UserStates
from ouzel.ranking.assembly import (
    Chosen,
    popular_sources,
    reads_values,
    sample_histories,
    standard_stages,
)
from ouzel.ranking.pipeline import Pipeline
from ouzel.serving.cache import ITEM_BYTES, LIST_BYTES
from ouzel.serving.engine import Engine, Parts
from ouzel.serving.rebuilds import fork_encoder
from ouzel.serving.visitors import Visitors
from ouzel.serving.wire import ModelName
from ouzel.serving.writer import LogWriter

LOG_FILE = "events.db"


def open_home(
    home: Path,
    *,
    state_bytes: int,
    cache_bytes: int = LIST_BYTES + ITEM_BYTES,
    workers: int = 1,
    weights: Mapping[str, float] | None = None,
) -> Engine:
    """Return the engine of a home: its log, and the Bundle that is promoted.

    `state_bytes` bounds the memory of user states, `cache_bytes` that of answers kept for many.
    With several `workers` its states lie where processes forked from this one can read them.
    `weights` are those of the actions of its ranker; None: the first action alone.

    Raises:
        ValueError: there is no model, it is damaged, or it does not belong to this log; or the
            index that was chosen for it cannot be used here, or its ranker does not know an
            action of `weights`.

    >>> open_home(Path("no-such-home"), state_bytes=1 << 20)
    Traceback (most recent call last):
    ...
    ValueError: no-such-home has no model yet: run `ouzel train --data PATH --out no-such-home`
    """
    store = BundleStore(home)
    bundle = load_bundle(store.current())
    store.check_log(home / LOG_FILE)
    log = EventLog.open(home / LOG_FILE)
    try:
        _check_catalogue(log, bundle)
        resources = Resources(state_bytes=state_bytes, cache_bytes=cache_bytes, workers=workers)
        return Engine(_assemble(log, bundle, home, resources, weights))
    except BaseException:
        log.close()
        raise


def default_state_bytes() -> int:
    """Return the memory for user states: a quarter of the machine's, 4 GiB at most.

    >>> 0 < default_state_bytes() <= 4 << 30
    True
    """
    return min(4 << 30, os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 4)


@dataclass(frozen=True, kw_only=True)
class Resources:
    """What a server may take: bytes for user states and for answers kept for many, processes.

    Of several `workers` one writes, and the others read what it keeps.
    """

    state_bytes: int = field(default_factory=default_state_bytes)
    cache_bytes: int = LIST_BYTES + ITEM_BYTES
    workers: int = 1


def _assemble(
    log: EventLog,
    bundle: Bundle,
    home: Path,
    resources: Resources,
    weights: Mapping[str, float] | None,
) -> Parts:
    graphs = Graphs.of(bundle) if bundle.manifest.kind == "sequence" else None
    directory = Directory() if resources.workers > 1 else None
    num_rows = bundle.manifest.num_rows
    writer = LogWriter(log)
    visitors = Visitors(log, writer, num_rows=num_rows, valued=reads_values(bundle))
    states: UserStates | NoStates = NoStates(bundle.version, directory)
    if graphs is not None:
        states = UserStates(
            graphs,
            max_bytes=resources.state_bytes,
            load_history=visitors.history,
            version=bundle.version,
            directory=directory,
            tolerance=audit_tolerance(bundle.manifest),
        )
    samples = sample_histories(log, valued=reads_values(bundle))
    chosen, kept = Chosen.of(home, bundle), KeptLists(home, bundle.digest)
    popular = popular_sources(bundle)
    stages = standard_stages(
        bundle, states, samples, chosen, kept, weights=weights, popular=popular
    )
    pipeline = Pipeline(stages)
    # Sorted and ranked whole, they are read in a few places from now on.
    bundle.rest("vmis", "popular")
    return Parts(
        log=log,
        states=states,
        pipeline=pipeline,
        encoder=None if graphs is None else fork_encoder(graphs),
        popular=dict(popular),
        model=ModelName(bundle.manifest.model, bundle.version),
        num_rows=num_rows,
        visitors=visitors,
        writer=writer,
        workers=resources.workers,
        cache_bytes=resources.cache_bytes,
    )


def _check_catalogue(log: EventLog, bundle: Bundle) -> None:
    known, needed = len(log.catalog), bundle.manifest.num_rows
    if known < needed or log.catalog.digest(needed) != bundle.manifest.catalogue_digest:
        raise ValueError(
            f"{bundle.path} was trained on another catalogue than that of the log: train again "
            "with this home, or restore the log that the model was trained with"
        )
