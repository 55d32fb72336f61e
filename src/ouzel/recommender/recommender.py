"""The recommender as a Python object: the same home, models and request path as the server."""

from __future__ import annotations

import shutil
import tempfile
import warnings
import weakref
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, TypeVar

from ouzel.events import clock
from ouzel.events.log import EventLog
from ouzel.recommender import extras
from ouzel.recommender.answering import Answering
from ouzel.recommender.home import Home
from ouzel.recommender.logged import Logged
from ouzel.recommender.options import Silent, TrainOptions
from ouzel.retrieval.types import Candidates, Query

if TYPE_CHECKING:
    import polars as pl

    from ouzel.serving.arranging import Arranging

Asked = TypeVar("Asked", bound="Arranging")

MAX_K = 500
MAX_RANKED = 1000


class Recommender:
    """A recommender that fits on events and answers at once.

    Without `home` it lives in a temporary folder, until `save` copies it elsewhere. `weights` are
    those of the actions of a model with a ranker, such as `{"interact": 1.0, "like": 0.5}`. `model`
    is what `fit` trains if it is not told otherwise: a name that `ouzel models` lists.

    >>> Recommender("no-such-folder").recommend(["u1"])
    Traceback (most recent call last):
    ...
    ValueError: no-such-folder has no model yet: run `ouzel train --data PATH --out no-such-folder`
    """

    @extras.told
    def __init__(
        self,
        home: Path | str | None = None,
        *,
        model: str | None = None,
        weights: Mapping[str, float] | None = None,
    ) -> None:
        if model is not None:
            TrainOptions(model=model)
        self.home = Home(Path(home) if home else Path(tempfile.mkdtemp(prefix="ouzel-")))
        if home is None:
            weakref.finalize(self, shutil.rmtree, self.home.root, ignore_errors=True)
        self._temporary = home is None
        self._model = model
        self._weights = weights
        self._answering: Answering | None = None

    @extras.told
    def fit(self, events: Any, **options: Any) -> Self:
        """Return this recommender, trained on `events` and all it was given before.

        `events` is a path, or anything with the Arrow C stream: pandas, polars, pyarrow, DuckDB.
        `options` are the fields of `TrainOptions`, such as `preset="M"`, `minutes=5` or
        `settings={"dim": 128}`.

        What is odd about the events, and what was done about it, is told as warnings. How the
        training goes is logged as information by the logger `ouzel`.

        Raises:
            ValueError: the events cannot be read, or are too few to learn from.
        """
        from ouzel.data.read import from_arrow, read
        from ouzel.recommender.train import cleaned, import_dataset, train_home

        if self._model is not None:
            options.setdefault("model", self._model)
        chosen = TrainOptions(**options)
        dataset = read(Path(events)) if isinstance(events, str | Path) else from_arrow(events)
        self._close()
        progress = Logged()
        if dataset.report.dropped:
            progress.warn(str(dataset.report))
        try:
            with self.home.log() as log:
                import_dataset(log, cleaned(dataset, chosen, progress), progress)
            train_home(self.home, chosen, progress)
        finally:
            for text in progress.texts:
                warnings.warn(text, stacklevel=3)
        return self

    @extras.told
    def partial_fit(self, events: Any = None) -> Self:
        """Return this recommender after its model learned `events`, one after the other.

        `events` is as for `fit`, and likes alone are learned if that was told a `min_value`; what a
        server logged since is learned first, or alone if there are
        none. Nothing is trained anew, and users and items may be new. What `evaluate` tells stays
        the accuracy of the last `fit`.

        Raises:
            ValueError: nothing was fitted, the model learns by `fit` alone (`esasrec` takes each
                event into a user's state anyway), or the events cannot be read.
        """
        from ouzel.data.read import from_arrow, read
        from ouzel.recommender.online import learn_from_log, online_model
        from ouzel.recommender.train import cleaned, import_dataset

        bundle = self.home.current()
        online_model(bundle)
        likes = TrainOptions(min_value=bundle.manifest.features.get("min_value"))
        self._close()
        if events is not None:
            dataset = read(Path(events)) if isinstance(events, str | Path) else from_arrow(events)
            with self.home.log() as log:
                import_dataset(log, cleaned(dataset, likes, Silent()), Silent())
        learn_from_log(self.home)
        return self

    def recommend(
        self,
        user_ids: Sequence[str],
        *,
        k: int = 10,
        exclude_seen: bool = True,
        filter: str | None = None,
        **arranging: Any,
    ) -> pl.DataFrame:
        """Return `user_id, item_id, score, rank, source`, up to `k` rows a user, best first.

        A user without known events gets what is popular; `source` says so. `filter` says which
        items may be shown, such as `"Drama" in genres` (see `ouzel.ranking.conditions`).
        `arranging` are fields of `Gathering` in `ouzel.serving.arranging`, the same as over HTTP,
        such as `diversity={"method": "mmr", "weight": 0.3}` or `caps={"genres": 3}`. With
        `explore` there is a column `propensity`.

        Raises:
            ValueError: nothing was fitted, `k` is not between 1 and 500, an id is no text, or the
                filter or a field of `arranging` cannot be read.
        """
        import polars as pl

        from ouzel.serving.arranging import Gathering

        _check(user_ids, k, filter, name="user_ids")
        asked = _asked(arranging, Gathering)
        answering = self._open()
        query = Query(k=k, now_ms=clock.now_ms(), hidden=answering.filters.hidden(filter))
        if asked.arranges():
            query = answering.arranged(query, asked, filter)
        lists = answering.recommend(user_ids, query, exclude_seen=exclude_seen)
        names = ("user_id", "item_id")
        parts = [
            _frame(names, user_id, found, answering.log)
            for user_id, found in zip(user_ids, lists, strict=True)
        ]
        nothing = _frame(names, "", Candidates.empty(), answering.log)
        return pl.concat(parts or [nothing], how="diagonal")

    def rank(
        self,
        user_ids: Sequence[str],
        item_ids: Sequence[str],
        *,
        k: int | None = None,
        exclude_seen: bool = False,
        filter: str | None = None,
        **arranging: Any,
    ) -> pl.DataFrame:
        """Return `user_id, item_id, score, rank, source`: the items in order for each user.

        All items are in it, or the best `k`, but for those that are hidden or that the catalogue
        does not have. Items that the model does not know come last, as source `unscored`.
        `arranging` are fields of `Arranging` in `ouzel.serving.arranging`.

        Raises:
            ValueError: as `recommend`, or there are not 1 to 1,000 items.
        """
        import polars as pl

        from ouzel.serving.arranging import Arranging

        _check(user_ids, 1, filter, name="user_ids")
        _check(item_ids, 1, filter, name="item_ids")
        if not 1 <= len(item_ids) <= MAX_RANKED:
            raise ValueError(f"item_ids has {len(item_ids)} items: give 1 to {MAX_RANKED}")
        k = len(item_ids) if k is None else k
        if not isinstance(k, int) or not 1 <= k <= MAX_RANKED:
            raise ValueError(f"k is {k!r}: give a whole number, 1 to {MAX_RANKED}")
        asked = _asked(arranging, Arranging)
        answering = self._open()
        query = Query(k=k, now_ms=clock.now_ms(), hidden=answering.filters.hidden(filter))
        query = answering.arranged(query, asked, filter, own=list(item_ids))
        lists = answering.recommend(user_ids, query, exclude_seen=exclude_seen)
        names = ("user_id", "item_id")
        found = zip(user_ids, lists, strict=True)
        parts = [_frame(names, user_id, one, answering.log) for user_id, one in found]
        nothing = _frame(names, "", Candidates.empty(), answering.log)
        return pl.concat(parts or [nothing], how="diagonal")

    def similar(
        self, item_ids: Sequence[str], *, k: int = 10, filter: str | None = None
    ) -> pl.DataFrame:
        """Return `item_id, similar_item_id, score, rank, source`: up to `k` rows an item.

        For an item that is not known these are the popular ones; `source` says so.

        Raises:
            ValueError: as `recommend`.
        """
        import polars as pl

        _check(item_ids, k, filter, name="item_ids")
        answering = self._open()
        lists = answering.similar(item_ids, k, hidden=answering.filters.hidden(filter))
        found = zip(item_ids, lists, strict=True)
        names = ("item_id", "similar_item_id")
        parts = [_frame(names, item_id, like, answering.log) for item_id, like in found]
        return pl.concat(parts or [_frame(names, "", Candidates.empty(), answering.log)])

    def titles(self, item_ids: Sequence[str]) -> list[str]:
        """Return the titles of items, "" where the catalogue has none."""
        catalog = self._open().log.catalog
        column = catalog.column("title")
        return [column[catalog.row(item_id)] for item_id in item_ids]

    def evaluate(self) -> list[dict[str, Any]]:
        """Return the accuracy of the model and of every baseline on what training left out."""
        from ouzel.recommender.cores import usable_threads
        from ouzel.recommender.evaluate import evaluate_home

        return evaluate_home(self.home, Silent(), threads=usable_threads())

    def save(self, folder: Path | str) -> Path:
        """Return `folder`, now a complete home: `load` and `ouzel serve` take it.

        Raises:
            ValueError: there is something in `folder` already.
        """
        target = Path(folder)
        if target.exists() and any(target.iterdir()):
            raise ValueError(f"{target} is not empty: choose a new folder, or remove it first")
        self._close()
        shutil.copytree(self.home.root, target, dirs_exist_ok=True)
        return target

    @classmethod
    def load(cls, folder: Path | str, *, weights: Mapping[str, float] | None = None) -> Recommender:
        """Return the recommender that lives in `folder`, with these weights of its ranker.

        Raises:
            ValueError: there is no trained model in it, or it is damaged, or its ranker does not
                know an action of `weights`.
        """
        recommender = cls(folder, weights=weights)
        recommender._open()
        return recommender

    def serve(self, *, host: str = "127.0.0.1", port: int = 8000) -> None:
        """Serve over HTTP until interrupted; `ouzel serve` has all the settings."""
        from ouzel.serving.server import serve

        self._close()
        serve(self.home.root, host=host, port=port, weights=self._weights)

    def _open(self) -> Answering:
        if self._answering is None:
            if self._temporary and not self.home.bundles.exists():
                raise ValueError("there is no model yet: call fit(events) first, or load(folder)")
            self._answering = Answering(self.home, self._weights)
        return self._answering

    def _close(self) -> None:
        if self._answering is not None:
            self._answering.log.close()
            self._answering = None


def _asked(arranging: dict[str, Any], kind: type[Asked]) -> Asked:
    """Return the fields as what they are over HTTP."""
    import msgspec

    try:
        return msgspec.convert(arranging, kind)
    except msgspec.ValidationError as error:
        raise ValueError(f"{error}: see the fields of {kind.__name__}") from None


def _check(ids: Sequence[str], k: int, filter: str | None, *, name: str) -> None:
    listed = isinstance(ids, Iterable) and not isinstance(ids, str)
    if not listed or not all(isinstance(one, str) for one in ids):
        raise ValueError(f"{name} is {ids!r}: give a list of texts, such as ['x1', 'x2']")
    if not isinstance(k, int) or not 1 <= k <= MAX_K:
        raise ValueError(f"k is {k!r}: give a whole number, 1 to {MAX_K}")
    if filter is not None and not isinstance(filter, str):
        raise ValueError(f"filter is {filter!r}: give a text, such as 'price < 50'")


def _frame(names: tuple[str, str], asked: str, found: Candidates, log: EventLog) -> pl.DataFrame:
    import polars as pl

    columns = {
        names[0]: [asked] * len(found),
        names[1]: log.catalog.ids(found.rows_K.tolist()),
        "score": found.scores_K.tolist(),
        "rank": list(range(1, len(found) + 1)),
        "source": [found.names[source] for source in found.sources_K.tolist()],
    }
    types = {names[0]: str, names[1]: str, "score": float, "rank": int, "source": str}
    if found.propensities_K is not None:
        columns["propensity"] = found.propensities_K.tolist()
        types["propensity"] = float
    return pl.DataFrame(columns, schema=types)
