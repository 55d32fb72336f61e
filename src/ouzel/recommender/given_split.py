"""The table of accuracy for a test part that came as a file of its own.

Nothing of that file is ever in the log of the home, so no model can have seen it.

Shape legend: E = events of the test file, U = users with items held out.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ouzel.data.dataset import Dataset
from ouzel.evaluation.baselines import baseline_scorers
from ouzel.evaluation.cold import COLD_ITEM_EVENTS, COLD_USER_EVENTS, PARTS
from ouzel.evaluation.held_out import HeldOut, evaluate_lists
from ouzel.evaluation.protocol import Scorer
from ouzel.events.interactions import Interactions
from ouzel.recommender.evaluate import scorers_of_bundle
from ouzel.recommender.home import Home
from ouzel.recommender.options import Progress

Rows = list[dict[str, Any]]


class GivenTest:
    """What a file held out of the events in the log of `home`, and what the baselines find of it.

    `num_excluded` counts its events of users whom the log does not know.
    """

    def __init__(self, home: Home, dataset: Dataset) -> None:
        """Raises: ValueError if the log knows no user of the file."""
        self._home = home
        self._baselines: Rows | None = None
        with home.log() as log:
            self.train: Interactions = log.interactions(until_offset=log.last_offset())
            frame = dataset.frame.select("user_id", "item_id").unique(maintain_order=True)
            rows_E = log.catalog.rows(frame["item_id"].to_list())
            numbers = {user: log.user_row(user) for user in frame["user_id"].unique().to_list()}
        rows_E = np.where(rows_E < self.train.num_rows, rows_E, 0).astype(np.int32)
        named = [numbers[user] for user in frame["user_id"].to_list()]
        users_E = np.array([-1 if user is None else user for user in named], np.int64)
        self.held_out, self.num_excluded = _held_out(self.train, users_E, rows_E)

    def rows(self, progress: Progress, *, threads: int) -> Rows:
        """Return the rows of what the home serves, the whole of it first, then the baselines."""
        bundle = self._home.current()
        ours = self._measured(scorers_of_bundle(bundle, self.train, threads=threads), progress)
        if self._baselines is None:
            self._baselines = self._measured(baseline_scorers(self.train), progress)
        return ours + self._baselines

    def _measured(self, scorers: dict[str, Scorer], progress: Progress) -> Rows:
        parts = _parts(self.train, self.held_out)
        rows = []
        for model, scorer in scorers.items():
            told = progress.step(f"Evaluating {model}")
            report = evaluate_lists(scorer, self.train, self.held_out, model=model, progress=told)
            rows.append({**report.row(parts), "num_excluded": self.num_excluded})
        return rows


def _held_out(
    train: Interactions, users_E: NDArray[np.int64], rows_E: NDArray[np.int32]
) -> tuple[HeldOut, int]:
    """Return what was held out of the users of `train`, given the log's user rows, -1: unknown."""
    places_E = np.minimum(np.searchsorted(train.users_U, users_E), max(0, train.num_users - 1))
    known_E = np.zeros(len(users_E), np.bool_)
    if train.num_users:
        known_E = train.users_U[places_E] == users_E
    order = np.argsort(places_E[known_E], kind="stable")
    users, counts = np.unique(places_E[known_E], return_counts=True)
    offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
    excluded = int((~known_E).sum())
    if not len(users):
        raise ValueError("the test part has no user of the training part: give files of one split")
    return HeldOut(users.astype(np.int64), offsets, rows_E[known_E][order]), excluded


def _parts(train: Interactions, held_out: HeldOut) -> dict[str, NDArray[np.bool_]]:
    """Return which of the items held out are in each of `ouzel.evaluation.cold.PARTS`."""
    counts_N = np.bincount(train.rows_E, minlength=train.num_rows)
    counts_N[0] = 0
    lengths_U = train.lengths_U()[held_out.users_U]
    cold_item_E = counts_N[held_out.rows_E] < COLD_ITEM_EVENTS
    cold_user_E = np.repeat(lengths_U < COLD_USER_EVENTS, held_out.lengths_U())
    cold_E = cold_item_E | cold_user_E
    return dict(zip(PARTS, (~cold_E, cold_E, cold_item_E, cold_user_E), strict=True))
