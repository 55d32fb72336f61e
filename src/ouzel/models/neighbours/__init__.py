"""Models of items beside items: one file each, named in the closed tuple below."""

from __future__ import annotations

from ouzel.models.closed_form import ClosedForm
from ouzel.models.neighbours.ease import EASE
from ouzel.models.neighbours.item_knn import ItemKNN

NEIGHBOUR_MODELS: tuple[type[ClosedForm], ...] = (EASE, ItemKNN)
"""Every model of items beside items. A file that is missing here fails the contract suite."""
