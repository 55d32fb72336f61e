"""What every ranker must do, and a check that none escapes."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import ouzel.models.ranking as ranking
from ouzel.models.protocols import Ranker
from ouzel.models.ranking import RANKERS
from ouzel.models.ranking.target_attention import TargetAttentionConfig
from tests.tiny import ACTIONS, NUM_ROWS, START_MS, WINDOW, tiny_model, tiny_ranker

VARIANTS = [
    pytest.param(tiny_ranker, id="target_attention"),
    pytest.param(lambda: tiny_ranker(timed=False), id="target_attention-untimed"),
]
BATCH, CANDIDATES, DIM, HEADS = 3, 5, 16, 2


def asked(seed: int = 0) -> dict[str, torch.Tensor]:
    """Return what `rank` takes but the tables and the cache, of a batch."""
    generator = torch.Generator().manual_seed(seed)
    return {
        "query_BD": 10 * torch.randn(BATCH, DIM, generator=generator, dtype=torch.float64),
        "now_B": START_MS + torch.arange(BATCH) * 10**7,
        "length_B": torch.tensor([3, WINDOW, 5 * WINDOW]),
        "slot_B": torch.tensor([2, 0, 1]),
        "candidates_BK": torch.randint(1, NUM_ROWS, (BATCH, CANDIDATES), generator=generator),
    }


def cache(seed: int = 1) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    keys, values = (4, HEADS, DIM // HEADS, WINDOW), (4, HEADS, WINDOW, DIM // HEADS)
    return [
        torch.randn(shape, generator=generator, dtype=torch.float64) for shape in (keys, values)
    ]


def ranked(
    ranker: Ranker, inputs: dict[str, torch.Tensor], states: list[torch.Tensor] | None = None
) -> torch.Tensor:
    vectors_ND = tiny_model().item_vectors().detach().double()
    items_NF = ranker.item_lines(torch.arange(NUM_ROWS), vectors_ND)
    return ranker.rank(*inputs.values(), vectors_ND, items_NF, *(states or cache()))


def test_every_file_of_the_folder_is_a_ranker_of_the_closed_tuple() -> None:
    folder = Path(ranking.__file__).parent
    files = {path.stem for path in folder.glob("*.py")} - {"__init__"}
    assert files == {ranker.__module__.rsplit(".", 1)[1] for ranker in RANKERS}
    assert len({ranker.name for ranker in RANKERS}) == len(RANKERS)


def test_every_ranker_of_the_tuple_is_in_the_variants() -> None:
    assert {type(variant.values[0]()) for variant in VARIANTS} == set(RANKERS)


@pytest.mark.parametrize("build", VARIANTS)
class TestContract:
    def test_shapes(self, build) -> None:
        logits = ranked(build().double(), asked())
        assert logits.shape == (BATCH, CANDIDATES, len(ACTIONS))

    def test_a_candidate_is_scored_as_if_it_were_alone(self, build) -> None:
        ranker, inputs = build().double(), asked()
        together = ranked(ranker, inputs)
        for place in range(CANDIDATES):
            alone = {**inputs, "candidates_BK": inputs["candidates_BK"][:, [place]]}
            torch.testing.assert_close(ranked(ranker, alone)[:, 0], together[:, place])

    def test_padding_of_candidates_changes_nothing(self, build) -> None:
        ranker, inputs = build().double(), asked()
        padded = torch.cat([inputs["candidates_BK"], torch.zeros(BATCH, 3).long()], dim=1)
        after = ranked(ranker, {**inputs, "candidates_BK": padded})[:, :CANDIDATES]
        torch.testing.assert_close(after, ranked(ranker, inputs))

    def test_a_batch_equals_its_singles(self, build) -> None:
        ranker, inputs = build().double(), asked()
        singles = [
            ranked(ranker, {name: tensor[at : at + 1] for name, tensor in inputs.items()})
            for at in range(BATCH)
        ]
        torch.testing.assert_close(ranked(ranker, inputs), torch.cat(singles))

    def test_only_places_that_hold_events_are_read(self, build) -> None:
        ranker, inputs = build().double(), asked()
        before = ranked(ranker, inputs)
        keys, values = cache()
        keys[2, :, :, 3:], values[2, :, 3:] = 99.0, 99.0
        torch.testing.assert_close(ranked(ranker, inputs, [keys, values]), before)
        values[2, :, 2] = 99.0
        after = ranked(ranker, inputs, [keys, values])
        assert (after[0] - before[0]).abs().max() > 1e-3
        torch.testing.assert_close(after[1:], before[1:])

    def test_the_state_is_only_read(self, build) -> None:
        states = cache()
        ranked(build().double(), asked(), states)
        assert all(torch.equal(one, other) for one, other in zip(states, cache(), strict=True))

    def test_the_time_of_the_request_counts_where_keys_are_timed(self, build) -> None:
        ranker, inputs = build().double(), asked()
        later = {**inputs, "now_B": inputs["now_B"] + 10**9}
        difference = (ranked(ranker, later) - ranked(ranker, inputs)).abs().max()
        assert (difference > 1e-6) == ranker.config.timed

    def test_every_parameter_gets_a_gradient(self, build) -> None:
        ranker = build().double()
        ranked(ranker, asked()).square().sum().backward()
        without = [
            name
            for name, parameter in ranker.named_parameters()
            if parameter.grad is None or not parameter.grad.abs().max() > 0
        ]
        assert without == []


@pytest.mark.parametrize("known", RANKERS)
def test_an_untrained_ranker_keeps_the_order_of_retrieval(known: type[Ranker]) -> None:
    torch.manual_seed(0)
    ranker = known.build(tiny_model().config, ACTIONS, NUM_ROWS).double().eval()
    inputs = asked()
    vectors_ND = tiny_model().item_vectors().detach().double()
    found = vectors_ND[inputs["candidates_BK"]] @ inputs["query_BD"].unsqueeze(-1)
    torch.testing.assert_close(ranked(ranker, inputs), found.expand(-1, -1, len(ACTIONS)))


@pytest.mark.parametrize(
    "wrong", [{"actions": ()}, {"actions": ("a", "a")}, {"dim": 10}, {"hidden": 0}]
)
def test_an_impossible_config_is_refused(wrong) -> None:
    with pytest.raises(ValueError, match=r"actions|dim|hidden"):
        TargetAttentionConfig(**{"actions": ("interact",), **wrong})
