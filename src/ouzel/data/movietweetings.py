"""MovieTweetings: film ratings from 0 to 10 gathered from tweets, ids from IMDb.

References: S. Dooms, T. De Pessemier and L. Martens, "MovieTweetings: a Movie Rating Dataset
Collected From Twitter", CrowdRec at RecSys 2013.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ouzel.data.double_colon import COLUMNS, read_movies, read_ratings
from ouzel.data.raw import Raw

_IMDB_DIGITS = 7


def is_movietweetings(lines: Sequence[str]) -> bool:
    """Return whether `::` lines are of MovieTweetings: their items are IMDb numbers.

    Those have seven digits or more, leading zeros included; MovieLens numbers have fewer.

    >>> is_movietweetings(["1::0114508::8::1381006850"])
    True
    """
    items = [fields[1] for line in lines if len(fields := line.split("::")) == len(COLUMNS)]
    return bool(items) and all(len(item) >= _IMDB_DIGITS for item in items)


def read_movietweetings(path: Path) -> Raw:
    """Return the raw table of `ratings.dat`, with titles if `movies.dat` is beside it.

    Ids stay texts, so that leading zeros of IMDb numbers are kept.

    >>> from ouzel.data.samples import movietweetings
    >>> read_movietweetings(movietweetings() / "ratings.dat.gz").recognised
    'MovieTweetings ratings.dat.gz'
    """
    table, problems, num_broken = read_ratings(path)
    return Raw(
        f"MovieTweetings {path.name}",
        table.lazy(),
        COLUMNS,
        default_event="rate",
        value_range=(0.0, 10.0),
        items=read_movies(path),
        problems=problems,
        num_broken=num_broken,
    )
