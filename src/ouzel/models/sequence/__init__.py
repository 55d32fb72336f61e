"""Sequence models: one file each, named in the closed tuple below."""

from ouzel.models.sequence.esasrec import ESASRec

SEQUENCE_MODELS = (ESASRec,)
"""Every sequence model. A file of this folder that is missing here fails the contract suite."""
