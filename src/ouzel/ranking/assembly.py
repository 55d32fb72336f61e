"""The standard request path of a Bundle, the same in the server and in Python.

State, then search of the item index; what is missing comes from session neighbours, then from what
is popular; then the filter and the cut.
"""

from __future__ import annotations

from ouzel.bundle.bundle import Bundle
from ouzel.inference.states import UserStates
from ouzel.ranking.pipeline import Stage
from ouzel.ranking.stages import DropForbidden, EncodeUser, FillFrom, SearchIndex, TopK
from ouzel.retrieval.exact import ExactIndex
from ouzel.retrieval.popular import PopularSource
from ouzel.retrieval.vmis import VMISkNN


def popular_sources(bundle: Bundle) -> dict[str, PopularSource]:
    """Return the lists of what is popular: `popular` of all time and `recent`.

    >>> from types import SimpleNamespace
    >>> import numpy as np
    >>> from ouzel.retrieval.types import Query
    >>> counts = {"scores": np.array([0, 5, 9]), "recent": np.array([0, 2, 1])}
    >>> sources = popular_sources(SimpleNamespace(tensors=lambda name: counts))
    >>> {name: source.candidates(Query(k=1, now_ms=0), 1).rows_K.item()
    ...  for name, source in sources.items()}
    {'popular': 2, 'recent': 1}
    """
    scores = bundle.tensors("popular")
    return {
        "popular": PopularSource(scores["scores"]),
        "recent": PopularSource(scores["recent"], name="recent"),
    }


def standard_stages(bundle: Bundle, states: UserStates) -> list[Stage]:
    """Return the stages of the request path, in order.

    >>> from types import SimpleNamespace
    >>> import numpy as np
    >>> from ouzel.events.interactions import History, from_histories
    >>> visit = History(np.array([1, 2], np.int32), np.array([10, 20]))
    >>> arrays = {
    ...     "items": {"vectors": np.ones((3, 2), np.float32)},
    ...     "popular": {"scores": np.array([0, 5, 9]), "recent": np.array([0, 2, 1])},
    ...     "vmis": VMISkNN.fit(from_histories([visit], num_rows=3)).to_tensors(),
    ... }
    >>> stages = standard_stages(SimpleNamespace(tensors=arrays.get), states=None)
    >>> [stage.name for stage in stages]
    ['state', 'search', 'vmis', 'popular', 'filter', 'select']
    """
    return [
        EncodeUser(states),
        SearchIndex(ExactIndex(bundle.tensors("items")["vectors"])),
        FillFrom(VMISkNN.from_tensors(bundle.tensors("vmis")), needs_history=True, optional=True),
        FillFrom(popular_sources(bundle)["popular"]),
        DropForbidden(),
        TopK(),
    ]
