"""Likes of rated events: labels, parts, and no example that knows what it is asked."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest

from ouzel.features.fields import TIME_FIELDS
from ouzel.recommender.options import Silent
from ouzel.recommender.rated import fit_rated, rated_split

COUNT, USERS, ITEMS = 600, 12, 20


def ratings() -> pl.DataFrame:
    rng = np.random.default_rng(0)
    users, items = rng.integers(0, USERS, COUNT), rng.integers(0, ITEMS, COUNT)
    values = np.where(rng.random(COUNT) < 0.15, 3.0, np.where(users % 2 == items % 2, 5.0, 1.0))
    return pl.DataFrame(
        {
            "user_id": [f"u{user}" for user in users],
            "item_id": [f"i{item}" for item in items],
            "value": values,
            "timestamp": rng.permutation(COUNT) * 1000,
        }
    )


USER_TABLE = pl.DataFrame(
    {"user_id": [f"u{n}" for n in range(USERS)], "gender": ["F", "M"] * (USERS // 2)}
)
ITEM_TABLE = pl.DataFrame(
    {
        "item_id": [f"i{n}" for n in range(ITEMS)],
        "title": [f"Film {n} ({1990 + n % 4})" for n in range(ITEMS)],
        "genres": ["Drama|War", "War"] * (ITEMS // 2),
    }
)


@pytest.fixture(scope="module")
def rated():
    return rated_split(ratings(), USER_TABLE, ITEM_TABLE)


def test_the_middle_is_left_out_and_parts_are_8_to_1_to_1(rated) -> None:
    told = ratings().filter(pl.col("value") != 3)
    parts = (rated.train, rated.validation, rated.test)
    assert sum(map(len, parts)) == len(told)
    assert [round(10 * len(part) / len(told)) for part in parts] == [8, 1, 1]
    liked = sum(part.labels_EKA.sum() for part in parts)
    assert liked == (told["value"] == 5).sum()


def test_fields_are_those_of_all_sides(rated) -> None:
    names = [(field.side, field.name) for field in rated.schema.fields]
    assert names == [
        ("user", "user"),
        ("user", "gender"),
        *(("event", field.name) for field in TIME_FIELDS),
        ("item", "item"),
        ("item", "genres"),
        ("item", "year"),
    ]
    assert not rated.items_NS[0].any() and (rated.items_NS[1:, 0] > 0).all()


def test_fields_can_be_left_out() -> None:
    rated = rated_split(ratings(), USER_TABLE, ITEM_TABLE, without=["user", "year"])
    names = [field.name for field in rated.schema.fields]
    assert names == ["gender", "hour", "weekday", "item", "genres"]
    assert rated.train.requests_ES.shape[1] == 3
    with pytest.raises(ValueError, match="no field 'users': there are user, gender"):
        rated_split(ratings(), USER_TABLE, ITEM_TABLE, without=["users"])


def test_what_was_before_are_earlier_likes_of_the_training_part_alone(rated) -> None:
    told = ratings().filter(pl.col("value") != 3).with_row_index("at")
    items = told["item_id"].unique(maintain_order=True).to_list()
    order = np.random.default_rng(0).permutation(len(told))
    train = set(order[: 8 * len(told) // 10].tolist())
    rows = told.rows(named=True)
    for part, places in ((rated.train, order[: 8 * len(told) // 10]), (rated.test, None)):
        chosen = np.sort(order[9 * len(told) // 10 :] if places is None else places)
        for line, at in list(enumerate(chosen.tolist()))[::17]:
            asked = rows[at]
            before = sorted(
                (row["timestamp"], items.index(row["item_id"]) + 1)
                for row in rows
                if row["user_id"] == asked["user_id"]
                and row["timestamp"] < asked["timestamp"]
                and row["value"] == 5
                and row["at"] in train
            )
            found, length = part.past.newest(np.array([line]), len(before) + 3)
            assert length[0] == len(before)
            assert found[0, : len(before)].tolist() == [row for _, row in before]


def test_the_row_of_a_model_has_both_metrics(rated) -> None:
    told = {"settings": {"dim": "8", "epochs": "12", "batch_size": "32", "learning_rate": "0.02"}}
    row = fit_rated("deepfm", rated, seed=0, minutes=None, progress=Silent(), **told)
    assert row["auc"] > 0.9 and row["logloss"] < 0.6
    assert row["num_examples"] == [len(rated.train), len(rated.validation), len(rated.test)]
    assert (row["model"], row["split"], row["seed"]) == ("deepfm", "random", 0)
    again = fit_rated("deepfm", rated, seed=0, minutes=None, progress=Silent(), **told)
    assert again["auc"] == row["auc"]


@pytest.mark.parametrize(
    ("settings", "message"),
    [({"dimm": "8"}, "did you mean 'dim'"), ({"l2": "x"}, "l2 is 'x'"), ({"dim": "0"}, "dim is 0")],
)
def test_wrong_settings_are_refused(rated, settings, message) -> None:
    with pytest.raises(ValueError, match=message):
        fit_rated("mlp", rated, settings=settings, seed=0, minutes=None, progress=Silent())


def test_ratings_that_say_nothing_are_refused() -> None:
    for value in (None, 4.0):
        same = ratings().with_columns(value=pl.lit(value, pl.Float64))
        with pytest.raises(ValueError, match=r"no event has a value|every value is 4"):
            rated_split(same, None, None)
