"""What a training is told is checked before anything is read."""

from __future__ import annotations

import re

import pytest

from ouzel.recommender.options import TrainOptions


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
    ],
)
def test_what_a_model_cannot_do_is_refused(options: dict, told: str) -> None:
    with pytest.raises(ValueError, match=re.escape(told)):
        TrainOptions(**options)


def test_a_precision_that_is_not_known_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match="no state_precision 'int4': did you mean 'int8'"):
        TrainOptions(state_precision="int4")
