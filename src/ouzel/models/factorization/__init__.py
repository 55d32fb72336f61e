"""Factor models: one file each, named in the closed tuple below."""

from __future__ import annotations

from ouzel.models.encoder import Encoder

FACTORIZATION_MODELS: tuple[type[Encoder], ...] = ()
"""Every factor model. A file of this folder that is missing here fails the contract suite."""
