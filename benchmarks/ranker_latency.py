"""What ranking costs one core: the graph that serves beside the same one without its item table.

python benchmarks/ranker_latency.py --json FILE

Both score the same candidates in turn in one process, so that whatever else the machine does
meets both. Weights are random, which changes no time.
"""

from __future__ import annotations

import argparse
import time
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ouzel.cli.machine import record
from ouzel.cli.printing.output import emit
from ouzel.compression.export import export_graphs, export_ranker
from ouzel.inference.onnxruntime import Graphs
from ouzel.inference.pool import StatePool, slot_bytes
from ouzel.models.ranking.target_attention import TargetAttention
from ouzel.models.sequence.esasrec import PRESETS, ESASRec

NUM_ITEMS, NUM_USERS = 100_000, 1_000
CASES = ((1, 500, 200), (4, 500, 200), (1, 500, 50), (1, 100, 200))
ACTIONS = ("interact", "like")
CALLS = 300


class Straight(TargetAttention):
    """The ranker whose graph makes the lines of the candidates at every request."""

    def rank(
        self,
        query_BD: Tensor,
        now_B: Tensor,
        length_B: Tensor,
        slot_B: Tensor,
        candidates_BK: Tensor,
        vectors_ND: Tensor,
        items_NF: Tensor,
        *cache: Tensor,
    ) -> Tensor:
        vectors_BKD = vectors_ND[candidates_BK]
        lines_BKF = self.item_parts(vectors_BKD) + items_NF[candidates_BK]
        states = cache[0][slot_B], cache[1][slot_B]
        logits: Tensor = self(query_BD, now_B, length_B, vectors_BKD, lines_BKF, *states)
        return logits


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json")
    arguments = parser.parse_args()
    torch.manual_seed(0)
    model = ESASRec(PRESETS["S"], num_rows=2)
    files = export_graphs(model)
    table_ND = np.zeros((2, model.config.dim), np.float32)
    graphs = {
        ranker.__name__: Graphs(files | export_ranker(_build(ranker), model.config), table_ND)
        for ranker in (TargetAttention, Straight)
    }
    rows = [_row(graphs, *case) for case in CASES]
    command = "python benchmarks/ranker_latency.py"
    emit(record(rows, command=command, seed=0), arguments.json, title="Ranking, one thread")


def _build(ranker: type[TargetAttention]) -> TargetAttention:
    built = ranker.build(PRESETS["S"], ACTIONS, num_rows=2)
    torch.nn.init.normal_(built.out.weight, std=0.1)
    return built


def _row(graphs: dict[str, Graphs], batch: int, candidates: int, length: int) -> dict[str, Any]:
    rng = np.random.default_rng(0)
    shape = graphs["Straight"].shape
    pool = StatePool(shape, max_bytes=NUM_USERS * slot_bytes(shape))
    for array in pool.cache:
        array[:] = rng.normal(size=array.shape[1:])
    width = _build(TargetAttention).item_parts.out_features
    vectors_ND = rng.normal(size=(NUM_ITEMS, shape.dim)).astype(np.float32)
    lines_NF = rng.normal(size=(NUM_ITEMS, width)).astype(np.float32)
    took: dict[str, list[float]] = {name: [] for name in graphs}
    for _ in range(CALLS):
        asked = {
            "query_BD": rng.normal(size=(batch, shape.dim)).astype(np.float32),
            "now_B": np.full(batch, 1_600_000_000_000),
            "length_B": np.full(batch, length),
            "slot_B": rng.integers(0, NUM_USERS, batch),
            "candidates_BK": rng.integers(1, NUM_ITEMS, (batch, candidates)),
        }
        for name, ranking in graphs.items():
            begun = time.perf_counter()
            ranking.rank(**asked, tables=(vectors_ND, lines_NF), cache=pool.cache)
            took[name].append((time.perf_counter() - begun) * 1000)
    served, straight = (np.array(took[name]) for name in ("TargetAttention", "Straight"))
    return {
        "system": "ouzel",
        "case": f"{batch} x {candidates} candidates, {length} events",
        "p50_ms": float(np.median(served)),
        "least_ms": float(served.min()),
        "p99_ms": float(np.quantile(served, 0.99)),
        "straight_p50_ms": float(np.median(straight)),
        "straight_least_ms": float(straight.min()),
        "times_straight": float(np.median(straight / served)),
    }


if __name__ == "__main__":
    main()
