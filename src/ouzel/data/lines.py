"""Text files as lines, plain or gzipped."""

from __future__ import annotations

import gzip
import io
from itertools import islice
from pathlib import Path
from typing import TextIO

import polars as pl

from ouzel.data.raw import LINE

_BLOCK = 1 << 20


def open_text(path: Path) -> TextIO:
    """Return the file as text, unzipped if its name ends in .gz; broken UTF-8 is kept apart.

    Closing the text closes the file.

    >>> from ouzel.data.samples import movietweetings
    >>> with open_text(movietweetings() / "ratings.dat.gz") as stream:
    ...     stream.readline()
    '1::1074638::7::1365029107\\n'
    """
    binary = gzip.open(path) if path.suffix == ".gz" else path.open("rb")  # noqa: SIM115
    return io.TextIOWrapper(binary, "utf-8-sig", errors="surrogateescape", newline="")


def first_lines(path: Path, count: int) -> list[str]:
    """Return up to `count` lines from the start of a text file.

    Raises: ValueError if the file is empty.

    >>> from ouzel.data.samples import movietweetings
    >>> len(first_lines(movietweetings() / "ratings.dat.gz", 3))
    3
    """
    with open_text(path) as stream:
        lines = [line.rstrip("\r\n") for line in islice(stream, count)]
    if not any(lines):
        raise ValueError(f"{path} is empty: give a file with at least one event")
    return lines


def first_line(path: Path) -> str:
    """Return the first line of a text file, see `first_lines`.

    >>> from ouzel.data.samples import movietweetings
    >>> first_line(movietweetings() / "ratings.dat.gz")
    '1::1074638::7::1365029107'
    """
    return first_lines(path, 1)[0]


def read_lines(path: Path) -> pl.DataFrame:
    """Return columns `line` (uint32, from 1) and `text`; blank lines are left out.

    Raises: ValueError if a line has the control character U+0001.

    >>> from ouzel.data.samples import movietweetings
    >>> read_lines(movietweetings() / "ratings.dat.gz").row(0)
    (1, '1::1074638::7::1365029107')
    """
    try:
        table = pl.read_csv(
            path,
            has_header=False,
            new_columns=["text"],
            separator="\x01",
            quote_char=None,
            encoding="utf8-lossy",
            infer_schema=False,
        )
    except pl.exceptions.ComputeError as error:
        raise ValueError(f"{path} is not a text file of events ({error})") from error
    text = pl.col("text").str.strip_chars_end("\r")
    return table.with_row_index(LINE, 1).with_columns(text).filter(pl.col("text") != "")


def has_plain_lines(path: Path, count: int) -> bool:
    """Return whether a text file has `count` lines, none of them blank.

    >>> from ouzel.data.samples import movietweetings
    >>> has_plain_lines(movietweetings() / "ratings.dat.gz", 100_000)
    True
    """
    ends, tail = 0, b"\n"
    with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as stream:
        while block := stream.read(_BLOCK):
            ends += block.count(b"\n")
            joined = tail + block
            if b"\n\n" in joined or b"\n\r\n" in joined:
                return False
            tail = joined[-2:]
    return ends + (not tail.endswith(b"\n")) == count


def read_text(path: Path) -> str:
    """Return a whole text file, as UTF-8 if it is that and else as ISO-8859-1.

    The oldest public data sets are in the latter.

    >>> from ouzel.data.samples import movietweetings
    >>> read_text(movietweetings() / "movies.dat.gz").splitlines()[1]
    '0004936::The Bank (1915)::Comedy|Short'
    """
    binary = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    try:
        return binary.decode("utf-8-sig")
    except UnicodeDecodeError:
        return binary.decode("iso-8859-1")
