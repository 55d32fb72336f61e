"""The stage that fills a list place by place: variety, caps, pins and chance in one walk.

One walk, because each depends on what the places before hold: a cap on who is left, variety on what
is there, and the probability of a draw on both.
Shape legend: K = candidates of one query, D = dimensions of a vector.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping

import numpy as np
from msgspec.structs import replace
from numpy.typing import NDArray

from ouzel.ranking.calibration import Calibration
from ouzel.ranking.caps_pins import Caps, pinned_places
from ouzel.ranking.categories import Categories
from ouzel.ranking.diversity import Determinant, MarginalRelevance, Objective, Scores
from ouzel.ranking.exploration import draw
from ouzel.ranking.pipeline import Kind, Stage, Work
from ouzel.retrieval.arrangement import Arrangement, Explore
from ouzel.retrieval.types import Candidates, Query

logger = logging.getLogger(__name__)

MOST_PLACES = 100
"""Places that are filled with regard to variety, or by chance. Those after it go by score alone:
a thousand of them would hold up everybody for tens of milliseconds."""

VectorOf = Callable[[int], NDArray[np.float32] | None]
"""Returns the vector (D,) of a row, None if it has none."""


class Arrange(Stage):
    """Chooses and orders the list as the request's `Arrangement` says.

    Its fallback keeps to caps and pins and takes the candidates in the order they have.
    """

    name = "arrange"
    kind: Kind = "select"
    optional = True

    def __init__(self, vector_of: VectorOf, categories: Categories) -> None:
        self._vector_of = vector_of
        self._categories = categories

    def run(self, work: Work) -> Work:
        """Return the work with lists arranged, of k at most.

        Raises:
            ValueError: a score is not finite.
        """
        pairs = zip(work.queries, work.found, strict=True)
        return work.with_found([self._arranged(query, found) for query, found in pairs])

    def fallback(self, work: Work) -> Work:
        """Return the work with lists that keep to caps and pins, else as they were."""
        pairs = zip(work.queries, work.found, strict=True)
        return work.with_found([self._in_order(query, found) for query, found in pairs])

    def _arranged(self, query: Query, found: Candidates) -> Candidates:
        asked = query.arrangement
        if asked is None or not len(found) or not is_arranged(asked):
            return found
        if not np.isfinite(found.scores_K).all():
            raise ValueError("a candidate has a score that is no number: its scorer is broken")
        objective = self._objective(query, asked, found)
        return self._filled(query.k, asked, found, objective, asked.explore)

    def _in_order(self, query: Query, found: Candidates) -> Candidates:
        asked = query.arrangement
        if asked is None or not len(found):
            return found
        try:
            return self._filled(query.k, asked, found, Scores(-np.arange(float(len(found)))), None)
        except Exception:
            logger.exception("a list could not keep to its rules")
            return found

    def _filled(
        self,
        k: int,
        asked: Arrangement,
        found: Candidates,
        objective: Objective,
        explore: Explore | None,
    ) -> Candidates:
        rows = found.rows_K.tolist()
        values = {field: self._categories.values(field, rows) for field in asked.caps}
        caps = Caps(asked.caps, values, len(found))
        held = pinned_places(asked.pins, found.rows_K, caps)
        order, propensities = fill(
            objective, found.scores_K, k, caps=caps, held=held, explore=explore
        )
        found = found.take(order)
        if explore is None:
            return found
        return replace(found, propensities_K=np.array(propensities))

    def _objective(self, query: Query, asked: Arrangement, found: Candidates) -> Objective:
        diversity = asked.diversity
        if diversity is None or diversity.weight == 0:
            return Scores(found.scores_K)
        rows = found.rows_K.tolist()
        if diversity.method == "calibrated":
            values_K = self._categories.values(diversity.field, rows)
            history_n = self._categories.values(diversity.field, query.history.rows.tolist())
            return Calibration(found.scores_K, values_K, history_n, weight=diversity.weight)
        kind = MarginalRelevance if diversity.method == "mmr" else Determinant
        return kind(found.scores_K, self._vectors(rows), weight=diversity.weight)

    def _vectors(self, rows: list[int]) -> NDArray[np.float32]:
        vectors = [self._vector_of(row) for row in rows]
        dim = next((len(vector) for vector in vectors if vector is not None), 1)
        nothing = np.zeros(dim, np.float32)
        return np.stack([nothing if vector is None else vector for vector in vectors])


def is_arranged(asked: Arrangement) -> bool:
    """Return whether a list is more than the best candidates in their order.

    >>> is_arranged(Arrangement(caps={"genres": 2})), is_arranged(Arrangement())
    (True, False)
    """
    return bool(asked.diversity or asked.caps or asked.pins or asked.explore)


def fill(
    objective: Objective,
    scores_K: NDArray[np.floating],
    k: int,
    *,
    caps: Caps,
    held: Mapping[int, int],
    explore: Explore | None,
) -> tuple[list[int], list[float]]:
    """Return the candidates of up to k places, and with which probability each was put there.

    `held` are the places, from 0, that belong to a candidate; `caps` have counted these. Without
    `explore` a place goes to whoever gains most, ties to whoever stands first.

    >>> fill(Scores(np.array([3.0, 2.0, 1.0])), np.array([3.0, 2.0, 1.0]), 2,
    ...      caps=Caps({}, {}, 3), held={0: 2}, explore=None)
    ([2, 0], [1.0, 1.0])
    """
    random = None if explore is None else np.random.default_rng(explore.seed)
    free_K = np.ones(len(scores_K), np.bool_)
    free_K[list(held.values())] = False
    order: list[int] = []
    propensities: list[float] = []
    while len(order) < k:
        chosen, propensity = held.get(len(order)), 1.0
        if chosen is None:
            open_K = free_K & caps.allowed_K
            if not open_K.any():
                break
            if len(order) >= MOST_PLACES:
                objective, random = Scores(scores_K), None
            gains_K = np.where(open_K, objective.gains(), -np.inf)
            if random is None or explore is None:
                chosen = int(gains_K.argmax())
            else:
                chosen, propensity = draw(gains_K, explore.temperature, random)
            free_K[chosen] = False
            caps.take(chosen)
        objective.take(chosen)
        order.append(chosen)
        propensities.append(propensity)
    # Too few for the places of these: they close up.
    late = [held[place] for place in sorted(held) if place >= len(order)][: k - len(order)]
    return order + late, propensities + [1.0] * len(late)
