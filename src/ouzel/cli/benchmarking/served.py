"""What is true of a home however it is served: how good its index is, how it keeps states."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from ouzel.bundle.bundle import load_bundle
from ouzel.bundle.index import RECALL_KS, KeptLists
from ouzel.bundle.store import BundleStore
from ouzel.evaluation.workload import Workload
from ouzel.events.interactions import History
from ouzel.inference.onnxruntime import RANK, Graphs
from ouzel.ranking.assembly import SAMPLES, Chosen, automatic_engine
from ouzel.recommender.index import Asked, asked_by, measured_recall
from ouzel.retrieval.exact import ExactIndex


def home_row(home: Path, work: Workload) -> dict[str, Any]:
    """Return how `states` are kept, if lists are `ranked` or `blended`, and what the index finds.

    Its engine is made here once more as the server makes it, from the same users, and asked by
    others.

    Raises:
        ValueError: what was chosen for this home cannot search here.

    >>> from unittest.mock import DEFAULT, patch
    >>> eye = np.eye(3, dtype=np.float32)
    >>> work = Workload(eye, np.ones((2, 4), np.int32), 2)
    >>> asked = Asked(eye[1:2], [np.array([1], np.int32)])
    >>> with patch.multiple(
    ...     "ouzel.cli.benchmarking.served", load_bundle=DEFAULT, BundleStore=DEFAULT,
    ...     Graphs=DEFAULT, Chosen=DEFAULT, asked_by=lambda histories, graphs: asked,
    ... ) as made:
    ...     made["load_bundle"]().tensors.return_value = {"vectors": eye}
    ...     made["load_bundle"]().manifest.graphs = {"query": None}
    ...     made["Chosen"].of.return_value = None
    ...     made["Graphs"].of.return_value.shape.precision = "int8"
    ...     made["load_bundle"]().manifest.features = {}
    ...     home_row(Path("home"), work)  # doctest: +NORMALIZE_WHITESPACE
    {'states': 'int8', 'ranked': False, 'blended': False,
     'index_recall@10': 1.0, 'index_recall@100': 1.0}
    """
    bundle = load_bundle(BundleStore(home).current())
    graphs, chosen = Graphs.of(bundle), Chosen.of(home, bundle)
    vectors_ND = bundle.tensors("items")["vectors"]
    if chosen is not None:
        engine = chosen.engine(vectors_ND)
    else:
        tuning = _asked(work, graphs, shift=0)
        kept = KeptLists(home, bundle.digest)
        engine = automatic_engine(vectors_ND, tuning.queries_BD, tuning.seen, kept)
    asked = _asked(work, graphs, shift=1)
    exact = ExactIndex(vectors_ND)
    expected_BK, _ = exact.search(asked.queries_BD, max(RECALL_KS), exclude=asked.seen)
    recall = measured_recall(engine, expected_BK, asked)
    named = {f"index_{name}": value for name, value in recall.items()}
    listed = {
        "ranked": RANK in bundle.manifest.graphs,
        "blended": "blend" in bundle.manifest.features,
    }
    return {"states": graphs.shape.precision, **listed, **named}


def _asked(work: Workload, graphs: Graphs, *, shift: int) -> Asked:
    """Return what some users ask: with `shift` 0 those whom a server tunes its index with."""
    last = len(work.histories_UL) - 1
    spread = np.linspace(0, last, min(SAMPLES, last + 1)).astype(np.int64)
    users = np.unique(np.minimum(spread + shift, last))
    times = [work.times_ms(slice(user, user + 1))[0] for user in users.tolist()]
    histories = map(History, work.histories_UL[users], times)
    return asked_by(list(histories), graphs)
