"""From a trained model to a Bundle in the home: export, check, measure, write."""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

import msgspec
import numpy as np
import torch
from numpy.typing import NDArray

from ouzel.bundle.bundle import Bundle, write_bundle
from ouzel.bundle.index import KeptLists
from ouzel.bundle.manifest import DataRange, StatePrecision
from ouzel.compression.export import (
    compiled_parts,
    export_graphs,
    export_ranker,
    graph_signatures,
)
from ouzel.compression.parity import measure_parity, measure_ranker_parity
from ouzel.compression.state_precision import choose_precision
from ouzel.data.split import Split
from ouzel.events.interactions import History, Interactions
from ouzel.features.states import Precision
from ouzel.inference.input_table import input_tensors
from ouzel.inference.onnxruntime import CTR, RANK, Graphs
from ouzel.models.protocols import Ranker, SequenceEncoder
from ouzel.recommender.home import Home
from ouzel.recommender.index import AutomaticIndex
from ouzel.retrieval.popular import RECENT_WINDOW_MS, popular_scores, recent_popular_scores
from ouzel.retrieval.vmis import VMISkNN

PARITY_HISTORIES = 16

MEASURED_USERS = 256
"""Held-out histories that the precision of states is chosen by."""

RECORDED_VERSIONS = ("ouzel", "numpy", "torch", "onnx", "onnxruntime", "polars")


@dataclass(frozen=True)
class Exported:
    """A model in the form that serves, with its measured differences from the torch model."""

    model: SequenceEncoder
    files: dict[str, bytes]
    graphs: Graphs
    vectors_ND: NDArray[np.float32]
    error_bounds: dict[str, float]
    states: StatePrecision | None = None
    ranker: Ranker | None = None
    items_NF: NDArray[np.float32] | None = None
    """The ranker's lines of all rows."""


@dataclass(frozen=True, kw_only=True)
class Provenance:
    """Where a Bundle comes from: everything in its manifest that the model does not say."""

    features: Mapping[str, Any]
    catalogue_digest: str
    data: DataRange
    metrics: list[dict[str, Any]]
    seed: int
    parent: str | None
    index: AutomaticIndex | None = None


def export(
    model: SequenceEncoder,
    interactions: Interactions,
    *,
    held_out: Sequence[History],
    precision: str,
    threads: int,
    ranker: Ranker | None = None,
    earlier: Bundle | None = None,
) -> Exported:
    """Return `model` exported, and checked on histories spread over all lengths there are.

    Its states are kept in `precision`, or for "auto" in the one that serves best by the newest
    events of `held_out`. A `ranker` of its states comes with it. `earlier` is a Bundle made of this
    very model: its graphs are taken where they fit, for to make them takes half a minute.

    Raises:
        ValueError: the graphs differ from the model by more than is promised, or the precision does
            not hold the model's numbers.

    >>> from unittest.mock import DEFAULT, patch
    >>> from ouzel.events.interactions import History, from_histories
    >>> from ouzel.models.sequence.esasrec import ESASRec, ESASRecConfig
    >>> visit = History(np.array([1, 2, 1], np.int32), np.array([10, 20, 30]))
    >>> x = from_histories([visit, visit.last(1), visit.last(2)], num_rows=3)
    >>> slow = {"export_graphs": DEFAULT, "Graphs": DEFAULT, "measure_parity": DEFAULT}
    >>> model, told = ESASRec(ESASRecConfig(), x.num_rows), {"held_out": [], "threads": 1}
    >>> with patch.multiple("ouzel.recommender.publish", **slow) as called:
    ...     exported = export(model, x, precision="auto", **told)
    >>> sorted(len(history) for history in called["measure_parity"].call_args.args[2])
    [1, 2, 3]
    """
    model.eval()
    states = choose_precision(model, held_out, asked=precision)
    files = _graphs_of(earlier, model, states.chosen) or export_graphs(model, states.chosen)
    if ranker is not None:
        files |= export_ranker(ranker, model.read_by_rankers(), states.chosen)
    table_ND = model.items.weight.detach().numpy().copy()
    graphs = Graphs(files, table_ND, threads=threads, compiled=compiled_parts(model))
    by_length = np.argsort(interactions.lengths_U(), kind="stable")
    chosen = by_length[np.linspace(0, len(by_length) - 1, PARITY_HISTORIES).astype(int)]
    histories = [interactions.history(user) for user in np.unique(chosen).tolist()]
    bounds = _measured_parity(model, graphs, histories)
    vectors_ND = graphs.item(np.arange(len(table_ND)))
    if ranker is None:
        return Exported(model, files, graphs, vectors_ND, bounds, states)
    items_NF = _item_lines(ranker, vectors_ND)
    bounds |= measure_ranker_parity(ranker, graphs, (vectors_ND, items_NF), histories)
    return Exported(model, files, graphs, vectors_ND, bounds, states, ranker, items_NF)


def _measured_parity(
    model: SequenceEncoder, graphs: Graphs, histories: Sequence[History]
) -> dict[str, float]:
    """Return the largest differences of what serves here, and of the graphs that serve elsewhere.

    Raises:
        ValueError: one is above its bound.
    """
    bounds = measure_parity(model, graphs, histories)
    if graphs.steps is None:
        return bounds
    elsewhere = measure_parity(model, graphs.without_kernel(), histories)
    return {name: max(bound, elsewhere[name]) for name, bound in bounds.items()}


def _graphs_of(
    earlier: Bundle | None, model: SequenceEncoder, precision: Precision
) -> dict[str, bytes]:
    """Return the graphs of `model` in a Bundle; none if they were made otherwise than today."""
    if earlier is None or earlier.manifest.states is None:
        return {}
    made = earlier.manifest.states.chosen, dict(earlier.manifest.versions)
    if made != (precision, versions()):
        return {}
    model.precision = precision
    names = earlier.manifest.graphs.keys() - {RANK, CTR}
    return {name: earlier.graph(name).read_bytes() for name in names}


def newest_histories(interactions: Interactions) -> list[History]:
    """Return the histories of up to `MEASURED_USERS` users spread over all there are.

    >>> from ouzel.events.interactions import from_histories
    >>> visit = History(np.array([1, 2], np.int32), np.array([10, 20]))
    >>> len(newest_histories(from_histories([visit], num_rows=3)))
    1
    """
    users = _spread(interactions.num_users)
    return [interactions.history(user) for user in users.tolist()]


def validation_histories(split: Split) -> list[History]:
    """Return up to `MEASURED_USERS` histories whose newest event is one to validate on.

    >>> from ouzel.data.split import leave_one_out
    >>> from ouzel.events.interactions import from_histories
    >>> visit = History(np.array([1, 2, 1, 2], np.int32), np.arange(4))
    >>> split = leave_one_out(from_histories([visit], num_rows=3))
    >>> [len(history) for history in validation_histories(split)]
    [3]
    """
    full, targets = split.full, split.validation
    histories = []
    for at in _spread(len(targets)).tolist():
        span = slice(full.offsets_U1[targets.users_T[at]], targets.ends_T[at] + 1)
        histories.append(History(full.rows_E[span], full.times_ms_E[span]))
    return histories


def _spread(count: int) -> NDArray[np.int64]:
    return (
        np.unique(np.linspace(0, count - 1, MEASURED_USERS).astype(np.int64))
        if count
        else (np.empty(0, np.int64))
    )


@torch.no_grad()
def _item_lines(ranker: Ranker, vectors_ND: NDArray[np.float32]) -> NDArray[np.float32]:
    lines_NF = ranker.item_lines(torch.arange(len(vectors_ND)), torch.from_numpy(vectors_ND))
    return np.asarray(lines_NF.numpy(), np.float32)


def publish(
    home: Home, exported: Exported, interactions: Interactions, provenance: Provenance
) -> Bundle:
    """Return the new Bundle of `home`; it is written but not yet served.

    `interactions` are all there are: what is popular, and which sessions are neighbours, is taken
    from them and not from the training part.

    >>> import tempfile
    >>> from pathlib import Path
    >>> from types import SimpleNamespace
    >>> from ouzel.events.interactions import History, from_histories
    >>> from ouzel.inference.input_table import InputTable
    >>> from ouzel.models.sequence.esasrec import ESASRec, ESASRecConfig
    >>> visit = History(np.array([1, 2], np.int32), np.array([10, 20]))
    >>> model, vectors_ND = ESASRec(ESASRecConfig(), 3), np.ones((3, 64), np.float32)
    >>> graphs = SimpleNamespace(table=InputTable(vectors_ND))
    >>> exported = Exported(model, {}, graphs, vectors_ND, {})
    >>> data = DataRange(digest="d", cut_off_ms=None, num_events=2, num_users=1)
    >>> told = {"features": {}, "catalogue_digest": "c", "metrics": [], "seed": 0, "parent": None}
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     x = from_histories([visit], num_rows=3)
    ...     bundle = publish(Home(Path(folder)), exported, x, Provenance(data=data, **told))
    ...     bundle.tensors("popular")["scores"].tolist()
    [0.0, 1.0, 1.0]
    """
    model = exported.model
    weights, constants = compiled_parts(model)
    del weights["items.weight"]  # the input side of the table has a file of its own
    tensors: dict[str, Mapping[str, NDArray[Any]]] = {
        "inputs": input_tensors(exported.graphs.table.whole(), exported.vectors_ND),
        "items": {"vectors": exported.vectors_ND},
        "weights": weights,
    }
    if constants:
        tensors["steps"] = constants
    told = dict(provenance.features)
    if exported.ranker is not None and exported.items_NF is not None:
        for_kernel = exported.ranker.kernel_weights().items()
        tensors["ranker"] = {"items": exported.items_NF} | {
            name: tensor.numpy() for name, tensor in for_kernel
        }
        config = msgspec.to_builtins(exported.ranker.config)
        told["ranker"] = {"name": exported.ranker.name, "config": config}
    fields = {
        "features": told,
        "kind": "sequence",
        "model": model.name,
        "config": msgspec.to_builtins(model.config),
        "graphs": graph_signatures(exported.files),
        "error_bounds": exported.error_bounds,
        "states": exported.states,
    }
    return write_model(home, interactions, provenance, fields, tensors, graphs=exported.files)


def write_model(
    home: Home,
    interactions: Interactions,
    provenance: Provenance,
    fields: Mapping[str, Any],
    tensors: Mapping[str, Mapping[str, NDArray[Any]]],
    *,
    graphs: Mapping[str, bytes],
) -> Bundle:
    """Return the new Bundle of a model of any kind, with what fills its lists.

    `fields` are those of the manifest that the model says; `interactions` are all there are.

    >>> import tempfile
    >>> from pathlib import Path
    >>> from ouzel.events.interactions import History, from_histories
    >>> x = from_histories([History(np.array([1, 2], np.int32), np.array([10, 20]))], num_rows=3)
    >>> data = DataRange(digest="d", cut_off_ms=None, num_events=2, num_users=1)
    >>> told = {"features": {}, "catalogue_digest": "c", "metrics": [], "seed": 0, "parent": None}
    >>> says = {"model": "ease", "kind": "closed_form", "config": {}, "graphs": {}}
    >>> says["error_bounds"] = {}
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     home = Home(Path(folder))
    ...     bundle = write_model(home, x, Provenance(data=data, **told), says, {}, graphs={})
    ...     sorted(bundle.manifest.files)
    ['popular.safetensors', 'vmis.safetensors']
    """
    filling: dict[str, Mapping[str, NDArray[Any]]] = {
        "popular": {
            "scores": popular_scores(interactions),
            "recent": recent_popular_scores(interactions, window_ms=RECENT_WINDOW_MS),
        },
        "vmis": VMISkNN.fit(interactions).to_tensors(),
    }
    whole = {
        **{name: getattr(provenance, name) for name in Provenance.__dataclass_fields__},
        "index": None if provenance.index is None else provenance.index.record,
        "num_rows": interactions.num_rows,
        "versions": versions(),
        **fields,
    }
    bundle = write_bundle(
        home.bundles, manifest_fields=whole, tensors={**tensors, **filling}, graphs=graphs
    )
    if provenance.index is not None and provenance.index.lists is not None:
        KeptLists(home.root, bundle.digest).keep(provenance.index.lists)
    return bundle


def versions() -> dict[str, str]:
    """Return the versions of Python and of the libraries that made a model.

    >>> list(versions())
    ['python', 'ouzel', 'numpy', 'torch', 'onnx', 'onnxruntime', 'polars']
    """
    found = {name: version(name) for name in RECORDED_VERSIONS}
    return {"python": platform.python_version(), **found}
