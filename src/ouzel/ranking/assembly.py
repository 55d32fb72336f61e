"""The standard request path of a Bundle, the same in the server and in Python.

State, then search of the item index; what is missing comes from session neighbours, then from what
is popular; then the filter, the ranker of a Bundle that has one, and the cut.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ouzel.bundle.bundle import Bundle
from ouzel.bundle.index import ChosenIndexes, KeptLists
from ouzel.bundle.manifest import IndexRecord
from ouzel.events.interactions import History
from ouzel.events.log import EventLog
from ouzel.inference.fields import FieldRanker
from ouzel.inference.history_fold import fold_in_of
from ouzel.inference.no_states import NoStates
from ouzel.inference.ranking import StateRanker
from ouzel.inference.states import UserStates
from ouzel.inference.target_attention import TargetAttentionKernel
from ouzel.ranking.blending import Blender, BlendSources
from ouzel.ranking.by_history import AddWeights, FoldInUser, HistoryVectors
from ouzel.ranking.pipeline import Stage
from ouzel.ranking.scoring import RankCandidates, ScoresCandidates
from ouzel.ranking.stages import DropForbidden, EncodeUser, FillFrom, SearchIndex, TopK
from ouzel.retrieval.engines import engine_of
from ouzel.retrieval.exact import ExactIndex
from ouzel.retrieval.faiss import ProductIndex
from ouzel.retrieval.index import Engine, Excluded
from ouzel.retrieval.item_item import ItemItem
from ouzel.retrieval.live import LiveIndex
from ouzel.retrieval.popular import PopularSource
from ouzel.retrieval.scan import ScanIndex
from ouzel.retrieval.scan_lists import ScanListsIndex
from ouzel.retrieval.tuning import tune
from ouzel.retrieval.types import Source, distinct_rows
from ouzel.retrieval.vmis import VMISkNN

EXACT_ROWS = 1_000
"""Up to here exact search takes no longer than a scan of codes, and nobody needs a front door."""

LISTS_ROWS = 50_000
"""Up to here a scan of all codes, which passes share, takes no longer than one of the nearest."""

EXACT_ROWS_WITHOUT_KERNEL = 20_000
"""Up to here it is as fast as product codes."""

SCANNED_ROWS = 3_000_000
"""Above that a scan of all codes takes over 15 ms alone, and lists come too late."""

RECALL = 0.99
"""What is enough of the best 10."""

RECALL_AT_100 = 0.993
"""Above `LISTS_ROWS`, of the best 100: lists are seldom poor at ten and good at a hundred. Others
than the samples then have 0.99."""

RECALL_OF_MANY = 0.975
"""The same above `SCANNED_ROWS`."""

SAMPLES = 64


@dataclass(frozen=True)
class Chosen:
    """What `ouzel index` chose: the record, what its engine stored, and what to do if it fails."""

    record: IndexRecord
    tensors: Mapping[str, NDArray[np.generic]] | None
    remedy: str

    @classmethod
    def of(cls, home: Path, bundle: Bundle) -> Chosen | None:
        """Return what was chosen in `home` for this Bundle, None if nothing was.

        Raises:
            ValueError: it is damaged.
        """
        indexes = ChosenIndexes(home)
        chosen = indexes.read(bundle.digest)
        if chosen is None:
            return None
        return cls(chosen.record, indexes.tensors(chosen), indexes.remedy(bundle.digest))

    def engine(self, vectors_ND: NDArray[np.float32]) -> Engine:
        """Return the engine over the vectors that it was chosen for.

        Raises:
            ValueError: it cannot search here, or the codes are of other vectors.
        """
        try:
            engine = engine_of(self.record.engine)
            if reason := engine.why_not(*vectors_ND.shape):
                raise ValueError(reason)
            made = engine(vectors_ND, self.tensors)
        except ValueError as error:
            raise ValueError(
                f"the index chosen for this home fails: {error}; {self.remedy}"
            ) from None
        made.effort = self.record.effort
        made.recall = self.record.recall["recall@10"]
        return made


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
    vectors_ND: NDArray[np.float32],
    states: HistoryVectors,
    samples: Sequence[History],
    chosen: Chosen | None = None,
    kept: KeptLists | None = None,
) -> LiveIndex:
    """Return what finds items: what was chosen; else exact search, or a scan of codes where that
    costs milliseconds.

    Without a choice an approximate index is taken only if it finds enough of the exact best
    unseen items for the vectors of the `samples`, histories of users of this very home. `kept` is
    as in `automatic_engine`.

    Raises:
        ValueError: what was chosen cannot search here, or its codes are of other vectors.

    >>> len(item_index(np.ones((3, 2), np.float32), states=None, samples=[]))
    2
    """
    if chosen is not None:
        return LiveIndex(chosen.engine(vectors_ND))
    large = bool(_approximate(*vectors_ND.shape))
    asked = [
        (states.query_session(history, int(history.times_ms[-1])), distinct_rows(history.rows))
        for history in (samples if large else ())
        if len(history)
    ]
    known = [(vector, seen) for vector, seen in asked if vector is not None]
    if not known:
        return LiveIndex(ExactIndex(vectors_ND))
    vectors, seen = zip(*known, strict=True)
    return LiveIndex(automatic_engine(vectors_ND, np.stack(vectors), seen, kept))


def automatic_engine(
    vectors_ND: NDArray[np.float32],
    queries_BD: NDArray[np.float32],
    seen: Excluded,
    kept: KeptLists | None = None,
) -> Engine:
    """Return the engine that is taken where none was chosen, tuned on `queries_BD`.

    `seen` are the rows that each query's user has seen, sorted. It finds `RECALL` of the exact best
    10, of many rows `RECALL_AT_100` of the best 100, of very many `RECALL_OF_MANY`; and where
    nothing does that it is exact. Lists are read from `kept`, or built and left there.

    >>> vectors_ND = np.eye(4, dtype=np.float32)
    >>> automatic_engine(vectors_ND, vectors_ND[1:2], [np.array([1], np.int32)]).name
    'exact'
    """
    exact = ExactIndex(vectors_ND)
    k, enough = _enough(len(vectors_ND))
    for quick in _approximate(*vectors_ND.shape) if len(queries_BD) else ():
        index = _made(quick, vectors_ND, kept)
        tune(index, exact, queries_BD, recall=enough, k=k, exclude=seen)
        pays = not isinstance(index, ScanListsIndex) or index.pays
        if index.recall >= enough and pays:
            return index
    return exact


def _enough(num_rows: int) -> tuple[int, float]:
    """Return the k of so many rows, and which share of the best k is to be found."""
    if num_rows <= LISTS_ROWS:
        return 10, RECALL
    return 100, RECALL_AT_100 if num_rows <= SCANNED_ROWS else RECALL_OF_MANY


def _made(kind: type[Engine], vectors_ND: NDArray[np.float32], kept: KeptLists | None) -> Engine:
    if kept is None or kind is not ScanListsIndex:
        return kind(vectors_ND)
    tensors = kept.read()
    if tensors is not None:
        try:
            return kind(vectors_ND, tensors)
        except ValueError:
            pass  # Of an earlier form: it is built anew.
    made = kind(vectors_ND)
    kept.keep(made.to_tensors())
    return made


def _approximate(num_rows: int, dim: int) -> tuple[type[Engine], ...]:
    """Return the engines worth a try for so many rows, best first; none: exact is as fast."""
    if ScanIndex.works():
        if num_rows > LISTS_ROWS:
            return ScanListsIndex, ScanIndex
        return (ScanIndex,) if num_rows > EXACT_ROWS else ()
    large = num_rows > EXACT_ROWS_WITHOUT_KERNEL and not ProductIndex.why_not(num_rows, dim)
    return (ProductIndex,) if large else ()


def sample_histories(log: EventLog, most: int = SAMPLES, *, valued: bool = False) -> list[History]:
    """Return the histories of up to `most` users, spread over all there are, with values if asked.

    >>> import tempfile
    >>> from pathlib import Path
    >>> with tempfile.TemporaryDirectory() as folder, EventLog.open(Path(folder, "log")) as log:
    ...     sample_histories(log)
    []
    """
    count = min(most, log.num_users)
    users = np.linspace(0, max(0, log.num_users - 1), count).astype(int).tolist()
    return [log.history(user, valued=valued) for user in users]


def standard_stages(
    bundle: Bundle,
    states: UserStates | NoStates,
    samples: Sequence[History] = (),
    chosen: Chosen | None = None,
    kept: KeptLists | None = None,
    *,
    weights: Mapping[str, float] | None = None,
    popular: Mapping[str, Source] | None = None,
) -> list[Stage]:
    """Return the stages of the request path, in order.

    `samples`, `chosen` and `kept` are as in `item_index`.

    What finds items depends on the kind of the model; what comes after it does not. A Bundle with
    a ranker has its scores after the filter; `weights` are those of its actions, see
    `ouzel.ranking.scoring.action_weights`. `popular` are its `popular_sources`, if they were made.

    >>> from types import SimpleNamespace
    >>> import numpy as np
    >>> from ouzel.events.interactions import History, from_histories
    >>> visit = History(np.array([1, 2], np.int32), np.array([10, 20]))
    >>> arrays = {
    ...     "items": {"vectors": np.ones((3, 2), np.float32)},
    ...     "popular": {"scores": np.array([0, 5, 9]), "recent": np.array([0, 2, 1])},
    ...     "vmis": VMISkNN.fit(from_histories([visit], num_rows=3)).to_tensors(),
    ... }
    >>> bundle = SimpleNamespace(tensors=arrays.get, manifest=SimpleNamespace(features={},
    ...                                                                 kind="sequence"))
    >>> stages = standard_stages(bundle, states=None)
    >>> [stage.name for stage in stages]
    ['state', 'search', 'vmis', 'popular', 'filter', 'select']
    """
    ranker: ScoresCandidates | None = FieldRanker.of(bundle)
    if ranker is None and not isinstance(states, NoStates):
        ranker = state_ranker(bundle, states)
    if ranker is None and weights is not None:
        raise ValueError(
            f"weights are {dict(weights)}, but this model has no ranker: train with a ranker"
        )
    neighbours = VMISkNN.from_tensors(bundle.tensors("vmis"))
    if popular is None:
        popular = popular_sources(bundle)
    return [
        *_finding(bundle, states, partial(item_index, samples=samples, chosen=chosen, kept=kept)),
        *_blending(bundle, [neighbours, *popular.values()]),
        FillFrom(neighbours, needs_history=True, optional=True),
        FillFrom(popular["popular"]),
        DropForbidden(),
        *([] if ranker is None else [RankCandidates(ranker, weights=weights)]),
        TopK(),
    ]


def _blending(bundle: Bundle, others: Sequence[Source]) -> list[Stage]:
    """Return the stage that blends what was found with other sources, if the Bundle has one."""
    told = bundle.manifest.features.get("blend")
    return [] if told is None else [BlendSources(Blender.from_manifest(told), others)]


def _finding(
    bundle: Bundle, states: UserStates | NoStates, index: Callable[..., LiveIndex]
) -> list[Stage]:
    """Return the stages that find items as the kind of the model does."""
    kind = bundle.manifest.kind
    if kind == "closed_form":
        return [AddWeights(ItemItem.from_tensors(bundle.tensors("item_item")))]
    vectors_ND = bundle.tensors("items")["vectors"]
    if kind == "encoder":
        fold_in = fold_in_of(bundle.tensors("fold_in"), vectors_ND)
        return [FoldInUser(fold_in), SearchIndex(index(vectors_ND, fold_in))]
    assert not isinstance(states, NoStates), "a sequence model keeps states"
    return [EncodeUser(states), SearchIndex(index(vectors_ND, states))]


def reads_values(bundle: Bundle) -> bool:
    """Return whether the model of a Bundle reads the values of events: it is one of ratings.

    >>> from types import SimpleNamespace
    >>> manifest = SimpleNamespace(kind="encoder")
    >>> reads_values(SimpleNamespace(manifest=manifest, tensors=lambda file: {"noise": None}))
    True
    """
    return bundle.manifest.kind == "encoder" and "noise" in bundle.tensors("fold_in")


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
    vectors_ND, tensors = bundle.tensors("items")["vectors"], bundle.tensors("ranker")
    return StateRanker(
        states,
        actions=told["config"]["actions"],
        vectors_ND=vectors_ND,
        items_NF=tensors["items"],
        kernel=TargetAttentionKernel.of(states.graphs.shape, vectors_ND, tensors),
    )
