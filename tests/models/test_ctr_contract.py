"""What every model of fields must do, and a check that none escapes."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch

import ouzel.models.ctr as ctr
from ouzel.compression.export import export_ctr
from ouzel.features.examples import Examples, Past
from ouzel.features.fields import TIME_FIELDS, Schema, enumerated, row_field
from ouzel.inference.onnxruntime import FieldsGraph
from ouzel.models.ctr import CTR_MODELS
from ouzel.models.ctr.base import CTRModel, Layout
from ouzel.training.ctr import CTRSettings, auc_validator, fit_ctr

ACTIONS = ("interact", "like")
BATCH, CANDIDATES, NUM_ROWS, HISTORY = 3, 5, 12, 4
GENRES = ["", *(("Drama|War", "War", "Comedy")[row % 3] for row in range(1, NUM_ROWS))]
SCHEMA = Schema(
    (
        row_field("user", "user", 9),
        *TIME_FIELDS,
        row_field("item", "item", NUM_ROWS),
        enumerated("genres", "item", GENRES),
    )
)
ITEMS_NS = SCHEMA.encode(
    "item", {"item": ["", *map(str, range(1, NUM_ROWS))], "genres": GENRES}
).astype(np.int64)
SMALL = {"dim": 8, "hidden": 16, "history": HISTORY}


def config_of(known: type[CTRModel]):
    preset = known.presets["S"]
    return type(preset)(**SMALL) if hasattr(preset, "hidden") else preset


def lively(known: type[CTRModel]) -> CTRModel:
    """Return a small model in float64 whose weights are far from those it starts with."""
    torch.manual_seed(3)
    model = known.build(config_of(known), SCHEMA, ACTIONS).double().eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.4)
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, torch.nn.Embedding):
                module.weight[0] = 0
    return model


def asked(seed: int = 0) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    users = torch.randint(0, 9, (BATCH, 1), generator=generator)
    hours = 9 + torch.randint(0, 24, (BATCH, 1), generator=generator)
    days = 33 + torch.randint(0, 7, (BATCH, 1), generator=generator)
    return {
        "requests": torch.cat([users, hours, days], dim=1),
        "history": torch.randint(1, NUM_ROWS, (BATCH, HISTORY), generator=generator),
        "length": torch.tensor([HISTORY, 2, 0]),
        "candidates": torch.randint(1, NUM_ROWS, (BATCH, CANDIDATES), generator=generator),
    }


def scored(model: CTRModel, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
    return model(*inputs.values(), torch.from_numpy(ITEMS_NS))


def test_every_file_of_the_folder_is_a_model_of_the_closed_tuple() -> None:
    files = {path.stem for path in Path(ctr.__file__).parent.glob("*.py")} - {"__init__", "base"}
    assert files == {known.__module__.rsplit(".", 1)[1] for known in CTR_MODELS}
    assert len({known.name for known in CTR_MODELS}) == len(CTR_MODELS)
    assert files == {known.name for known in CTR_MODELS}


@pytest.mark.parametrize("known", CTR_MODELS, ids=lambda known: known.name)
class TestContract:
    def test_shapes(self, known) -> None:
        assert scored(lively(known), asked()).shape == (BATCH, CANDIDATES, len(ACTIONS))

    def test_a_candidate_is_scored_as_if_it_were_alone(self, known) -> None:
        model, inputs = lively(known), asked()
        together = scored(model, inputs)
        for place in range(CANDIDATES):
            alone = {**inputs, "candidates": inputs["candidates"][:, [place]]}
            torch.testing.assert_close(scored(model, alone)[:, 0], together[:, place])

    def test_a_batch_equals_its_singles(self, known) -> None:
        model, inputs = lively(known), asked()
        singles = [
            scored(model, {name: tensor[at : at + 1] for name, tensor in inputs.items()})
            for at in range(BATCH)
        ]
        torch.testing.assert_close(scored(model, inputs), torch.cat(singles))

    def test_only_events_within_the_length_are_read(self, known) -> None:
        model, inputs = lively(known), asked()
        before = scored(model, inputs)
        beyond = inputs["history"].clone()
        beyond[1, 2:], beyond[2] = 1 + beyond[1, 2:] % 11, 1 + beyond[2] % 11
        torch.testing.assert_close(scored(model, {**inputs, "history": beyond}), before)
        within = inputs["history"].clone()
        within[0] = 1 + within[0] % 11
        after = scored(model, {**inputs, "history": within})
        assert (after[0] - before[0]).abs().max().gt(1e-6) == known.reads_history
        torch.testing.assert_close(after[1:], before[1:])

    def test_an_unknown_value_says_nothing_and_a_known_one_something(self, known) -> None:
        model, inputs = lively(known), asked()
        nobody, somebody = (inputs["requests"].clone() for _ in range(2))
        nobody[:, 0], somebody[:, 0] = 0, 5
        without = scored(model, {**inputs, "requests": nobody})
        with_user = scored(model, {**inputs, "requests": somebody})
        assert without.isfinite().all()
        assert (without - with_user).abs().max() > 1e-6
        with torch.no_grad():  # whoever is unknown does not read the vector of anybody
            model.vectors.table.weight[1:9] += 1
        torch.testing.assert_close(scored(model, {**inputs, "requests": nobody}), without)

    def test_actions_have_logits_of_their_own(self, known) -> None:
        logits = scored(lively(known), asked())
        assert (logits[..., 0] - logits[..., 1]).abs().max() > 1e-3

    def test_every_parameter_gets_a_gradient(self, known) -> None:
        model = lively(known)
        scored(model, asked()).square().sum().backward()
        without = [
            name
            for name, parameter in model.named_parameters()
            if parameter.grad is None or not parameter.grad.abs().max() > 0
        ]
        assert without == []

    def test_it_learns_who_likes_what(self, known) -> None:
        """A checkerboard, odd users like odd items; the regression learns what is liked at all."""
        torch.manual_seed(0)
        model = known.build(config_of(known), SCHEMA, ("like",))
        examples = board(alike=not known.reads_history)
        settings = CTRSettings(epochs=40, batch_size=64, learning_rate=0.02, patience=40, l2=0)
        validate = auc_validator(model, examples, ITEMS_NS)
        assert validate() < 0.9
        result = fit_ctr(model, lambda rng: examples, ITEMS_NS, settings, validate=validate)
        assert result.best_score > 0.95 and validate() == result.best_score

    def test_its_graph_is_the_model(self, known) -> None:
        model = lively(known).float()
        graph = FieldsGraph(exported(known))
        for seed in (0, 1):
            inputs = asked(seed)
            if not known.reads_history:
                inputs["history"] = inputs["history"][:, :1]
            found = graph(
                requests_BS=inputs["requests"].numpy(),
                history_BL=inputs["history"].numpy(),
                length_B=inputs["length"].numpy(),
                candidates_BK=inputs["candidates"].numpy()[:, : CANDIDATES - seed],
                items_NS=ITEMS_NS,
            )
            expected = scored(model, inputs).detach().numpy()[:, : CANDIDATES - seed]
            np.testing.assert_allclose(found, expected, atol=1e-4)


@cache
def exported(known: type[CTRModel]) -> bytes:
    return export_ctr(lively(known).float())["ctr"]


def board(*, alike: bool) -> Examples:
    """Return all pairs: liked if both are odd or both even, or (`alike`) if the item is odd."""
    users, rows = (part.ravel() for part in np.meshgrid(np.arange(1, 9), np.arange(1, NUM_ROWS)))
    liked = rows % 2 == 1 if alike else users % 2 == rows % 2
    requests = np.stack([users, np.full_like(users, 9), np.full_like(users, 33)], axis=1)
    past_rows = np.array([1, 3, 2, 4], np.int32)  # what odd and even users did before
    starts = np.where(users % 2 == 1, 0, 2)
    return Examples(
        requests.astype(np.int32),
        rows[:, None].astype(np.int32),
        liked[:, None, None].astype(np.float32),
        Past(past_rows, starts, starts + 2),
    )


@pytest.mark.parametrize(
    "wrong", [{"dim": 0}, {"hidden": 0}, {"num_layers": 0}, {"dropout": 1.0}, {"history": -1}]
)
@pytest.mark.parametrize("known", CTR_MODELS, ids=lambda known: known.name)
def test_an_impossible_config_is_refused(known, wrong) -> None:
    config = type(known.presets["S"])
    if not hasattr(known.presets["S"], "hidden"):
        return
    with pytest.raises(ValueError, match=next(iter(wrong))):
        config(**wrong)


@pytest.mark.parametrize(
    ("name", "wrong"),
    [
        ("deep_cross", {"rank": 0}),
        ("din", {"attention": 0}),
        ("final_mlp", {"num_heads": 7}),
        ("neumf", {"dim": 7}),
    ],
)
def test_an_impossible_size_of_one_model_is_refused(name, wrong) -> None:
    (known,) = (known for known in CTR_MODELS if known.name == name)
    with pytest.raises(ValueError, match=next(iter(wrong))):
        type(known.presets["S"])(**wrong)


@pytest.mark.parametrize("name", ["din", "dien"])
def test_who_reads_the_history_event_by_event_needs_one(name) -> None:
    (known,) = (known for known in CTR_MODELS if known.name == name)
    layout = Layout(num_ids=3, request=(1,), item=(1,), history=0)
    with pytest.raises(ValueError, match="history is 0"):
        known(config_of(known), layout, ACTIONS)


def test_actions_that_are_none_or_twice_are_refused() -> None:
    for actions in ((), ("like", "like")):
        with pytest.raises(ValueError, match="actions"):
            CTR_MODELS[0].build(CTR_MODELS[0].presets["S"], SCHEMA, actions)


def test_sides_without_fields_are_refused() -> None:
    for sides in ({"request": (), "item": (1,)}, {"request": (1,), "item": ()}):
        with pytest.raises(ValueError, match="at least one"):
            Layout(num_ids=3, **sides)
