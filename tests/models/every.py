"""A tiny model of every kind in the closed tuple, with lively weights, and its exported graphs."""

from __future__ import annotations

from functools import cache

import torch

from ouzel.compression.export import export_graphs
from ouzel.inference.onnxruntime import Graphs
from ouzel.models.protocols import SequenceEncoder
from ouzel.models.sequence import SEQUENCE_MODELS
from tests.tiny import NUM_ROWS, WINDOW, tiny_files, tiny_model

SETTINGS = {
    "hstu": {"num_heads": 2, "num_layers": 2},
    "sasrec": {"num_heads": 2, "num_layers": 1},
    "bert4rec": {"num_heads": 2, "num_layers": 1},
    "gru4rec": {"num_layers": 2},
    "caser": {"order": 4, "num_filters": 3, "num_vertical": 2},
    "linear_recurrent": {"num_layers": 2},
}
"""Every model but the backbone, which has a tiny form of its own."""

KINDS = {
    "esasrec": "append-exact",
    "hstu": "append-exact",
    "sasrec": "re-encoded",
    "bert4rec": "re-encoded",
    "caser": "re-encoded",
    "gru4rec": "recurrent",
    "linear_recurrent": "recurrent",
}

NAMES = [known.name for known in SEQUENCE_MODELS]


def tiny(name: str) -> SequenceEncoder:
    if name == "esasrec":
        return tiny_model()
    (known,) = (known for known in SEQUENCE_MODELS if known.name == name)
    torch.manual_seed(7)
    model = known.build("S", NUM_ROWS, dim=16, window=WINDOW, dropout=0.1, **SETTINGS[name]).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return model


@cache
def files_of(name: str) -> dict[str, bytes]:
    return tiny_files() if name == "esasrec" else export_graphs(tiny(name))


@cache
def graphs_of(name: str) -> Graphs:
    return Graphs(files_of(name), tiny(name).items.weight.detach().numpy().copy())
