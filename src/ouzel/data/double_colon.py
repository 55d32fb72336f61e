"""The `::` layout of GroupLens and MovieTweetings: ratings and movies, no header."""

from __future__ import annotations

from pathlib import Path

import polars as pl

from ouzel.data.lines import read_lines, read_text
from ouzel.data.raw import LINE
from ouzel.data.report import MAX_PROBLEMS, Problem

COLUMNS = {"user_id": "UserID", "item_id": "MovieID", "value": "Rating", "timestamp": "Timestamp"}
"""{canonical name: name in the data set's own documentation}, in the order of the fields."""


def read_ratings(path: Path) -> tuple[pl.DataFrame, tuple[Problem, ...], int]:
    """Return `user::item::rating::timestamp` lines as texts, and the lines that are none.

    The last two are the first problems, and how many there are.

    >>> from ouzel.data.samples import movietweetings
    >>> table, problems, num_broken = read_ratings(movietweetings() / "ratings.dat.gz")
    >>> table.row(0), num_broken
    ((1, '1', '1074638', '7', '1365029107'), 0)
    """
    lines = read_lines(path)
    whole = pl.col("text").str.count_matches("::", literal=True) == len(COLUMNS) - 1
    broken = lines.filter(~whole)
    fields = pl.col("text").str.split_exact("::", len(COLUMNS) - 1)
    table = lines.filter(whole).select(
        LINE, fields.struct.rename_fields(list(COLUMNS)).alias("fields")
    )
    remedy = "write user::item::rating::timestamp"
    problems = tuple(
        Problem(line, "line", text, "unparsable", remedy)
        for line, text in broken.head(MAX_PROBLEMS).iter_rows()
    )
    return table.unnest("fields"), problems, len(broken)


def read_movies(ratings: Path) -> pl.DataFrame | None:
    """Return item_id, title and genres from the `movies.dat` beside a ratings file, if any.

    >>> from ouzel.data.samples import movietweetings
    >>> movies = read_movies(movietweetings() / "ratings.dat.gz")
    >>> None if movies is None else movies.row(0)
    ('0002844', "Fantômas - À l'ombre de la guillotine (1913)", 'Crime|Drama')
    """
    path = beside(ratings, "movies.dat")
    if path is None:
        return None
    records = [line.split("::") for line in read_text(path).splitlines() if line]
    # A title may hold "::"; the id is first and the genres are last.
    rows = [(record[0], "::".join(record[1:-1]), record[-1]) for record in records]
    return pl.DataFrame(rows, schema=dict.fromkeys(ITEM_COLUMNS, pl.String), orient="row")


def read_users(ratings: Path) -> pl.DataFrame | None:
    """Return user_id, gender, age, occupation and zip from the `users.dat` beside ratings, if any.

    Raises:
        ValueError: a line of it has another number of fields.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     size = Path(folder, "users.dat").write_text("1::F::1::10::48067\\n")
    ...     users = read_users(Path(folder, "ratings.dat"))
    >>> None if users is None else users.row(0)
    ('1', 'F', '1', '10', '48067')
    """
    path = beside(ratings, "users.dat")
    if path is None:
        return None
    rows = [tuple(line.split("::")) for line in read_text(path).splitlines() if line]
    if wrong := [row for row in rows if len(row) != len(USER_COLUMNS)]:
        raise ValueError(
            f"{path.name} has the line {'::'.join(wrong[0])!r}: write {'::'.join(USER_COLUMNS)}"
        )
    return pl.DataFrame(rows, schema=dict.fromkeys(USER_COLUMNS, pl.String), orient="row")


USER_COLUMNS = ("user_id", "gender", "age", "occupation", "zip")
"""The columns of the user table of ML-1M."""

ITEM_COLUMNS = ("item_id", "title", "genres")
"""The columns of an item table."""


def beside(path: Path, name: str) -> Path | None:
    """Return the file `name` or `name.gz` in the folder of `path`, if there is one.

    >>> from ouzel.data.samples import movietweetings
    >>> found = beside(movietweetings() / "ratings.dat.gz", "movies.dat")
    >>> found and found.name
    'movies.dat.gz'
    """
    found = (path.with_name(name), path.with_name(f"{name}.gz"))
    return next((candidate for candidate in found if candidate.exists()), None)
