"""Models of items beside items: one file each, named in the closed tuple below."""

from __future__ import annotations

from ouzel.models.closed_form import ClosedForm

NEIGHBOUR_MODELS: tuple[type[ClosedForm], ...] = ()
"""Every model of items beside items. A file that is missing here fails the contract suite."""
