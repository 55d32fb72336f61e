"""Models of the graph of users and items: one file each, named in the closed tuple below."""

from __future__ import annotations

from ouzel.models.graph.lightgcn import LightGCN
from ouzel.models.graph_encoder import GraphEncoder

GRAPH_MODELS: tuple[type[GraphEncoder], ...] = (LightGCN,)
"""Every model of the graph. A file of this folder that is missing here fails the contract suite."""
