"""All engines, and how one is made again from its name and effort."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from ouzel.retrieval.exact import ExactIndex
from ouzel.retrieval.faiss import FlatIndex, GraphIndex, ListsIndex, ProductIndex, ScalarIndex
from ouzel.retrieval.index import Engine
from ouzel.retrieval.scan import ScanIndex
from ouzel.retrieval.scan_lists import ScanListsIndex

ENGINES: tuple[type[Engine], ...] = (
    ExactIndex,
    ScanIndex,
    ScanListsIndex,
    FlatIndex,
    ScalarIndex,
    ProductIndex,
    ListsIndex,
    GraphIndex,
)
"""Every engine that there is; the contract suite checks each."""

Make = Callable[[NDArray[np.float32]], Engine]


def engine_of(name: str) -> type[Engine]:
    """Return the engine of this name.

    Raises:
        ValueError: there is none.

    >>> engine_of("pq").__name__
    'ProductIndex'
    """
    for engine in ENGINES:
        if engine.name == name:
            return engine
    known = ", ".join(engine.name for engine in ENGINES)
    raise ValueError(f"there is no engine {name!r}: known are {known}")


def like(engine: Engine) -> Make:
    """Return what makes an engine of the same kind, effort and stated recall for other vectors.

    Where it cannot search those, they are searched exactly.

    >>> make = like(ExactIndex(np.eye(2, dtype=np.float32)))
    >>> len(make(np.eye(5, dtype=np.float32)))
    4
    """
    kind, effort, recall = type(engine), engine.effort, engine.recall

    def make(vectors_ND: NDArray[np.float32]) -> Engine:
        if kind.why_not(*vectors_ND.shape):
            return ExactIndex(vectors_ND)
        made = kind(vectors_ND)
        made.effort, made.recall = effort, recall
        return made

    return make
