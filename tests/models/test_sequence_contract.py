"""What every sequence model must do, and a check that none escapes."""

from __future__ import annotations

import ast
import sys
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
import torch

import ouzel.models.sequence as sequence
from ouzel.events.interactions import History, from_histories
from ouzel.features.batches import pad_histories
from ouzel.models.protocols import SequenceEncoder
from ouzel.models.sequence import SEQUENCE_MODELS
from ouzel.models.sequence.caser import Caser
from ouzel.models.sequence.esasrec import ESASRecConfig
from ouzel.models.sequence.linear_recurrent import all_steps
from ouzel.training.fit import FitSettings, fit
from ouzel.training.validation import torch_scorer
from tests.models.every import KINDS, NAMES, SETTINGS, tiny
from tests.tiny import NUM_ROWS, START_MS, WINDOW, random_history, tiny_model

VARIANTS = [
    pytest.param(lambda: tiny_model(timed=True), id="esasrec"),
    pytest.param(lambda: tiny_model(timed=False), id="esasrec-untimed"),
    pytest.param(lambda: tiny_model(num_layers=3), id="esasrec-deep"),
    *(pytest.param(lambda name=name: tiny(name), id=name) for name in SETTINGS),
]


def inputs(
    batch: int, length: int, seed: int = 0
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randint(1, NUM_ROWS, (batch, length), generator=generator)
    steps = torch.randint(0, 10**8, (batch, length + 1), generator=generator)
    times = START_MS + steps.cumsum(1)
    return rows, times[:, :-1].clone(), times[:, 1:].clone()


def test_every_file_of_the_folder_is_a_model_of_the_closed_tuple() -> None:
    folder = Path(sequence.__file__).parent
    files = {path.stem for path in folder.glob("*.py")} - {"__init__"}
    assert files == {model.__module__.rsplit(".", 1)[1] for model in SEQUENCE_MODELS}
    assert len(SEQUENCE_MODELS) == 7


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
        rows[:, 10] = rows[:, 10] % (NUM_ROWS - 1) + 1
        times[:, 11:], requests[:, 11:] = times[:, 11:] + 5, requests[:, 11:] + 5
        after = model(rows, times, requests)
        torch.testing.assert_close(after[:, :10], before[:, :10], rtol=0, atol=1e-12)
        assert (after[:, 10:] - before[:, 10:]).abs().max() > 1e-3

    def test_a_batch_equals_its_singles(self, build) -> None:
        model = build().double()
        batch = inputs(4, 9)
        singles = [model(*(x[i : i + 1] for x in batch)) for i in range(4)]
        torch.testing.assert_close(model(*batch), torch.cat(singles))

    def test_every_parameter_gets_a_gradient(self, build) -> None:
        model = build().train()
        rows, times, requests = inputs(8, WINDOW)
        vectors, targets = model.predictions(rows, times, requests, rows.roll(1, 1))
        assert vectors.shape == (len(targets), 16) and targets.min() > 0
        (vectors @ model.item_vectors().T).square().mean().backward()
        without = [
            name
            for name, parameter in model.named_parameters()
            if parameter.grad is None or not parameter.grad.abs().max() > 0
        ]
        assert without == []

    def test_the_same_seed_gives_the_same_weights(self, build) -> None:
        one, two = build().state_dict(), build().state_dict()
        assert all(torch.equal(one[name], two[name]) for name in one)


@pytest.mark.parametrize("name", NAMES)
class TestState:
    """What a model says of its state is what it does."""

    def test_the_kind_is_declared(self, name: str) -> None:
        assert tiny(name).state.kind == KINDS[name]
        assert tiny(name).state.receptive_field == tiny(name).config.receptive_field

    def test_an_answer_depends_on_the_receptive_field_and_no_more(self, name: str) -> None:
        model = tiny(name).double()
        history = random_history(np.random.default_rng(5), 3 * WINDOW)
        field = min(model.config.receptive_field, len(history))

        def vector(events: int) -> torch.Tensor:
            padded = pad_histories([history.last(events)])
            now = torch.tensor([history.times_ms[-1] + 5])
            arrays = (padded.rows_BL, padded.times_BL, padded.length_B)
            return model.user_vectors(*map(torch.from_numpy, arrays), now)

        torch.testing.assert_close(vector(field), vector(len(history)), rtol=0, atol=1e-9)
        assert (vector(field) - vector(field - 1)).abs().max() > 1e-9

    def test_user_vectors_are_those_of_forward(self, name: str) -> None:
        model = tiny(name).double()
        rows, times, requests = inputs(2, WINDOW)
        length = torch.tensor([WINDOW, 3])
        now = requests[torch.arange(2), length - 1]
        rows[1, 3:], times[1, 3:] = 0, 0
        expected = model(rows, times, requests)[torch.arange(2), length - 1]
        torch.testing.assert_close(model.user_vectors(rows, times, length, now), expected)

    def test_only_a_model_with_keys_and_values_is_ranked(self, name: str) -> None:
        model = tiny(name)
        if model.ranked:
            assert model.read_by_rankers() is model.config
        else:
            with pytest.raises(ValueError, match=f"the states of {name} hold nothing"):
                model.read_by_rankers()


@pytest.mark.parametrize("name", SETTINGS)
def test_free_inner_products_are_the_other_way_to_score(name: str) -> None:
    """The backbone scores by cosines alone."""
    (known,) = (known for known in SEQUENCE_MODELS if known.name == name)
    free, cosine = (known.build("S", 9, dim=16, temperature=t) for t in (None, 0.5))
    assert free.item_vectors().equal(free.items.weight)
    rows, times, requests = inputs(1, 4)
    sizes = cosine.eval()(rows % 8 + 1, times, requests).norm(dim=-1)
    torch.testing.assert_close(cosine.item_vectors().norm(dim=1), torch.ones(9))
    torch.testing.assert_close(sizes, torch.full((1, 4), 2.0))


@pytest.mark.parametrize("known", SEQUENCE_MODELS)
def test_every_preset_is_built(known: type[SequenceEncoder]) -> None:
    for preset, config in known.presets.items():
        model = known.build(preset, 5, dropout=0.3)
        assert model.config.dropout == 0.3 and model.config.dim == config.dim


def test_names_are_unique() -> None:
    assert len({known.name for known in SEQUENCE_MODELS}) == len(SEQUENCE_MODELS)


@pytest.mark.parametrize("known", SEQUENCE_MODELS)
def test_only_known_fields_are_in_the_config(known: type[SequenceEncoder]) -> None:
    """Every field of the config is read somewhere in the model's own file or its layers."""
    source = Path(sys.modules[known.__module__].__file__).read_text()
    read = {node.attr for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Attribute)}
    assert {field.name for field in fields(known.presets["S"])} - {"window"} <= read


@pytest.mark.parametrize("wrong", [{"dim": 10}, {"num_layers": 0}, {"window": 0}])
def test_an_impossible_config_is_refused(wrong) -> None:
    with pytest.raises(ValueError, match=r"dim|at least 1"):
        ESASRecConfig(**wrong)


@pytest.mark.parametrize("name", SETTINGS)
@pytest.mark.parametrize("wrong", [{"window": 0}, {"dim": -1}])
def test_an_impossible_config_of_any_model_is_refused(name: str, wrong) -> None:
    (known,) = (known for known in SEQUENCE_MODELS if known.name == name)
    with pytest.raises(ValueError, match="at least 1"):
        known.build("S", 5, **wrong)


@pytest.mark.parametrize("name", NAMES)
def test_a_checkerboard_is_learned(name: str, tmp_path: Path) -> None:
    """Users alternate between two items of their own pair: the next one is certain."""
    histories = []
    for user in range(60):
        pair = np.array([1 + 2 * (user % 6), 2 + 2 * (user % 6)], np.int32)
        times = START_MS + np.arange(12, dtype=np.int64) * 60_000
        histories.append(History(np.tile(pair, 6), times))
    interactions = from_histories(histories, num_rows=13)
    torch.manual_seed(0)
    (known,) = (known for known in SEQUENCE_MODELS if known.name == name)
    model = known.build("S", 13, dim=16, window=WINDOW, dropout=0.1)
    settings = FitSettings(
        epochs=60 if name == "bert4rec" else 30, batch_tokens=256, learning_rate=1e-2
    )
    fit(model, interactions, settings, max_length=WINDOW, validate=None, directory=tmp_path)
    scorer = torch_scorer(model, max_length=WINDOW)
    scores = scorer(histories, np.array([history.times_ms[-1] + 60_000 for history in histories]))
    assert scores[:, 1:].argmax(1).tolist() == [int(history.rows[0]) - 1 for history in histories]


def test_caser_reads_nothing_where_there_was_nothing() -> None:
    """A short history is one of empty lines before its events, not of its first event again."""
    model = tiny("caser")
    assert isinstance(model, Caser)
    event = model.items.weight[3].detach()
    lines = torch.stack([torch.zeros(16), torch.zeros(16), torch.zeros(16), event])[None]
    short, padded = event[None, None], lines
    torch.testing.assert_close(
        model._read(short, torch.tensor([1])), model._read(padded, torch.tensor([4]))
    )


@pytest.mark.parametrize("length", [1, 2, 5, 8, 13])
def test_all_steps_at_once_are_the_steps_one_by_one(length: int) -> None:
    generator = torch.Generator().manual_seed(0)
    keep, added = torch.rand(2, 3, length, 4, generator=generator, dtype=torch.float64)
    held, expected = torch.zeros(3, 4, dtype=torch.float64), []
    for step in range(length):
        held = keep[:, step] * held + added[:, step]
        expected.append(held)
    torch.testing.assert_close(all_steps(keep, added), torch.stack(expected, dim=1))
