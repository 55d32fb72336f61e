"""The home that the serving benchmark runs on: a large catalogue, long histories, a real model.

The model is the one that `--model-from` names, its item table resampled to the size of the case,
or else a preset S with random weights over clustered items: weights do not change what an answer
costs. Homes are kept under `.bench/` and made once for each case, seed and model.
"""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ouzel.bundle.bundle import Bundle, write_bundle
from ouzel.bundle.store import BundleStore
from ouzel.cli.printing.output import Report
from ouzel.evaluation.workload import Workload, cluster_centres, make_workload
from ouzel.events.interactions import History, Interactions, from_histories
from ouzel.events.log import EventLog
from ouzel.features.states import Precision
from ouzel.inference.input_table import InputTable, input_tensors
from ouzel.inference.onnxruntime import STEPS_FILE, Compiled, Graphs
from ouzel.retrieval.popular import popular_scores
from ouzel.retrieval.vmis import VMISkNN

NUM_PARENTS = 1000
USERS_A_CHUNK = 500
ITEMS_A_CHUNK = 250_000
"""Items imported in one transaction: the names of ten million at once would take gigabytes."""

DONE = "workload.done"


HOME_VERSION = 1
"""Counts what the Bundle of a home holds more than it did; 1: what compiled steps read."""


@dataclass(frozen=True)
class Scale:
    """How large a case is: items, users whose state is held, users whose state is not."""

    num_items: int
    num_live: int
    num_cold: int


@dataclass(frozen=True)
class Origin:
    """What a home takes from a model: graphs, input table and what the manifest says.

    `skew` says how unequal the clusters around the rows of the table become. `ranker` and `ctr`
    are what the Bundle holds of a ranker, if there is one: each item of the benchmark gets one of
    its item lines, which takes the time that its own would.
    """

    graphs: Mapping[str, bytes]
    parents_PD: NDArray[np.float32]
    fields: Mapping[str, Any]
    skew: float
    ranker: Mapping[str, NDArray[Any]] | None = None
    ctr: Mapping[str, NDArray[Any]] | None = None
    compiled: Compiled | None = None
    """What a kernel needs in place of graphs, if there is one for the model."""


def make_home(
    folder: Path,
    scale: Scale,
    origin: Callable[[], Origin],
    *,
    seed: int,
    report: Report,
) -> Workload:
    """Return the workload whose log and Bundle are in `folder`; made if they are not there yet.

    Beside the home lie `items.npy` and `histories.npy`, which is all that a peer is given.
    `report` is called with (items imported, items in all), then the same of users.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as name:
    ...     folder = Path(name)
    ...     np.save(folder / "items.npy", np.zeros((3, 4), np.float32))
    ...     np.save(folder / "histories.npy", np.ones((5, 2), np.int32))
    ...     (folder / DONE).touch()  # made before: neither a model nor a log is asked for
    ...     work = make_home(folder, Scale(2, 5, 0), random_origin, seed=0, report=print)
    >>> work.num_items, work.user_ids()[-1]
    (2, 'u4')
    """
    items, histories = folder / "items.npy", folder / "histories.npy"
    if not (folder / DONE).exists():
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        source = origin()
        work = _workload(scale, source, seed)
        with EventLog.open(folder / "events.db") as log:
            _import(log, work, report)
            bundle = _bundle(folder, log, work, source)
        BundleStore(folder).promote(bundle.digest)
        np.save(items, bundle.tensors("items")["vectors"])
        np.save(histories, work.histories_UL)
        (folder / DONE).touch()
    return Workload(np.load(items, mmap_mode="r"), np.load(histories), scale.num_live)


def random_origin(*, seed: int, states: Precision = "fp32") -> Origin:
    """Return preset S with random weights over clusters, its states kept in the precision `states`.

    Needs the `train` extra.

    >>> from unittest.mock import patch
    >>> with patch("ouzel.compression.export.export_graphs", return_value={}):  # takes seconds
    ...     origin = random_origin(seed=0)
    >>> origin.parents_PD.shape, origin.fields["config"]["num_layers"]
    ((1001, 64), 2)
    """
    import torch

    from ouzel.compression.export import compiled_parts, export_graphs, graph_signatures
    from ouzel.models.sequence.esasrec import PRESETS, ESASRec

    torch.manual_seed(seed)
    config = PRESETS["S"]
    model = ESASRec(config, num_rows=2)
    graphs = export_graphs(model, states)
    fields = {
        "model": "ESASRec (random weights)",
        "config": dataclasses.asdict(config),
        "features": {},
        "graphs": graph_signatures(graphs),
        "parent": None,
        "seed": seed,
        "versions": {"torch": str(torch.__version__)},
    }
    parents_PD = cluster_centres(NUM_PARENTS, config.dim, seed=seed)
    return Origin(graphs, parents_PD, fields, skew=1.0, compiled=compiled_parts(model))


def trained_origin(bundle: Bundle) -> Origin:
    """Return what a home takes from a trained Bundle.

    >>> from types import SimpleNamespace
    >>> said = dict(model="esasrec", config={}, features={}, graphs={}, seed=0, versions={})
    >>> said |= {"states": None, "files": {}}
    >>> arrays = {"inputs": {"table": np.ones((3, 2), np.float32)}}
    >>> manifest = SimpleNamespace(**said)
    >>> bundle = SimpleNamespace(manifest=manifest, digest="0a1b", tensors=arrays.get)
    >>> origin = trained_origin(bundle)
    >>> origin.parents_PD.shape, origin.fields["parent"]
    ((3, 2), '0a1b')
    """
    manifest = bundle.manifest
    graphs = {name: bundle.graph(name).read_bytes() for name in manifest.graphs}
    fields = {
        "model": manifest.model,
        "config": manifest.config,
        "features": manifest.features,
        "graphs": manifest.graphs,
        "parent": bundle.digest,
        "seed": manifest.seed,
        "versions": manifest.versions,
        "states": manifest.states,
    }
    ranker = bundle.tensors("ranker") if "ranker" in manifest.features else None
    ctr = bundle.tensors("ctr") if "ctr" in manifest.features else None
    compiled = None
    if STEPS_FILE in manifest.files:
        compiled = bundle.tensors("weights"), bundle.tensors("steps")
    return Origin(graphs, InputTable.of(bundle).whole(), fields, 0.0, ranker, ctr, compiled)


def _workload(scale: Scale, origin: Origin, seed: int) -> Workload:
    """Return the workload over input-side vectors."""
    return make_workload(
        origin.parents_PD,
        num_items=scale.num_items,
        num_live=scale.num_live,
        num_cold=scale.num_cold,
        skew=origin.skew,
        seed=seed,
    )


def _import(log: EventLog, work: Workload, report: Report) -> None:
    nothing = work.columns(slice(0, 0))
    for first in range(1, work.num_items + 1, ITEMS_A_CHUNK):
        numbers = range(first, min(first + ITEMS_A_CHUNK, work.num_items + 1))
        items = {
            "item_id": [f"i{number}" for number in numbers],
            "title": [f"Item {number}" for number in numbers],
        }
        log.import_frame(nothing, source_digest="benchmark", items=items)
        report(numbers.stop - 1, work.num_items)
    num_users = len(work.histories_UL)
    for start in range(0, num_users, USERS_A_CHUNK):
        users = slice(start, min(start + USERS_A_CHUNK, num_users))
        log.import_frame(work.columns(users), source_digest="benchmark")
        report(users.stop, num_users)
    sampled = range(1, work.num_items + 1, max(1, work.num_items // 100))
    if log.catalog.rows(f"i{row}" for row in sampled).tolist() != list(sampled):
        raise ValueError("the log numbers items in another order than the benchmark: report this")


def _bundle(folder: Path, log: EventLog, work: Workload, origin: Origin) -> Bundle:
    seen = _interactions(work)
    num_rows = len(work.vectors_ND)
    graphs = Graphs(origin.graphs, work.vectors_ND)
    vectors_ND = np.empty_like(work.vectors_ND)
    for start in range(0, num_rows, ITEMS_A_CHUNK):
        rows = np.arange(start, min(start + ITEMS_A_CHUNK, num_rows))
        vectors_ND[rows] = graphs.item(rows)
    vectors_ND[0] = 0.0
    popular_N = popular_scores(seen)
    tensors: dict[str, Mapping[str, NDArray[Any]]] = {
        "inputs": input_tensors(work.vectors_ND, vectors_ND),
        "items": {"vectors": vectors_ND},
        "popular": {"scores": popular_N, "recent": popular_N},
        "vmis": VMISkNN.fit(seen).to_tensors(),
    }
    if origin.compiled is not None:
        tensors["weights"], tensors["steps"] = origin.compiled
    for name, told in (("ranker", origin.ranker), ("ctr", origin.ctr)):
        if told is not None:
            lines_PF = told["items"]
            tensors[name] = {**told, "items": lines_PF[np.arange(num_rows) % len(lines_PF)]}
    fields = {
        **origin.fields,
        "num_rows": num_rows,
        "catalogue_digest": log.catalog.digest(num_rows),
        "data": {
            "digest": "benchmark",
            "cut_off_ms": None,
            "num_events": len(seen),
            "num_users": seen.num_users,
        },
        "metrics": [],
        "error_bounds": {},
    }
    bundles = folder / "bundles"
    return write_bundle(bundles, manifest_fields=fields, tensors=tensors, graphs=origin.graphs)


def _interactions(work: Workload) -> Interactions:
    histories = []
    for user in range(len(work.histories_UL)):
        times_ms = work.times_ms(slice(user, user + 1))[0]
        histories.append(History(work.histories_UL[user], times_ms))
    return from_histories(histories, num_rows=len(work.vectors_ND))
