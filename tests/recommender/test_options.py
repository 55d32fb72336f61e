"""What a training is told is checked before anything is read."""

from __future__ import annotations

import re

import numpy as np
import pytest

from ouzel.events.interactions import History, from_histories
from ouzel.models.sequence import SEQUENCE_MODELS
from ouzel.recommender.options import TrainOptions
from ouzel.recommender.train import settings_for


@pytest.mark.parametrize(
    ("name", "value"),
    [("minutes", float("nan")), ("minutes", 0.0), ("seed", -1), ("min_value", float("nan"))],
)
def test_values_that_mean_nothing_are_refused_by_name(name: str, value: float) -> None:
    with pytest.raises(ValueError, match=f"{name} is"):
        TrainOptions(**{name: value})


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"model": "ease", "ranker": True}, "ease keeps none: leave it out"),
        ({"model": "ials", "state_precision": "int8"}, "ials keeps no states"),
        ({"model": "ease", "minutes": 5}, "ease is fitted at once"),
        ({"model": "ease", "preset": "M"}, "there is no preset 'M': choose one of S"),
        ({"model": "ease", "settings": {"l3": 1}}, "did you mean 'l2'? It has l2, keep, half"),
        ({"model": "ease", "settings": {"l2": float("nan")}}, "l2 is nan"),
        ({"model": "ials", "settings": {"half_life": "-1"}}, "half_life is -1.0"),
        ({"model": "ials", "settings": {"power": "-1"}}, "power is -1.0: give 0 or more"),
        ({"model": "item_knn", "settings": {"shrink": "nan"}}, "give a finite number"),
        *(
            ({"model": known.name, "settings": {"temperature": "0"}}, "temperature is 0.0")
            for known in SEQUENCE_MODELS
        ),
    ],
)
def test_what_a_model_cannot_do_is_refused(options: dict, told: str) -> None:
    with pytest.raises(ValueError, match=re.escape(told)):
        TrainOptions(**options)


def test_a_precision_that_is_not_known_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match="no state_precision 'int4': did you mean 'int8'"):
        TrainOptions(state_precision="int4")


def test_settings_of_the_fit_are_told_from_those_of_the_model() -> None:
    options = TrainOptions(settings={"loss": "gbce", "dim": "32", "num_negatives": "99"})
    assert options.checked_settings == {"dim": 32}
    assert options.fit_settings == {"loss": "gbce", "num_negatives": 99}
    few = from_histories([History(np.array([1, 2], np.int32), np.array([10, 20]))], num_rows=3)
    settings = settings_for(few, options)
    assert (settings.loss, settings.num_negatives, settings.learning_rate) == ("gbce", 99, 1e-3)
    assert settings_for(few, TrainOptions(model="gru4rec")).learning_rate == 3e-3
    told = TrainOptions(model="gru4rec", settings={"learning_rate": 0.5})
    assert settings_for(few, told).learning_rate == 0.5


def test_few_items_are_all_negatives_unless_something_else_is_asked_for() -> None:
    def loss_of(num_items: int, **settings: str) -> str:
        visits = History(np.array([1, num_items], np.int32), np.array([10, 20]))
        interactions = from_histories([visits], num_rows=num_items + 1)
        return settings_for(interactions, TrainOptions(settings=settings)).loss

    assert loss_of(16_384) == "full_softmax"
    assert loss_of(16_385) == "sampled_softmax"
    assert loss_of(16_384, num_negatives="64") == "sampled_softmax"
    assert loss_of(16_384, num_negatives="64", loss="gbce") == "gbce"


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"settings": {"los": "gbce"}}, "did you mean 'loss'. It has dim, .*, batch_tokens$"),
        ({"settings": {"loss": "gbc"}}, "there is no loss 'gbc': did you mean 'gbce'"),
        ({"settings": {"learning_rate": "inf"}}, "learning_rate is 'inf': give a finite number"),
        ({"settings": {"num_negatives": "0"}}, "num_negatives is 0: give more than 0"),
        ({"settings": {"learning_rate": "fast"}}, "learning_rate is 'fast'"),
        ({"model": "gru4rec", "ranker": True}, "no ranker can read the states of gru4rec"),
    ],
)
def test_a_fit_that_cannot_be_is_refused(wrong, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        TrainOptions(**wrong)
