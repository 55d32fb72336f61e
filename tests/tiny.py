"""A small model with lively weights, its graphs, and random histories, shared by many tests."""

from __future__ import annotations

from functools import cache

import numpy as np
import torch
from numpy.typing import NDArray

from ouzel.compression.export import compiled_parts, export_graphs, export_ranker
from ouzel.events.interactions import History
from ouzel.features.batches import pad_histories
from ouzel.features.states import Precision
from ouzel.inference.onnxruntime import Graphs
from ouzel.models.ranking.target_attention import TargetAttention
from ouzel.models.sequence.esasrec import ESASRec, ESASRecConfig

NUM_ROWS = 40
WINDOW = 8
START_MS = 1_600_000_000_000


def tiny_model(*, timed: bool = True, num_layers: int = 2) -> ESASRec:
    torch.manual_seed(7)
    config = ESASRecConfig(
        dim=16, num_layers=num_layers, num_heads=2, window=WINDOW, timed=timed, dropout=0.1
    )
    model = ESASRec(config, NUM_ROWS).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return model


def tiny_files(*, timed: bool = True, precision: Precision = "fp32") -> dict[str, bytes]:
    return dict(_exported(timed, precision))


@cache
def _exported(timed: bool, precision: Precision) -> dict[str, bytes]:
    # An export takes many seconds. All arguments are given: a cache takes f() and f(True) for two.
    return export_graphs(tiny_model(timed=timed), precision)


@cache
def tiny_graphs(
    *, timed: bool = True, precision: Precision = "fp32", compiled: bool = False
) -> Graphs:
    model = tiny_model(timed=timed)
    table = model.items.weight.detach().numpy().copy()
    files = tiny_files(timed=timed, precision=precision)
    return Graphs(files, table, compiled=compiled_parts(model) if compiled else None)


def random_history(rng: np.random.Generator, length: int) -> History:
    times = START_MS + np.cumsum(rng.integers(0, 90_000_000, length))
    return History(rng.integers(1, NUM_ROWS, length).astype(np.int32), times.astype(np.int64))


def oracle(
    model: ESASRec, history: History, now_ms: int, precision: Precision = "fp32"
) -> NDArray[np.float64]:
    """Return the user vector of the whole history in float64, from scratch.

    Keys and values are rounded as states in `precision` round them.
    """
    exact = ESASRec(model.config, NUM_ROWS).double().eval()
    exact.load_state_dict(model.state_dict())
    exact.precision = precision
    padded = pad_histories([history])
    requests = padded.times_BL.copy()
    requests[0, -1] = now_ms
    with torch.no_grad():
        inputs = map(torch.from_numpy, (padded.rows_BL, padded.times_BL, requests))
        return exact(*inputs)[0, -1].numpy()


ACTIONS = ("interact", "like")


def tiny_ranker(*, timed: bool = True) -> TargetAttention:
    torch.manual_seed(8)
    ranker = TargetAttention.build(tiny_model(timed=timed).config, ACTIONS, NUM_ROWS).eval()
    for parameter in ranker.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return ranker


def tiny_ranker_files(*, timed: bool = True, precision: Precision = "fp32") -> dict[str, bytes]:
    return dict(_exported_ranker(timed, precision))


@cache
def _exported_ranker(timed: bool, precision: Precision) -> dict[str, bytes]:
    return export_ranker(tiny_ranker(timed=timed), tiny_model(timed=timed).config, precision)


def tiny_kernel_weights(*, timed: bool = True) -> dict[str, NDArray[np.generic]]:
    """Return what the kernel needs of the tiny ranker."""
    return {name: w.numpy() for name, w in tiny_ranker(timed=timed).kernel_weights().items()}


@cache
def tiny_ranked_graphs(*, timed: bool = True, precision: Precision = "fp32") -> Graphs:
    """Return the graphs of the tiny model with those of its ranker."""
    files = {
        **tiny_files(timed=timed, precision=precision),
        **tiny_ranker_files(timed=timed, precision=precision),
    }
    return Graphs(files, tiny_model(timed=timed).items.weight.detach().numpy().copy())


@cache
def tiny_tables() -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return the item vectors and the lines of the tiny ranker."""
    vectors_ND = tiny_ranked_graphs().item(np.arange(NUM_ROWS))
    with torch.no_grad():
        lines = tiny_ranker().item_lines(torch.arange(NUM_ROWS), torch.from_numpy(vectors_ND))
    return vectors_ND, lines.numpy()
