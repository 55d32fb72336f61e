"""Factor models: one file each, named in the closed tuple below."""

from __future__ import annotations

from ouzel.models.encoder import Encoder
from ouzel.models.factorization.bpr import BPR
from ouzel.models.factorization.eals import EALS
from ouzel.models.factorization.fpmc import FPMC
from ouzel.models.factorization.ials import IALS
from ouzel.models.factorization.isgd import ISGD

FACTORIZATION_MODELS: tuple[type[Encoder], ...] = (IALS, EALS, BPR, ISGD, FPMC)
"""Every factor model. A file of this folder that is missing here fails the contract suite."""
