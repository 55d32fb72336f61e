"""Parquet files, one or a folder of parts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import polars as pl

from ouzel.data.aliases import default_event, describe, resolve
from ouzel.data.raw import Raw, project


def read_parquet(paths: Sequence[Path], columns: Mapping[str, str] | None = None) -> Raw:
    """Return the raw table of Parquet files with the same columns, in the order given.

    Raises: ValueError if there is no user or item column.

    >>> import tempfile
    >>> folder = tempfile.TemporaryDirectory()
    >>> path = Path(folder.name, "events.parquet")
    >>> pl.DataFrame({"user_id": ["u"], "item_id": [7]}).write_parquet(path)
    >>> read_parquet([path]).table.collect().rows()
    [(1, 'u', 7)]
    >>> folder.cleanup()
    """
    table = pl.scan_parquet(list(paths))
    chosen = resolve(table.collect_schema().names(), columns)
    more = f" and {len(paths) - 1} more" if len(paths) > 1 else ""
    return Raw(
        f"Parquet {paths[0].name}{more} ({describe(chosen)})",
        project(table, chosen, first_line=1),
        chosen,
        default_event=default_event(chosen),
    )
