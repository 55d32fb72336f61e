"""The compiled ranker against the torch one, in every precision and shape; states that change."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
import torch

from ouzel.cli.machine import cpu_flags
from ouzel.inference import target_attention
from ouzel.inference.onnxruntime import StateShape
from ouzel.inference.pool import rings
from ouzel.inference.target_attention import TargetAttentionKernel
from ouzel.models.ranking.target_attention import TargetAttention, TargetAttentionConfig

no_kernel = pytest.mark.skipif(
    not TargetAttentionKernel.works(), reason="no ranking kernel on this machine"
)
ROWS = 60
NOW_MS = 1_700_000_000_000
SHAPES = [(16, 2, 8), (64, 2, 200), (24, 1, 33), (40, 5, 17)]
"""D, H, W: heads that fill registers and heads that do not."""


@pytest.mark.skipif(
    "avx512_vnni" not in cpu_flags() or shutil.which("g++") is None,
    reason="no AVX-512 or no compiler",
)
def test_the_kernel_is_built_where_it_can_be() -> None:
    assert TargetAttentionKernel.works()


class Case:
    """A ranker with lively weights, its tables, its kernel, and states of a few users."""

    def __init__(self, size=(64, 2, 200), *, precision="fp32", timed=True, hidden=64, users=3):
        dim, heads, window = size
        torch.manual_seed(1)
        config = TargetAttentionConfig(
            actions=("interact", "like"), dim=dim, num_heads=heads, timed=timed, hidden=hidden
        )
        self.ranker = TargetAttention(config, ROWS).eval()
        for parameter in self.ranker.parameters():
            torch.nn.init.normal_(parameter, std=0.3)
        rng = np.random.default_rng(2)
        self.vectors_ND = rng.normal(size=(ROWS, dim)).astype(np.float32)
        with torch.no_grad():
            rows, vectors = torch.arange(ROWS), torch.from_numpy(self.vectors_ND)
            self.items_NF = self.ranker.item_lines(rows, vectors).numpy()
        self.weights = {k: w.numpy() for k, w in self.ranker.kernel_weights().items()}
        self.shape = StateShape(2, heads, dim // heads, window, precision)
        self.rings = [drawn(rng, (users, *ring.shape), ring.dtype) for ring in rings(self.shape)]
        self.given = {
            "query_BD": rng.normal(size=(users, dim)).astype(np.float32),
            "now_B": NOW_MS + rng.integers(0, 10**10, users),
            "length_B": np.array([1, window - 1, 3 * window + 5])[:users],
            "candidates_BK": rng.integers(1, ROWS, (users, 53)),
        }

    def kernel(self) -> TargetAttentionKernel:
        return TargetAttentionKernel(
            self.shape,
            vectors_ND=self.vectors_ND,
            items_NF=self.items_NF,
            weights=self.weights,
        )

    def expected(self) -> np.ndarray:
        given = {name: torch.from_numpy(np.asarray(a)) for name, a in self.given.items()}
        tables = map(torch.from_numpy, (self.vectors_ND, self.items_NF, *self.rings))
        with torch.no_grad():
            return self.ranker.rank(
                given["query_BD"],
                given["now_B"],
                given["length_B"],
                torch.arange(len(given["now_B"])),
                given["candidates_BK"],
                *tables,
            ).numpy()

    def found(self, kernel=None, **given) -> np.ndarray:
        asked = {**self.given, "rings": self.rings} | given
        begun = (kernel or self.kernel()).begin(**asked)
        begun.run()
        return begun.result()


def drawn(rng, shape, dtype) -> np.ndarray:
    if dtype == np.int8:
        return rng.integers(-127, 128, shape).astype(np.int8)
    array = rng.normal(size=shape)
    return (np.abs(array) * 0.01 if len(shape) == 3 else array).astype(dtype)


@no_kernel
@pytest.mark.parametrize("size", SHAPES, ids=str)
@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_it_gives_the_logits_of_the_torch_ranker(size, precision) -> None:
    case = Case(size, precision=precision)
    expected = case.expected()
    np.testing.assert_allclose(case.found(), expected, atol=3e-6 * np.abs(expected).max())


@no_kernel
@pytest.mark.parametrize("more", [{"timed": False}, {"hidden": 20}, {"hidden": 3}], ids=str)
def test_other_configs_give_their_logits_too(more) -> None:
    case = Case((16, 2, 8), **more)
    expected = case.expected()
    np.testing.assert_allclose(case.found(), expected, atol=3e-6 * np.abs(expected).max())


@no_kernel
def test_a_crowd_changes_no_bit() -> None:
    case = Case()
    together = case.found()
    for at in range(3):
        alone = {name: array[at : at + 1] for name, array in case.given.items()}
        found = case.found(rings=[ring[at : at + 1] for ring in case.rings], **alone)
        np.testing.assert_array_equal(found[0], together[at])
    fewer = case.found(candidates_BK=case.given["candidates_BK"][:, 7:30])
    np.testing.assert_allclose(fewer, together[:, 7:30], rtol=1e-6, atol=1e-6)


@no_kernel
def test_events_that_are_not_there_do_not_count() -> None:
    case = Case()
    before = case.found()
    case.rings[0][0, :, :, 1:] = 1e3  # the first user has one event
    case.rings[1][0, :, 1:] = np.nan
    np.testing.assert_array_equal(case.found(), before)


@no_kernel
def test_a_query_that_is_no_number_gives_no_number() -> None:
    case = Case()
    spoilt = case.given["query_BD"].copy()
    spoilt[1, 3] = np.nan
    found = case.found(query_BD=spoilt)
    assert np.isnan(found[1]).all() and np.isfinite(found[[0, 2]]).all()


@no_kernel
def test_rows_beyond_the_tables_are_read_as_padding() -> None:
    case = Case()
    beyond = np.array([[ROWS, -1, 2**31 - 1]] * 3)
    np.testing.assert_array_equal(
        case.found(candidates_BK=beyond), case.found(candidates_BK=np.zeros((3, 3), np.int64))
    )


@no_kernel
@pytest.mark.parametrize("name", ["user_part", "read_part", "score_part", "trust", "frequencies"])
def test_weights_that_do_not_fit_are_refused(name) -> None:
    case = Case()
    case.weights[name] = case.weights[name][:-1]
    with pytest.raises(ValueError, match="do not fit"):
        case.kernel()


def test_a_bundle_without_weights_for_it_has_no_kernel() -> None:
    case = Case()
    assert TargetAttentionKernel.of(case.shape, case.vectors_ND, {"items": case.items_NF}) is None


def test_without_a_compiled_kernel_the_graph_ranks(monkeypatch, tmp_path) -> None:
    broken = tmp_path / "_target_attention.so"
    broken.write_bytes(b"not a library")
    spec = type("Spec", (), {"origin": str(broken)})()
    monkeypatch.setattr(target_attention.importlib.util, "find_spec", lambda name: spec)
    fresh = target_attention._kernel.__wrapped__
    monkeypatch.setattr(target_attention, "_kernel", fresh)
    case = Case()
    tensors = {"items": case.items_NF, **case.weights}
    assert TargetAttentionKernel.of(case.shape, case.vectors_ND, tensors) is None
    with pytest.raises(ValueError, match="take the graph"):
        case.kernel()


@no_kernel
def test_a_kernel_of_another_layout_is_no_kernel(monkeypatch) -> None:
    class Longer(target_attention._Ranking):
        _fields_ = (("more", target_attention.ctypes.c_int64),)

    monkeypatch.setattr(target_attention, "_Ranking", Longer)
    assert target_attention._kernel.__wrapped__() is None


@no_kernel
def test_a_ranking_without_enough_memory_says_so() -> None:
    case = Case()
    begun = case.kernel().begin(**case.given, rings=case.rings)
    begun.failed = True
    with pytest.raises(MemoryError, match="fewer candidates"):
        begun.result()
