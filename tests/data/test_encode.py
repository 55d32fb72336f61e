"""Rows without a log are the rows that a log hands out."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ouzel.data import from_arrow
from ouzel.data.encode import encode
from ouzel.events.log import EventLog

ROWS = st.lists(
    st.tuples(
        st.sampled_from("uvw"),
        st.sampled_from("abcd"),
        st.sampled_from(["click", "hide", "rate"]),
        st.integers(1, 4),
        st.none() | st.just(2.5),
    ),
    min_size=1,
    max_size=20,
    unique=True,
)


@settings(
    max_examples=40,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(ROWS)
def test_encoding_agrees_with_the_log(
    tmp_path: Path, rows: list[tuple[str, str, str, int, float | None]]
) -> None:
    schema = {
        "user_id": pl.String,
        "item_id": pl.String,
        "event": pl.String,
        "timestamp": pl.Int64,
        "value": pl.Float32,
    }
    dataset = from_arrow(pl.DataFrame(rows, schema=schema, orient="row"))
    encoded = encode(dataset.frame)
    path = tmp_path / "events.db"
    with EventLog.open(path, synchronous="OFF") as log:
        log.import_frame(dataset.columns(), source_digest=dataset.digest)
        found, mine = log.interactions(), encoded.interactions
        for name in ("offsets_U1", "rows_E", "times_ms_E", "users_U"):
            assert getattr(found, name).tolist() == getattr(mine, name).tolist()
        assert np.array_equal(found.values_E, mine.values_E, equal_nan=True)
        assert log.user_ids(mine.users_U) == encoded.user_ids.to_list()
        assert log.catalog.ids(range(1, len(log.catalog))) == encoded.item_ids.to_list()
        assert found.num_rows <= mine.num_rows
    path.unlink()
