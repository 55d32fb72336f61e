"""`--map user_id=userID`: what a file calls the columns that Ouzel knows."""

from __future__ import annotations

from collections.abc import Sequence


def column_map(pairs: Sequence[str]) -> dict[str, str]:
    """Return `["user_id=userID"]` as `{"user_id": "userID"}`.

    Raises:
        ValueError: an entry is not of the form NAME=COLUMN, or repeats a name or a column.

    >>> column_map(["user_id=userID", "value=stars"])
    {'user_id': 'userID', 'value': 'stars'}
    """
    chosen: dict[str, str] = {}
    for pair in pairs:
        name, equals, column = pair.partition("=")
        if not (name and equals and column):
            raise ValueError(
                f"--map {pair!r}: write NAME=COLUMN, such as --map user_id=userID; "
                "repeat --map for more"
            )
        if name in chosen or column in chosen.values():
            raise ValueError(f"--map {pair!r}: each name and each column only once")
        chosen[name] = column
    return chosen
