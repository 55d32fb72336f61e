"""Models of fields: one file each, named in the closed tuple below."""

from __future__ import annotations

from ouzel.models.ctr.base import CTRModel
from ouzel.models.ctr.deep_cross import DeepCross
from ouzel.models.ctr.deepfm import DeepFM
from ouzel.models.ctr.dien import DIEN
from ouzel.models.ctr.din import DIN
from ouzel.models.ctr.final_mlp import FinalMLP
from ouzel.models.ctr.logistic_regression import LogisticRegression
from ouzel.models.ctr.mlp import MLP
from ouzel.models.ctr.neumf import NeuMF
from ouzel.models.ctr.wide_deep import WideDeep

CTR_MODELS: tuple[type[CTRModel], ...] = (
    LogisticRegression,
    MLP,
    WideDeep,
    DeepFM,
    NeuMF,
    DeepCross,
    DIN,
    DIEN,
    FinalMLP,
)
"""Every model of fields. A file of this folder that is missing here fails the contract suite."""
