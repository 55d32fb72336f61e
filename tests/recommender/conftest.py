"""One recommender, trained once on small data with a pattern that can be learned."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from unittest.mock import patch

import numpy as np
import polars as pl
import pytest

from ouzel import Recommender
from ouzel.models.sequence.esasrec import PRESETS, ESASRecConfig

NUM_USERS = 120
CIRCLE = 15


def walks(num_users: int = NUM_USERS) -> pl.DataFrame:
    """Return users who go along one of four circles of 15 items, never round it, at their pace."""
    rng = np.random.default_rng(0)
    rows = []
    for user in range(num_users):
        circle, place = user % 4, int(rng.integers(CIRCLE))
        second = 1_600_000_000 + int(rng.integers(10**6))
        for step in range(int(rng.integers(5, 12))):
            second += int(rng.integers(60, 4000))
            rows.append((f"user {user}", f"c{circle}-{(place + step) % CIRCLE}", second))
    return pl.DataFrame(rows, schema=["user_id", "item_id", "timestamp"], orient="row")


@contextmanager
def small_preset() -> Iterator[None]:
    """Let preset S be of one layer: its graphs are traced in half the time."""
    with patch.dict(PRESETS, S=ESASRecConfig(num_layers=1, window=32)):
        yield


@pytest.fixture
def small() -> Iterator[None]:
    with small_preset():
        yield


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("recommender") / "home"
    with small_preset():
        Recommender(home).fit(walks(), split="leave-one-out", seed=3, minutes=0.1, blend=False)
    return home
