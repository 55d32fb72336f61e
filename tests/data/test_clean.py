"""Cleaning: each step against the plain way to say it."""

from __future__ import annotations

from collections import Counter

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ouzel.data.clean import (
    drop_abnormal_values,
    drop_missing_values,
    drop_repeats,
    implicit,
    k_core,
    normalise_values,
)

PAIRS = st.lists(st.tuples(st.sampled_from("uvwxy"), st.sampled_from("abcde")), max_size=40)


def table(pairs: list[tuple[str, str]], **columns: list[object]) -> pl.DataFrame:
    users, items = zip(*pairs, strict=True) if pairs else ((), ())
    schema = {"user_id": pl.String, "item_id": pl.String}
    return pl.DataFrame({"user_id": users, "item_id": items}, schema=schema).with_columns(
        **{name: pl.Series(values) for name, values in columns.items()}
    )


@given(PAIRS, st.integers(1, 4), st.integers(1, 4))
def test_k_core_is_the_largest_part_that_keeps_the_promise(
    pairs: list[tuple[str, str]], users: int, items: int
) -> None:
    kept = list(pairs)
    while True:
        by_user, by_item = Counter(u for u, _ in kept), Counter(i for _, i in kept)
        rest = [(u, i) for u, i in kept if by_user[u] >= users and by_item[i] >= items]
        if rest == kept:
            break
        kept = rest
    if not kept:
        with pytest.raises(ValueError, match="lower the thresholds"):
            k_core(table(pairs), users=users, items=items)
        return
    assert k_core(table(pairs), users=users, items=items).rows() == kept


def test_k_core_refuses_thresholds_below_one() -> None:
    with pytest.raises(ValueError, match="users 0"):
        k_core(table([("u", "a")]), users=0)


@given(PAIRS, st.data())
def test_one_event_of_each_pair_is_kept(pairs: list[tuple[str, str]], data: st.DataObject) -> None:
    times = data.draw(
        st.lists(st.integers(0, 3), min_size=len(pairs), max_size=len(pairs)), "times"
    )
    frame = table(pairs).with_columns(
        timestamp=pl.Series(times, dtype=pl.Int64), line=pl.int_range(pl.len())
    )
    order = sorted(range(len(pairs)), key=lambda position: times[position])
    last = {pairs[position]: position for position in order}
    first = {pairs[position]: position for position in reversed(order)}
    assert drop_repeats(frame)["line"].to_list() == sorted(last.values())
    assert drop_repeats(frame, keep="first")["line"].to_list() == sorted(first.values())


def test_abnormal_values_go_and_absent_ones_stay() -> None:
    frame = pl.DataFrame({"value": [1.0, 2.0, 3.0, None, 4.0, 1e9, -1e9, float("nan")]})
    assert drop_abnormal_values(frame, spread=1.5)["value"].fill_nan(None).to_list() == [
        *(1.0, 2.0, 3.0, None, 4.0, None)
    ]
    same = pl.DataFrame({"value": [5.0] * 8 + [1.0]})
    assert len(drop_abnormal_values(same)) == 9
    assert len(drop_abnormal_values(pl.DataFrame({"value": [None]}, {"value": pl.Float32}))) == 1
    with pytest.raises(ValueError, match="spread 0"):
        drop_abnormal_values(frame, spread=0)


def test_events_without_a_value() -> None:
    frame = pl.DataFrame({"value": [1.0, None, float("nan"), 0.0]})
    assert drop_missing_values(frame)["value"].to_list() == [1.0, 0.0]


def test_ratings_become_likes_and_clicks_stay_clicks() -> None:
    frame = pl.DataFrame({"event": ["rate", "click", "rate"], "value": [4.0, None, 3.9]})
    assert implicit(frame, threshold=4.0).rows() == [("like", None), ("click", None)]


@given(st.lists(st.floats(-1e3, 1e3, width=32), min_size=1, max_size=20))
def test_scales(values: list[float]) -> None:
    frame = pl.DataFrame({"user_id": ["u"] * len(values), "value": values})
    unit = normalise_values(frame)["value"].to_numpy()
    assert unit.min() == 0
    assert unit.max() in (0, 1)
    standard = normalise_values(frame, scale="standard")["value"].to_numpy()
    assert abs(standard.mean()) < 1e-3
    centred = normalise_values(frame, scale="user_mean")["value"].to_numpy()
    assert np.allclose(centred, np.array(values) - np.mean(values), atol=1e-3)
    assert (np.diff(unit[np.argsort(values, kind="stable")]) >= 0).all()


def test_scales_leave_absent_values_absent() -> None:
    frame = pl.DataFrame({"user_id": ["u", "u", "v"], "value": [2.0, None, 4.0]})
    assert normalise_values(frame)["value"].to_list() == [0.0, None, 1.0]
    per_user = normalise_values(frame, scale="user_mean")
    assert per_user["value"].to_list() == [0.0, None, 0.0]
