"""What a small Bundle is made of."""

from __future__ import annotations

from typing import Any

import numpy as np

FIELDS: dict[str, Any] = {
    "model": "SASRec",
    "config": {"dim": 4, "num_layers": 1},
    "features": {"max_length": 8},
    "num_rows": 3,
    "catalogue_digest": "c" * 64,
    "data": {"digest": "d" * 64, "cut_off_ms": 1_700_000_000_000, "num_events": 9, "num_users": 2},
    "metrics": [{"model": "SASRec", "recall@10": 0.25}],
    "graphs": {"encode": {"inputs": {"rows_BL": ["B", "L"]}, "outputs": {"vector_BD": ["B", 4]}}},
    "error_bounds": {"append": 1e-6},
    "versions": {"ouzel": "0.1.0"},
    "seed": 7,
    "parent": None,
}
TENSORS = {"items": {"vectors_ND": np.arange(12, dtype=np.float32).reshape(3, 4)}}
GRAPHS = {"encode": b"graph bytes " * 40, "append": b"other bytes " * 30}
