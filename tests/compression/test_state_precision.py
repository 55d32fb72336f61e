"""The precision of states is chosen by what it costs."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from ouzel.compression import state_precision
from ouzel.compression.state_precision import choose_precision
from tests.tiny import random_history, tiny_model

HISTORIES = [random_history(np.random.default_rng(n), n) for n in range(1, 40)]


def test_every_precision_is_measured_and_the_smallest_good_one_is_taken() -> None:
    model = tiny_model()
    chosen = choose_precision(model, HISTORIES)
    assert [row.precision for row in chosen.measured] == ["fp32", "fp16", "int8"]
    errors = [row.vector_error for row in chosen.measured]
    sizes = [row.state_bytes for row in chosen.measured]
    assert errors == sorted(errors) and errors[0] < 1e-4 < errors[2]
    assert sizes == sorted(sizes, reverse=True)
    assert chosen.chosen == "int8"
    assert model.precision == "fp32"  # measuring leaves no trace


def test_a_precision_that_costs_too_much_is_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    """The planted fault: int8 of three levels instead of 127 on each side."""
    monkeypatch.setattr("ouzel.models.layers.precision.INT8_LEVELS", 1)
    chosen = choose_precision(tiny_model(), HISTORIES)
    assert chosen.measured[2].overlap_at_10 < state_precision.LEAST_OVERLAP
    assert chosen.chosen == "fp16"
    assert choose_precision(tiny_model(), HISTORIES, asked="int8").chosen == "int8"


def test_numbers_too_large_for_float16_are_never_kept_in_it() -> None:
    model = tiny_model()
    with torch.no_grad():
        model.blocks[0].key_value.bias[-1] = 1e6
    chosen = choose_precision(model, HISTORIES)
    assert "fp16" not in [row.precision for row in chosen.measured]
    with pytest.raises(ValueError, match=r"kept in fp16: .* not finite; choose auto"):
        choose_precision(model, HISTORIES, asked="fp16")


def test_with_nothing_to_measure_nothing_is_rounded() -> None:
    assert choose_precision(tiny_model(), HISTORIES[:1]).chosen == "fp32"
    assert choose_precision(tiny_model(), [], asked="int8").measured == []
