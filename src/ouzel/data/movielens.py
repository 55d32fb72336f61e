"""MovieLens in all its layouts: 100K (`u.data`), 1M and 10M (`ratings.dat`), later (`.csv`).

References: F. M. Harper and J. A. Konstan, "The MovieLens Datasets", TiiS 2015.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import polars as pl

from ouzel.data.delimited import read_delimited
from ouzel.data.double_colon import COLUMNS, ITEM_COLUMNS, beside, read_movies, read_ratings
from ouzel.data.lines import read_text
from ouzel.data.raw import Raw, project

_RANGE = (0.5, 5.0)
_100K_COLUMNS = {
    "user_id": "user id",
    "item_id": "item id",
    "value": "rating",
    "timestamp": "timestamp",
}


def read_movielens_dat(path: Path) -> Raw:
    """Return the raw table of `ratings.dat`, with titles if `movies.dat` is beside it.

    >>> from ouzel.data.samples import movietweetings
    >>> raw = read_movielens_dat(movietweetings() / "ratings.dat.gz")  # the same layout
    >>> raw.recognised, raw.value_range
    ('MovieLens ratings.dat.gz', (0.5, 5.0))
    """
    table, problems, num_broken = read_ratings(path)
    return Raw(
        f"MovieLens {path.name}",
        table.lazy(),
        COLUMNS,
        default_event="rate",
        value_range=_RANGE,
        items=read_movies(path),
        problems=problems,
        num_broken=num_broken,
    )


def read_movielens_csv(path: Path) -> Raw:
    """Return the raw table of `ratings.csv`, with titles if `movies.csv` is beside it.

    >>> import tempfile
    >>> folder = tempfile.TemporaryDirectory()
    >>> path = Path(folder.name, "ratings.csv")
    >>> size = path.write_text("userId,movieId,rating,timestamp\\n7,9,2.5,1300000000\\n")
    >>> read_movielens_csv(path).recognised
    'MovieLens ratings.csv'
    >>> folder.cleanup()
    """
    raw = read_delimited(path)
    movies = beside(path, "movies.csv")
    items = None
    if movies is not None:
        columns = [pl.col("movieId").alias("item_id"), *ITEM_COLUMNS[1:]]
        items = pl.read_csv(movies, infer_schema=False).select(columns)
    recognised = f"MovieLens {path.name}"
    careful = raw.careful
    return replace(
        raw,
        recognised=recognised,
        value_range=_RANGE,
        items=items,
        careful=None
        if careful is None
        else lambda: replace(careful(), recognised=recognised, value_range=_RANGE, items=items),
    )


def read_movielens_100k(path: Path) -> Raw:
    """Return the raw table of `u.data`, with titles if `u.item` is beside it.

    >>> import tempfile
    >>> folder = tempfile.TemporaryDirectory()
    >>> path = Path(folder.name, "u.data")
    >>> size = path.write_text("7\\t9\\t3\\t900000000\\n")
    >>> read_movielens_100k(path).recognised
    'MovieLens 100K u.data'
    >>> folder.cleanup()
    """
    table = pl.scan_csv(
        path,
        separator="\t",
        has_header=False,
        new_columns=list(_100K_COLUMNS.values()),
        infer_schema=False,
    )
    return Raw(
        f"MovieLens 100K {path.name}",
        project(table, _100K_COLUMNS, first_line=1),
        _100K_COLUMNS,
        default_event="rate",
        value_range=_RANGE,
        items=_items_100k(path),
    )


def _items_100k(path: Path) -> pl.DataFrame | None:
    """Return the item table of 100K: genres are 19 flags there, named in `u.genre`."""
    movies, genres = beside(path, "u.item"), beside(path, "u.genre")
    if movies is None or genres is None:
        return None
    names = [line.split("|")[0] for line in read_text(genres).splitlines() if line]
    records = [line.split("|") for line in read_text(movies).splitlines() if line]
    rows = []
    for record in records:
        flags = zip(names, record[-len(names) :], strict=True)
        rows.append((record[0], record[1], "|".join(name for name, flag in flags if flag == "1")))
    return pl.DataFrame(rows, schema=dict.fromkeys(ITEM_COLUMNS, pl.String), orient="row")
