"""What a training is told is checked before anything is read."""

from __future__ import annotations

import pytest

from ouzel.recommender.options import TrainOptions


@pytest.mark.parametrize(
    ("name", "value"),
    [("minutes", float("nan")), ("minutes", 0.0), ("seed", -1), ("min_value", float("nan"))],
)
def test_values_that_mean_nothing_are_refused_by_name(name: str, value: float) -> None:
    with pytest.raises(ValueError, match=f"{name} is"):
        TrainOptions(**{name: value})


def test_a_precision_that_is_not_known_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match="no state_precision 'int4': did you mean 'int8'"):
        TrainOptions(state_precision="int4")
