"""Factor models: one file each, named in one of the closed tuples below."""

from __future__ import annotations

from ouzel.models.encoder import Encoder
from ouzel.models.factorization.bpr import BPR
from ouzel.models.factorization.eals import EALS
from ouzel.models.factorization.fpmc import FPMC
from ouzel.models.factorization.ials import IALS
from ouzel.models.factorization.isgd import ISGD
from ouzel.models.factorization.svd import SVD
from ouzel.models.factorization.svdpp import SVDpp
from ouzel.models.rating import RatingModel

FACTORIZATION_MODELS: tuple[type[Encoder], ...] = (IALS, EALS, BPR, ISGD, FPMC)
"""Every factor model of what was done. A file of this folder that is in neither tuple fails the
contract suite."""

RATING_MODELS: tuple[type[RatingModel], ...] = (SVD, SVDpp)
"""Every factor model of what was rated, and how."""
