"""Rankers: one file each, named in the closed tuple below."""

from __future__ import annotations

from ouzel.models.protocols import Ranker
from ouzel.models.ranking.target_attention import TargetAttention

RANKERS: tuple[type[Ranker], ...] = (TargetAttention,)
"""Every ranker. A file of this folder that is missing here fails the contract suite."""
