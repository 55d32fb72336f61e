"""A small Bundle to damage."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ouzel.bundle.bundle import Bundle, write_bundle
from tests.bundle.sample import FIELDS, GRAPHS, TENSORS


@pytest.fixture
def make_bundle(tmp_path: Path) -> Callable[..., Bundle]:
    """Return a function that writes a Bundle into `tmp_path/bundles`, fields replaced."""

    def make(**replaced: Any) -> Bundle:
        return write_bundle(
            tmp_path / "bundles", manifest_fields=FIELDS | replaced, tensors=TENSORS, graphs=GRAPHS
        )

    return make
