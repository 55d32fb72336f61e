"""Lists in a Python process: the log and the request path of a home, open."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from msgspec.structs import replace

from ouzel.bundle.index import KeptLists
from ouzel.events import clock
from ouzel.events.availability import Availability
from ouzel.inference.audit import audit_tolerance
from ouzel.inference.no_states import NoStates
from ouzel.inference.onnxruntime import Graphs
from ouzel.inference.states import UserStates
from ouzel.ranking.assembly import Chosen, reads_values, sample_histories, standard_stages
from ouzel.ranking.filters import Filters
from ouzel.ranking.paths import paths
from ouzel.ranking.pipeline import Pipeline
from ouzel.ranking.similar import query_like
from ouzel.recommender.home import Home
from ouzel.retrieval.trending import TrendingSource
from ouzel.retrieval.types import Candidates, Query, distinct_rows, no_history

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from ouzel.serving.arranging import Arranging

STATE_BYTES = 256 << 20
"""Memory for user states in a Python process."""

NEWEST_EVENTS = 50_000
"""How far back in the log the trending list begins."""

MAX_PASS = 256
"""Most queries in one pass of the pipeline."""


class Answering:
    """The log and the request path of a home, open."""

    def __init__(self, home: Home, weights: Mapping[str, float] | None) -> None:
        bundle = home.current()
        self.log = home.log()
        self._states: UserStates | NoStates = NoStates(bundle.version)
        if bundle.manifest.kind == "sequence":
            self._states = UserStates(
                Graphs.of(bundle),
                max_bytes=STATE_BYTES,
                load_history=self.log.history,
                version=bundle.version,
                tolerance=audit_tolerance(bundle.manifest),
            )
        self._num_rows = bundle.manifest.num_rows
        self._valued = reads_values(bundle)
        catalog = self.log.catalog
        self.filters = Filters(
            catalog, Availability(catalog, num_rows=self._num_rows), num_rows=self._num_rows
        )
        samples = sample_histories(self.log, valued=self._valued)
        chosen = Chosen.of(home.root, bundle)
        kept = KeptLists(home.root, bundle.digest)
        stages = standard_stages(bundle, self._states, samples, chosen, kept, weights=weights)
        self._pipeline = Pipeline(stages, resting=False)
        trending = TrendingSource(self._num_rows)
        trending.observe_all(self.log.newest(NEWEST_EVENTS))
        self._paths = paths(self._pipeline, catalog, extra=[trending], resting=False)

    def recommend(
        self, user_ids: Sequence[str], query: Query, *, exclude_seen: bool
    ) -> Sequence[Candidates]:
        """Return the candidates of each user, best first: `query` says all but who asks."""
        if not user_ids:
            return ()
        queries = [
            self._of_user(user_id, query, exclude_seen, place)
            for place, user_id in enumerate(user_ids)
        ]
        arranged = query.arrangement
        path = self._pipeline
        if arranged is not None:
            path = self._paths.union if arranged.own_K is None else self._paths.rank
        # A ranker reads the states of a whole pass, so they must all fit into the pool.
        step = min(MAX_PASS, self._states.pool.num_slots)
        parts = (queries[at : at + step] for at in range(0, len(queries), step))
        return [found for part in parts for found in path.run(part).found]

    def arranged(
        self, query: Query, asked: Arranging, filter: str | None, *, own: list[str] | None = None
    ) -> Query:
        """Return the query with what is asked of its list; `own` are the only candidates."""
        from ouzel.serving import arranging

        def rows_of(item_ids: list[str]) -> NDArray[np.int32]:
            return self.filters.shown(filter, self.log.catalog.rows(item_ids))

        self._paths.categories.check(arranging.fields_of(asked))
        masks = {text: self.filters.hidden(text) for text in arranging.filters_of(asked)}
        own_K = None if own is None else arranging.distinct_items(rows_of(own))
        asked_for = arranging.arrangement(asked, query.k, rows_of=rows_of, masks=masks, own_K=own_K)
        breadth = arranging.breadth_of(asked, query.k)
        return replace(query, breadth=breadth, arrangement=asked_for)

    def similar(
        self, item_ids: Sequence[str], k: int, *, hidden: NDArray[np.bool_] | None
    ) -> Sequence[Candidates]:
        """Return the candidates like each item, best first."""
        now_ms = clock.now_ms()
        nothing = no_history().rows
        queries = [
            query_like(
                row if row < self._num_rows else 0,
                self._pipeline,
                k=k,
                now_ms=now_ms,
                forbidden=nothing,
                hidden=hidden,
            )
            for row in self.log.catalog.rows(item_ids).tolist()
        ]
        return self._pipeline.run(queries).found if queries else ()

    def _of_user(self, user_id: str, query: Query, exclude_seen: bool, place: int) -> Query:
        user = self.log.user_row(user_id)
        history = no_history()
        if user is not None:
            history = self.log.history(user, valued=self._valued)
        seen = distinct_rows(history.rows if exclude_seen else no_history().rows)
        arranged = None if query.arrangement is None else query.arrangement.of_place(place)
        return replace(query, user=user, history=history, forbidden=seen, arrangement=arranged)
