"""The standard request path of a Bundle, the same in the server and in Python.

State, then search of the item index; what is missing comes from session neighbours, then from what
is popular; then the filter, the ranker of a Bundle that has one, and the cut.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from ouzel.bundle.bundle import Bundle
from ouzel.events.interactions import History
from ouzel.events.log import EventLog
from ouzel.inference.ranking import StateRanker
from ouzel.inference.states import UserStates
from ouzel.ranking.pipeline import Stage
from ouzel.ranking.scoring import RankCandidates
from ouzel.ranking.stages import DropForbidden, EncodeUser, FillFrom, SearchIndex, TopK
from ouzel.retrieval.exact import ExactIndex
from ouzel.retrieval.faiss import FaissIndex
from ouzel.retrieval.index import Search
from ouzel.retrieval.popular import PopularSource
from ouzel.retrieval.scan import ScanIndex
from ouzel.retrieval.tuning import tune
from ouzel.retrieval.types import distinct_rows
from ouzel.retrieval.vmis import VMISkNN

EXACT_ROWS = 4_000
"""Up to here exact search and a scan of codes take under 0.1 ms a query, either of them."""

EXACT_ROWS_WITHOUT_KERNEL = 20_000
"""Up to here it is as fast as product codes."""

RECALL = 0.99
SAMPLES = 64


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


def item_index(
    vectors_ND: NDArray[np.float32], states: UserStates, samples: Sequence[History]
) -> Search:
    """Return what finds items: exact search, or a scan of codes where that costs milliseconds.

    An approximate index is taken only if it finds `RECALL` of the exact best 10 unseen items for
    the vectors of the `samples`, histories of users of this very home.

    >>> len(item_index(np.ones((3, 2), np.float32), states=None, samples=[]))
    2
    """
    has_kernel = ScanIndex.works()
    exact_rows = EXACT_ROWS if has_kernel else EXACT_ROWS_WITHOUT_KERNEL
    asked = [
        (states.query_session(history, int(history.times_ms[-1])), distinct_rows(history.rows))
        for history in (samples if len(vectors_ND) > exact_rows else ())
        if len(history)
    ]
    known = [(vector, seen) for vector, seen in asked if vector is not None]
    if not known:
        return ExactIndex(vectors_ND)
    vectors, seen = zip(*known, strict=True)
    exact = ExactIndex(vectors_ND)
    index = ScanIndex(vectors_ND) if has_kernel else FaissIndex(vectors_ND)
    tune(index, exact, np.stack(vectors), recall=RECALL, exclude=seen)
    return index if index.recall >= RECALL else exact


def sample_histories(log: EventLog) -> list[History]:
    """Return the histories of up to `SAMPLES` users, spread over all there are.

    >>> import tempfile
    >>> from pathlib import Path
    >>> with tempfile.TemporaryDirectory() as folder, EventLog.open(Path(folder, "log")) as log:
    ...     sample_histories(log)
    []
    """
    count = min(SAMPLES, log.num_users)
    return [log.history(int(user)) for user in np.linspace(0, max(0, log.num_users - 1), count)]


def standard_stages(
    bundle: Bundle,
    states: UserStates,
    samples: Sequence[History] = (),
    *,
    weights: Mapping[str, float] | None = None,
) -> list[Stage]:
    """Return the stages of the request path, in order; `samples` as in `item_index`.

    A Bundle with a ranker has its scores after the filter; `weights` are those of its actions, see
    `ouzel.ranking.scoring.action_weights`.

    >>> from types import SimpleNamespace
    >>> import numpy as np
    >>> from ouzel.events.interactions import History, from_histories
    >>> visit = History(np.array([1, 2], np.int32), np.array([10, 20]))
    >>> arrays = {
    ...     "items": {"vectors": np.ones((3, 2), np.float32)},
    ...     "popular": {"scores": np.array([0, 5, 9]), "recent": np.array([0, 2, 1])},
    ...     "vmis": VMISkNN.fit(from_histories([visit], num_rows=3)).to_tensors(),
    ... }
    >>> bundle = SimpleNamespace(tensors=arrays.get, manifest=SimpleNamespace(features={}))
    >>> stages = standard_stages(bundle, states=None)
    >>> [stage.name for stage in stages]
    ['state', 'search', 'vmis', 'popular', 'filter', 'select']
    """
    ranker = state_ranker(bundle, states)
    if ranker is None and weights is not None:
        raise ValueError(
            f"weights are {dict(weights)}, but this model has no ranker: train with a ranker"
        )
    return [
        EncodeUser(states),
        SearchIndex(item_index(bundle.tensors("items")["vectors"], states, samples)),
        FillFrom(VMISkNN.from_tensors(bundle.tensors("vmis")), needs_history=True, optional=True),
        FillFrom(popular_sources(bundle)["popular"]),
        DropForbidden(),
        *([] if ranker is None else [RankCandidates(ranker, weights=weights)]),
        TopK(),
    ]


def state_ranker(bundle: Bundle, states: UserStates) -> StateRanker | None:
    """Return the ranker of a Bundle over `states`, None if it has none.

    >>> from types import SimpleNamespace
    >>> bundle = SimpleNamespace(manifest=SimpleNamespace(features={}))
    >>> state_ranker(bundle, states=None) is None
    True
    """
    told = bundle.manifest.features.get("ranker")
    if told is None:
        return None
    return StateRanker(
        states,
        actions=told["config"]["actions"],
        vectors_ND=bundle.tensors("items")["vectors"],
        items_NF=bundle.tensors("ranker")["items"],
    )
