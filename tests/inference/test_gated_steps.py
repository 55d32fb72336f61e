"""The kernel of `append` and `query` against the graphs, in every precision and shape."""

from __future__ import annotations

import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch

from ouzel.cli.machine import cpu_flags
from ouzel.compression.export import compiled_parts, export_graphs
from ouzel.features.batches import PaddedHistories
from ouzel.inference import gated_steps
from ouzel.inference.gated_steps import FEW, GatedSteps
from ouzel.inference.onnxruntime import Graphs
from ouzel.inference.pool import StatePool, slot_bytes
from ouzel.models.sequence.esasrec import ESASRec, ESASRecConfig

no_kernel = pytest.mark.skipif(not GatedSteps.work(), reason="no kernel of steps on this machine")
ROWS = 30
SLOTS = 50
NOW_MS = 1_700_000_000_000
CONFIG = ESASRecConfig(dim=48, num_layers=2, num_heads=3, window=21, expansion=2)
"""Heads of 16, a window that fills no register."""

SHAPES = [CONFIG, replace(CONFIG, dim=32, num_heads=4, num_layers=3, window=5)]
"""And heads of 8."""


@pytest.mark.skipif(
    "avx512_vnni" not in cpu_flags() or shutil.which("g++") is None,
    reason="no AVX-512 or no compiler",
)
def test_the_kernel_is_built_where_it_can_be() -> None:
    assert GatedSteps.work()


class Case:
    """A model with lively weights, its graphs, its kernel, and a pool full of states."""

    def __init__(self, config: ESASRecConfig = CONFIG, precision: str = "fp32") -> None:
        torch.manual_seed(1)
        model = ESASRec(config, ROWS).eval()
        for parameter in model.parameters():
            torch.nn.init.normal_(parameter, std=0.2)
        self.table_ND = model.items.weight.detach().numpy().copy()
        self.graphs = Graphs(export_graphs(model, precision), self.table_ND)
        self.parts = compiled_parts(model)
        self.steps = GatedSteps(self.graphs.shape, *self.parts)
        rng = np.random.default_rng(2)
        self.pool = StatePool(self.graphs.shape, max_bytes=SLOTS * slot_bytes(self.graphs.shape))
        for array in self.pool.cache:
            array[:] = drawn(rng, array)
        self.pool.last_SD[:] = rng.normal(size=self.pool.last_SD.shape)
        self.pool.last_time_S[:] = NOW_MS - rng.integers(-(10**6), 10**9, SLOTS)
        lengths = [1, 2, config.window - 1, config.window, config.window + 1, 4000]
        self.slots = rng.permutation(SLOTS)[:40]
        self.at = {
            "length_B": np.resize(np.array(lengths), 40),
            "slot_B": self.slots,
            "cache": self.pool.cache,
        }
        self.asked = {
            "now_B": NOW_MS + rng.integers(0, 10**10, 40),
            "last_SD": self.pool.last_SD,
            "last_time_S": self.pool.last_time_S,
            **self.at,
        }
        self.added = {
            "row_B": rng.integers(1, ROWS, 40),
            "time_B": NOW_MS + rng.integers(0, 10**10, 40),
            **self.at,
        }
        self.added["length_B"] = self.at["length_B"] - 1  # 0: the first event of a user


def drawn(rng: np.random.Generator, like: np.ndarray) -> np.ndarray:
    if like.dtype == np.int8:
        return rng.integers(-127, 128, like.shape).astype(np.int8)
    array = rng.normal(size=like.shape)
    return (np.abs(array) * 0.01 if like.ndim == 3 else array).astype(like.dtype)


@pytest.fixture(scope="module", params=["fp32", "fp16", "int8"])
def case(request: pytest.FixtureRequest) -> Case:
    return Case(precision=request.param)


def few_of(given: dict, part: slice) -> dict:
    return {name: array[part] if name.endswith("_B") else array for name, array in given.items()}


@no_kernel
def test_it_asks_as_the_graph_does(case: Case) -> None:
    np.testing.assert_allclose(
        case.steps.query(**case.asked), case.graphs.query(**case.asked), atol=3e-5
    )


@no_kernel
def test_it_appends_as_the_graph_does(case: Case) -> None:
    found = case.steps.append(**case.added, table_ND=case.table_ND)
    expected = case.graphs.append(**case.added)
    for array, other in zip(found, expected, strict=True):
        assert array.dtype == other.dtype and array.shape == other.shape
        if other.dtype == np.float32:
            np.testing.assert_allclose(array, other, atol=1e-5)
            continue
        # What is rounded may come to the next step where the last bit of a float differs.
        step = 1 if other.dtype == np.int8 else np.spacing(np.abs(other))
        assert (np.abs(array.astype(np.float64) - other) <= step).all()
        assert (array == other).mean() > 0.98


@no_kernel
@pytest.mark.parametrize("config", SHAPES[1:], ids=str)
def test_other_sizes_give_their_numbers_too(config: ESASRecConfig) -> None:
    case = Case(config)
    # Heads of 8 fill no register: their histories are left to the graph.
    assert not case.steps.encodes
    np.testing.assert_allclose(
        case.steps.query(**case.asked), case.graphs.query(**case.asked), atol=3e-5
    )
    for array, other in zip(
        case.steps.append(**case.added, table_ND=case.table_ND),
        case.graphs.append(**case.added),
        strict=True,
    ):
        np.testing.assert_allclose(array, other, atol=1e-5)


def padded(config: ESASRecConfig, rng: np.random.Generator) -> tuple[PaddedHistories, np.ndarray]:
    """Return histories of all lengths that matter, with events before some of them."""
    field = config.receptive_field
    lengths = [1, 2, 15, 16, 17, config.window, config.window + 1, 33, 70, field]
    rows_BL = np.zeros((len(lengths), max(lengths)), np.int64)
    times_BL = np.zeros_like(rows_BL)
    for line, length in enumerate(lengths):
        rows_BL[line, :length] = rng.integers(1, ROWS, length)
        times_BL[line, :length] = NOW_MS + np.cumsum(rng.integers(0, 10**8, length))
    start_B = np.array([0, 5, 0, 4000, 0, 1, 2, 3, 0, 9])
    return PaddedHistories(rows_BL, times_BL, np.array(lengths)), start_B


def check_encoded(case: Case, config: ESASRecConfig) -> None:
    histories, start_B = padded(config, np.random.default_rng(4))
    expected = case.graphs.encode(histories, start_B)
    found = case.steps.encode(
        rows_BL=histories.rows_BL,
        times_BL=histories.times_BL,
        length_B=histories.length_B,
        start_B=start_B,
        table_ND=case.table_ND,
    )
    real_BL = np.arange(histories.rows_BL.shape[1]) < histories.length_B[:, None]
    for array, other in zip(found[:-1], expected[:-1], strict=True):
        assert array.dtype == other.dtype and array.shape == other.shape
        ours, theirs = array[real_BL].astype(np.float64), other[real_BL].astype(np.float64)
        if other.dtype == np.float32:
            # Where a key was rounded another way, what reads it differs by a part of that step.
            share = (np.abs(ours - theirs) <= 1e-4).mean()
            assert share == 1.0 if case.graphs.shape.precision == "fp32" else share > 0.98
            continue
        step = 1 if other.dtype == np.int8 else 2 * np.spacing(np.abs(other[real_BL]))
        assert (np.abs(ours - theirs) <= step).mean() > 0.999 and (ours == theirs).mean() > 0.97
    np.testing.assert_allclose(found[-1], expected[-1], atol=2e-2 if len(found) > 5 else 5e-3)


@no_kernel
def test_it_encodes_as_the_graph_does(case: Case) -> None:
    check_encoded(case, CONFIG)


@no_kernel
def test_a_history_is_encoded_alike_in_any_company(case: Case) -> None:
    histories, start_B = padded(CONFIG, np.random.default_rng(4))
    given = {"table_ND": case.table_ND, "start_B": start_B, "length_B": histories.length_B}
    given |= {"rows_BL": histories.rows_BL, "times_BL": histories.times_BL}
    together = case.steps.encode(**given)
    for line, length in enumerate(histories.length_B.tolist()):
        alone = few_of(given, slice(line, line + 1))
        alone |= {name: given[name][line : line + 1, :length] for name in ("rows_BL", "times_BL")}
        for array, other in zip(case.steps.encode(**alone), together, strict=True):
            cut = (
                other[line : line + 1]
                if other.ndim == 2 and other is together[-1]
                else (other[line : line + 1, :length])
            )
            np.testing.assert_array_equal(array, cut)


@no_kernel
@pytest.mark.parametrize(("name", "wrong"), [("rows_BL", ROWS), ("rows_BL", -1), ("length_B", 0)])
def test_a_history_that_cannot_be_read_is_refused(case: Case, name: str, wrong: int) -> None:
    histories, start_B = padded(CONFIG, np.random.default_rng(4))
    given = {"table_ND": case.table_ND, "start_B": start_B, "length_B": histories.length_B}
    given |= {"rows_BL": histories.rows_BL, "times_BL": histories.times_BL}
    spoilt = given[name].copy()
    spoilt[(3, 4)[: spoilt.ndim]] = wrong
    with pytest.raises(ValueError, match="no row of the table"):
        case.steps.encode(**{**given, name: spoilt})


@no_kernel
def test_a_crowd_changes_no_bit(case: Case) -> None:
    together = case.steps.query(**case.asked)
    appended = case.steps.append(**case.added, table_ND=case.table_ND)
    for part in (slice(0, 1), slice(17, 18), slice(3, 3 + FEW), slice(5, 38)):
        np.testing.assert_array_equal(case.steps.query(**few_of(case.asked, part)), together[part])
        found = case.steps.append(**few_of(case.added, part), table_ND=case.table_ND)
        for array, other in zip(found, appended, strict=True):
            np.testing.assert_array_equal(array, other[part])


@no_kernel
def test_nobody_is_no_error(case: Case) -> None:
    nobody = slice(0, 0)
    assert case.steps.query(**few_of(case.asked, nobody)).shape == (0, 48)
    last = case.steps.append(**few_of(case.added, nobody), table_ND=case.table_ND)[-1]
    assert last.shape == (0, 48)


@no_kernel
def test_another_pool_is_another_pool(case: Case) -> None:
    """What the kernel remembers of the arrays that it read last must not outlive them."""
    before = case.steps.query(**case.asked)
    other = [np.ascontiguousarray(array[::-1]) for array in case.pool.cache]
    turned = {**case.asked, "cache": other}
    assert not np.array_equal(case.steps.query(**turned), before)
    np.testing.assert_allclose(case.steps.query(**turned), case.graphs.query(**turned), atol=3e-5)
    np.testing.assert_array_equal(case.steps.query(**case.asked), before)


@no_kernel
@pytest.mark.parametrize(
    ("name", "wrong"), [("row_B", ROWS), ("row_B", -1), ("slot_B", SLOTS), ("slot_B", -1)]
)
def test_what_is_not_there_is_not_read(case: Case, name: str, wrong: int) -> None:
    array = case.added[name].copy()
    array[7] = wrong
    with pytest.raises(ValueError, match="no row of the table, or a state of no slot"):
        case.steps.append(**{**case.added, name: array}, table_ND=case.table_ND)
    if name == "slot_B":
        with pytest.raises(ValueError, match="of no slot"):
            case.steps.query(**{**case.asked, name: array})


@no_kernel
def test_sizes_that_fill_no_register_are_left_to_the_graphs() -> None:
    odd = ESASRec(ESASRecConfig(dim=24, num_layers=1, num_heads=2, window=4), ROWS)
    shape = odd.state
    assert GatedSteps.of(shape, *compiled_parts(odd)) is None
    with pytest.raises(ValueError, match="take graphs"):
        GatedSteps(shape, *compiled_parts(odd))


@no_kernel
def test_a_model_without_time_or_constants_is_left_to_the_graphs() -> None:
    untimed = ESASRec(replace(CONFIG, timed=False), ROWS)
    assert untimed.step_constants() == {}
    assert GatedSteps.of(untimed.state, *compiled_parts(untimed)) is None
    weights, constants = compiled_parts(ESASRec(CONFIG, ROWS))
    assert GatedSteps.of(ESASRec(CONFIG, ROWS).state, weights, constants) is not None
    del constants["harmonics"]
    assert GatedSteps.of(ESASRec(CONFIG, ROWS).state, weights, constants) is None


def test_without_a_kernel_the_graphs_serve(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gated_steps.importlib.util, "find_spec", lambda name: None)
    assert gated_steps._kernels.__wrapped__() is None


@no_kernel
def test_a_build_of_another_layout_is_not_called(monkeypatch: pytest.MonkeyPatch) -> None:
    class Longer(gated_steps._Model):
        _fields_ = (("more", gated_steps.ctypes.c_int64),)

    monkeypatch.setattr(gated_steps, "_Model", Longer)
    assert gated_steps._kernels.__wrapped__() is None
