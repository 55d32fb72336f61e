"""A whole home on disk, small and untrained but real: log, exported graphs, Bundle, promotion."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import numpy as np

from ouzel.bundle.bundle import write_bundle
from ouzel.bundle.store import BundleStore
from ouzel.compression.export import compiled_parts, graph_signatures
from ouzel.events.log import EventLog
from ouzel.events.types import Interaction, ItemUpdate
from ouzel.features.states import Precision
from ouzel.inference.input_table import input_tensors
from ouzel.inference.onnxruntime import Graphs
from ouzel.ranking.blending import Blender
from ouzel.retrieval.popular import popular_scores, recent_popular_scores
from ouzel.retrieval.vmis import VMISkNN
from ouzel.serving.engine import Engine
from tests.tiny import (
    ACTIONS,
    NUM_ROWS,
    START_MS,
    tiny_files,
    tiny_graphs,
    tiny_kernel_weights,
    tiny_model,
    tiny_ranker_files,
    tiny_tables,
)

HOUR_MS = 3_600_000


def write_home(
    home: Path,
    *,
    num_users: int = 6,
    precision: Precision = "fp32",
    ranker: bool = False,
    compiled: bool = False,
    blended: bool = False,
    exported: tuple[dict[str, bytes], Graphs] | None = None,
) -> None:
    """Make the home: users u0, u1, ... each with a history of a dozen items.

    States are in `precision`; a `ranker` of them comes with them, what kernels need if `compiled`,
    and a blend with other sources if `blended`. With `exported`, files and graphs, it is the home
    of another model than the backbone.
    """
    home.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(3)
    with EventLog.open(home / "events.db") as log:
        log.append(_items() + _interactions(rng, num_users))
        interactions = log.interactions()
        made, graphs = exported or (
            tiny_files(precision=precision),
            tiny_graphs(precision=precision),
        )
        files, features = dict(made), {}
        extra: dict[str, Any] = {}
        if compiled:
            extra["weights"], extra["steps"] = compiled_parts(tiny_model())
        if ranker:
            files |= tiny_ranker_files(precision=precision)
            extra["ranker"] = {"items": tiny_tables()[1], **tiny_kernel_weights()}
            features = {"ranker": {"config": {"actions": list(ACTIONS)}}}
        if blended:
            features |= {"blend": Blender(rng.normal(size=(2, 4, 3))).to_manifest()}
        bundle = write_bundle(
            home / "bundles",
            manifest_fields={
                **_fields(log.catalog.digest(NUM_ROWS), precision),
                "features": features,
                "graphs": graph_signatures(files),
            },
            tensors={
                "inputs": input_tensors(graphs.table.whole(), graphs.item(np.arange(NUM_ROWS))),
                "items": {"vectors": graphs.item(np.arange(NUM_ROWS))},
                "popular": {
                    "scores": popular_scores(interactions),
                    "recent": recent_popular_scores(interactions, window_ms=HOUR_MS),
                },
                "vmis": VMISkNN.fit(interactions).to_tensors(),
                **extra,
            },
            graphs=files,
        )
    BundleStore(home).promote(bundle.digest)


def in_service(engine: Engine, work: Callable[[], Awaitable[Any]]) -> Any:
    """Return what `work` returns while the engine of a home is in service."""

    async def service() -> Any:
        await engine.start()
        try:
            return await work()
        finally:
            await engine.close()

    return asyncio.run(service())


def _items() -> list[ItemUpdate]:
    return [
        ItemUpdate(
            event_id=f"item-{row}",
            timestamp_ms=row,
            item_id=f"i{row}",
            columns={"title": f"Film {row}"},
        )
        for row in range(1, NUM_ROWS)
    ]


def _interactions(rng: np.random.Generator, num_users: int) -> list[Interaction]:
    # The last item occurs, so that popularity has a place for every row.
    return [
        Interaction(
            event_id=f"u{user}-{place}",
            timestamp_ms=START_MS + place * HOUR_MS,
            item_id=f"i{row}",
            event="view",
            user_id=f"u{user}",
        )
        for user in range(num_users)
        for place, row in enumerate([*rng.integers(1, NUM_ROWS, 12).tolist(), NUM_ROWS - 1])
    ]


def _fields(catalogue_digest: str, precision: Precision) -> dict[str, object]:
    measured = {"precision": precision, "state_bytes": 0, "overlap_at_10": 1.0, "ndcg_at_10": 0.0}
    measured["vector_error"] = {"fp32": 1e-5, "fp16": 5e-3, "int8": 5e-2}[precision]
    return {
        "model": "tiny",
        "config": {},
        "features": {},
        "num_rows": NUM_ROWS,
        "catalogue_digest": catalogue_digest,
        "data": {"digest": "d", "cut_off_ms": None, "num_events": 1, "num_users": 1},
        "metrics": [],
        "graphs": {},
        "error_bounds": {},
        "versions": {},
        "seed": 1,
        "parent": None,
        "states": {"chosen": precision, "measured": [measured]},
    }
