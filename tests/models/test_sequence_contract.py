"""What every sequence model must do, and a check that none escapes."""

from __future__ import annotations

import ast
from pathlib import Path

import numpy as np
import pytest
import torch

import ouzel.models.sequence as sequence
from ouzel.events.interactions import History, from_histories
from ouzel.models.protocols import SequenceEncoder
from ouzel.models.sequence import SEQUENCE_MODELS
from ouzel.models.sequence.esasrec import ESASRec, ESASRecConfig
from ouzel.training.fit import FitSettings, fit
from ouzel.training.validation import torch_scorer
from tests.tiny import NUM_ROWS, START_MS, WINDOW, tiny_model

VARIANTS = [
    pytest.param(lambda: tiny_model(timed=True), id="esasrec"),
    pytest.param(lambda: tiny_model(timed=False), id="esasrec-untimed"),
    pytest.param(lambda: tiny_model(num_layers=3), id="esasrec-deep"),
]


def inputs(
    batch: int, length: int, seed: int = 0
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randint(1, NUM_ROWS, (batch, length), generator=generator)
    steps = torch.randint(0, 10**8, (batch, length + 1), generator=generator)
    times = START_MS + steps.cumsum(1)
    return rows, times[:, :-1], times[:, 1:]


def test_every_file_of_the_folder_is_a_model_of_the_closed_tuple() -> None:
    folder = Path(sequence.__file__).parent
    files = {path.stem for path in folder.glob("*.py")} - {"__init__"}
    assert files == {model.__module__.rsplit(".", 1)[1] for model in SEQUENCE_MODELS}
    assert len(SEQUENCE_MODELS) == 1


def test_every_model_of_the_tuple_is_in_the_variants() -> None:
    assert {type(variant.values[0]()) for variant in VARIANTS} == set(SEQUENCE_MODELS)


@pytest.mark.parametrize("build", VARIANTS)
class TestContract:
    def test_shapes(self, build) -> None:
        model: SequenceEncoder = build()
        assert model(*inputs(3, 5)).shape == (3, 5, 16)
        assert model.item_vectors().shape == (NUM_ROWS, 16)

    def test_padding_changes_nothing(self, build) -> None:
        model = build().double()
        rows, times, requests = inputs(2, 6)
        padded = [torch.cat([x, torch.zeros_like(x)], dim=1) for x in (rows, times, requests)]
        torch.testing.assert_close(model(*padded)[:, :6], model(rows, times, requests))

    def test_later_events_change_nothing_before_them(self, build) -> None:
        model = build().double()
        rows, times, requests = inputs(2, 3 * WINDOW)
        before = model(rows, times, requests)
        rows[:, 10], times[:, 11:], requests[:, 11:] = 1, times[:, 11:] + 5, requests[:, 11:] + 5
        after = model(rows, times, requests)
        torch.testing.assert_close(after[:, :10], before[:, :10], rtol=0, atol=1e-12)
        assert (after[:, 10:] - before[:, 10:]).abs().max() > 1e-3

    def test_a_batch_equals_its_singles(self, build) -> None:
        model = build().double()
        batch = inputs(4, 9)
        singles = [model(*(x[i : i + 1] for x in batch)) for i in range(4)]
        torch.testing.assert_close(model(*batch), torch.cat(singles))

    def test_every_parameter_gets_a_gradient(self, build) -> None:
        model = build()
        (model(*inputs(3, 2 * WINDOW)) @ model.item_vectors().T).square().mean().backward()
        without = [
            name
            for name, parameter in model.named_parameters()
            if parameter.grad is None or not parameter.grad.abs().max() > 0
        ]
        assert without == []

    def test_the_same_seed_gives_the_same_weights(self, build) -> None:
        one, two = build().state_dict(), build().state_dict()
        assert all(torch.equal(one[name], two[name]) for name in one)


@pytest.mark.parametrize("known", SEQUENCE_MODELS)
def test_every_preset_is_built(known: type[SequenceEncoder]) -> None:
    for preset, config in known.presets.items():
        model = known.build(preset, 5, dropout=0.3)
        assert model.config.dropout == 0.3 and model.config.dim == config.dim


def test_names_are_unique() -> None:
    assert len({known.name for known in SEQUENCE_MODELS}) == len(SEQUENCE_MODELS)


def test_only_known_fields_are_in_the_config() -> None:
    """Every field of the config is read somewhere in the model's own file or its layers."""
    source = Path(sequence.__file__).with_name("esasrec.py").read_text()
    read = {node.attr for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Attribute)}
    assert set(ESASRecConfig.__dataclass_fields__) <= read


@pytest.mark.parametrize("wrong", [{"dim": 10}, {"num_layers": 0}, {"window": 0}])
def test_an_impossible_config_is_refused(wrong) -> None:
    with pytest.raises(ValueError, match=r"dim|at least 1"):
        ESASRecConfig(**wrong)


def test_a_checkerboard_is_learned(tmp_path: Path) -> None:
    """Users alternate between two items of their own pair: the next one is certain."""
    histories = []
    for user in range(60):
        pair = np.array([1 + 2 * (user % 6), 2 + 2 * (user % 6)], np.int32)
        times = START_MS + np.arange(12, dtype=np.int64) * 60_000
        histories.append(History(np.tile(pair, 6), times))
    interactions = from_histories(histories, num_rows=13)
    torch.manual_seed(0)
    model = ESASRec(ESASRecConfig(dim=16, window=WINDOW), 13)
    settings = FitSettings(epochs=60, batch_tokens=256, learning_rate=1e-2)
    fit(model, interactions, settings, max_length=WINDOW, validate=None, directory=tmp_path)
    scorer = torch_scorer(model, max_length=WINDOW)
    scores = scorer(histories, np.array([history.times_ms[-1] + 60_000 for history in histories]))
    assert scores[:, 1:].argmax(1).tolist() == [int(history.rows[0]) - 1 for history in histories]
