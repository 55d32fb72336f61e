"""Sequence models: one file each, named in the closed tuple below."""

from __future__ import annotations

from ouzel.models.protocols import SequenceEncoder
from ouzel.models.sequence.bert4rec import BERT4Rec
from ouzel.models.sequence.caser import Caser
from ouzel.models.sequence.esasrec import ESASRec
from ouzel.models.sequence.gru4rec import GRU4Rec
from ouzel.models.sequence.hstu import HSTU
from ouzel.models.sequence.linear_recurrent import LinearRecurrent
from ouzel.models.sequence.sasrec import SASRec

SEQUENCE_MODELS: tuple[type[SequenceEncoder], ...] = (
    ESASRec,
    HSTU,
    SASRec,
    BERT4Rec,
    GRU4Rec,
    Caser,
    LinearRecurrent,
)
"""Every sequence model. A file of this folder that is missing here fails the contract suite."""
