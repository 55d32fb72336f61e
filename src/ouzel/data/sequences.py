"""Files without times, as the literature on sequences passes them on; file order is the order.

Two layouts, ids separated by blanks: `user item` a line (SASRec, BERT4Rec), and
`user item item ...` with a user's items on one line (S3-Rec).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import polars as pl

from ouzel.data.lines import read_lines
from ouzel.data.raw import LINE, Raw
from ouzel.data.report import MAX_PROBLEMS, Problem

_COLUMNS = {"user_id": "user", "item_id": "item"}


def is_sequences(lines: Sequence[str]) -> bool:
    """Return whether lines look like either layout: two numbers or more, and nothing else.

    >>> is_sequences(["1 7 9", "2 3"]), is_sequences(["user_id,item_id"])
    (True, False)
    """
    rows = [line.split() for line in lines if line.strip()]
    return all(len(row) > 1 and all(cell.isdecimal() for cell in row) for row in rows)


def read_sequences(path: Path, sample: Sequence[str]) -> Raw:
    """Return the raw table of such a file; `sample`, its first lines, tells the layout.

    `line` counts events, since a line may hold many.

    >>> import tempfile
    >>> folder = tempfile.TemporaryDirectory()
    >>> path = Path(folder.name, "sequences.txt")
    >>> size = path.write_text("1 7 9\\n")
    >>> read_sequences(path, ["1 7 9"]).table.collect().rows()
    [(1, '1', '7'), (2, '1', '9')]
    >>> folder.cleanup()
    """
    pairs = all(len(line.split()) == 2 for line in sample if line.strip())
    lines = read_lines(path).with_columns(cells=pl.col("text").str.extract_all(r"\S+"))
    count = pl.col("cells").list.len()
    whole = count == 2 if pairs else count > 1
    broken = lines.filter(~whole)
    events = (
        lines.filter(whole)
        .select(user_id=pl.col("cells").list.first(), item_id=pl.col("cells").list.slice(1))
        .explode("item_id")
        .with_row_index(LINE, 1)
    )
    layout = "user item" if pairs else "user item item ..."
    remedy = f"write {layout}, separated by blanks"
    return Raw(
        f"sequences {path.name} ({layout}; no times: file order)",
        events.lazy(),
        _COLUMNS,
        problems=tuple(
            Problem(line, "line", text, "unparsable", remedy)
            for line, text in broken.head(MAX_PROBLEMS).select(LINE, "text").iter_rows()
        ),
        num_broken=len(broken),
    )
