"""The three paths that a request can take: the list of scores, a union of sources, own candidates.

The standard path is that of nearly all requests and pays nothing for the others, which are made of
the same stages: what finds, filters and scores there does so here too.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ouzel.events.catalog import Catalog
from ouzel.ranking.arranging import Arrange, VectorOf
from ouzel.ranking.blending import BlendSources
from ouzel.ranking.by_history import AddWeights
from ouzel.ranking.categories import Categories
from ouzel.ranking.pipeline import Pipeline, Stage
from ouzel.ranking.stages import FillFrom, SearchIndex
from ouzel.ranking.union import (
    BoostWeights,
    Fuse,
    OwnCandidates,
    Pinned,
    Propose,
    Relevance,
)
from ouzel.retrieval.popular import PopularSource
from ouzel.retrieval.types import Source


@dataclass(frozen=True, slots=True)
class Paths:
    """The pipelines of a home. `union` gathers widely, `rank` takes the caller's candidates.

    `categories` are what caps and calibrated lists go by.
    """

    standard: Pipeline
    union: Pipeline
    rank: Pipeline
    categories: Categories

    @property
    def all(self) -> tuple[Pipeline, ...]:
        """Return every pipeline."""
        return (self.standard, self.union, self.rank)

    @property
    def failures(self) -> dict[str, int]:
        """Return how often each stage failed, on any path."""
        return _sums([pipeline.failures for pipeline in self.all])

    @property
    def overruns(self) -> dict[str, int]:
        """Return how often each stage was over its budget, on any path."""
        return _sums([pipeline.overruns for pipeline in self.all])

    def take_counts(self) -> tuple[dict[str, int], dict[str, int]]:
        """Return failures and overruns of stages, on any path, and begin anew."""
        taken = self.failures, self.overruns
        for pipeline in self.all:
            for counts in (pipeline.failures, pipeline.overruns):
                counts.update(dict.fromkeys(counts, 0))
        return taken

    def add_counts(self, failures: Mapping[str, int], overruns: Mapping[str, int]) -> None:
        """Add what another process counted, to the path of most requests."""
        ours = (self.standard.failures, self.standard.overruns)
        for counts, theirs in zip(ours, (failures, overruns), strict=True):
            for name in counts.keys() & theirs.keys():
                counts[name] += theirs[name]


def paths(
    standard: Pipeline, catalog: Catalog, *, extra: Sequence[Source] = (), resting: bool = True
) -> Paths:
    """Return the paths around a standard one; `extra` are sources that only a request can ask for.

    `resting` as in `Pipeline`.

    >>> from ouzel.ranking.stages import DropForbidden, TopK
    >>> popular = FillFrom(PopularSource(np.array([0, 5, 9], np.float32)))
    >>> found = paths(Pipeline([popular, DropForbidden(), TopK()]), Catalog())
    >>> found.union.names
    ('popular', 'pins', 'filter', 'fuse', 'relevance', 'boost', 'arrange', 'select')
    >>> found.rank.names
    ('caller', 'filter', 'relevance', 'boost', 'arrange', 'select')
    """
    kinds = {kind: [stage for stage in standard.stages if stage.kind == kind] for kind in _KINDS}
    fills = [stage for stage in standard.stages if isinstance(stage, FillFrom)]
    proposing = [
        Propose(fill.source, needs_history=fill.needs_history, optional=fill.optional)
        for fill in fills
    ]
    vector_of, categories = _vector_of(standard), Categories(catalog)
    weights = [stage for stage in standard.stages if isinstance(stage, AddWeights)]
    scores_of = weights[0].scores if weights else None
    scoring: list[Stage] = [
        Relevance(vector_of, _popularity(standard), scores_of=scores_of),
        *kinds["score"],
        BoostWeights(),
    ]
    scoring += [Arrange(vector_of, categories), *kinds["select"]]
    found = SearchIndex | AddWeights | BlendSources
    finding = [stage for stage in standard.stages if isinstance(stage, found)]
    union: list[Stage] = [*kinds["hydrate"], *finding, *proposing]
    union += [Propose(source, extra=True) for source in extra]
    union += [Pinned(), *kinds["filter"], Fuse(), *scoring]
    rank = [*kinds["hydrate"], OwnCandidates(), *kinds["filter"], *scoring]
    return Paths(
        standard,
        Pipeline(union, resting=resting),
        Pipeline(rank, resting=resting),
        categories,
    )


_KINDS = ("hydrate", "filter", "score", "select")


def _sums(counts: Sequence[dict[str, int]]) -> dict[str, int]:
    names = dict.fromkeys(name for each in counts for name in each)
    return {name: sum(each.get(name, 0) for each in counts) for name in names}


def _popularity(standard: Pipeline) -> NDArray[np.float32]:
    for stage in standard.stages:
        if isinstance(stage, FillFrom) and isinstance(stage.source, PopularSource):
            return stage.source.scores_N
    return np.zeros(0, np.float32)


def _vector_of(standard: Pipeline) -> VectorOf:
    searches = [stage for stage in standard.stages if isinstance(stage, SearchIndex)]
    # Asked of the stage each time: its index may be another one by then.
    return lambda row: searches[0].index.vector(row) if searches else None
