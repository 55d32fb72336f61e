"""A small Bundle to damage."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ouzel.bundle.bundle import Bundle, write_bundle

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


@pytest.fixture
def make_bundle(tmp_path: Path) -> Callable[..., Bundle]:
    """Return a function that writes a Bundle into `tmp_path/bundles`, fields replaced."""

    def make(**replaced: Any) -> Bundle:
        return write_bundle(
            tmp_path / "bundles", manifest_fields=FIELDS | replaced, tensors=TENSORS, graphs=GRAPHS
        )

    return make
