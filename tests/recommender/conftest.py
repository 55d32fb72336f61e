"""One recommender, trained once on small data with a pattern that can be learned."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pytest

from ouzel import Recommender

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


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("recommender") / "home"
    Recommender(home).fit(walks(), split="leave-one-out", seed=3, minutes=0.1)
    return home
