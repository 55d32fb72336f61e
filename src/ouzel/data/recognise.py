"""Which format a path is in: by its name first, then by its first lines."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from ouzel.data.aliases import plain
from ouzel.data.delimited import read_delimited
from ouzel.data.jsonl import read_jsonl
from ouzel.data.lines import first_lines
from ouzel.data.movielens import read_movielens_100k, read_movielens_csv, read_movielens_dat
from ouzel.data.movietweetings import is_movietweetings, read_movietweetings
from ouzel.data.parquet import read_parquet
from ouzel.data.raw import Raw
from ouzel.data.sequences import is_sequences, read_sequences

_FOLDER_NAMES = (
    *("events.parquet", "events.csv", "events.jsonl", "interactions.parquet", "interactions.csv"),
    *("ratings.dat", "ratings.csv", "u.data", "ratings.parquet", "sequences.txt"),
)
_SUFFIXES = (".parquet", ".csv", ".tsv", ".jsonl", ".ndjson", ".dat", ".data", ".txt", ".inter")
_MOVIELENS_CSV = ("userid", "movieid", "rating", "timestamp")
_SAMPLE = 100


def source_files(path: Path) -> list[Path]:
    """Return the file or files that hold the events of `path`, which may be a folder.

    A folder is searched for well-known names, then for Parquet parts, then for a single file.

    Raises: ValueError if there is nothing, or more than one thing, to read.

    >>> from ouzel.data.samples import movietweetings
    >>> [path.name for path in source_files(movietweetings())]
    ['ratings.dat.gz']
    """
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise ValueError(f"{path} does not exist: give a file or a folder of events")
    for name in _FOLDER_NAMES:
        for candidate in (path / name, path / f"{name}.gz"):
            if candidate.is_file():
                return [candidate]
    files = [file for file in sorted(path.iterdir()) if _suffix(file) in _SUFFIXES]
    parts = [file for file in files if file.suffix == ".parquet"]
    if parts and len(parts) == len(files):
        return parts
    if len(files) != 1:
        found = ", ".join(file.name for file in files) or "nothing"
        raise ValueError(
            f"{path} holds {found}: name the file of events, or call it one of"
            f" {', '.join(_FOLDER_NAMES)}"
        )
    return files


def raw_of(files: list[Path], columns: Mapping[str, str] | None) -> Raw:
    """Return the raw table of the files that `source_files` found.

    Raises: ValueError if the format is unknown, or has no columns to map.

    >>> from ouzel.data.samples import movietweetings
    >>> raw_of(source_files(movietweetings()), None).recognised
    'MovieTweetings ratings.dat.gz'
    """
    path = files[0]
    suffix = _suffix(path)
    if suffix == ".parquet":
        return read_parquet(files, columns)
    lines = first_lines(path, _SAMPLE)
    if suffix in (".jsonl", ".ndjson") or lines[0].startswith("{"):
        return read_jsonl(path, columns)
    fixed = None if columns else _fixed_layout(path, lines)
    return fixed or read_delimited(path, columns)


def _fixed_layout(path: Path, lines: list[str]) -> Raw | None:
    """Return the raw table of a layout that names its columns elsewhere, if it is one."""
    if "::" in lines[0]:
        return read_movietweetings(path) if is_movietweetings(lines) else read_movielens_dat(path)
    tabs = lines[0].split("\t")
    if len(tabs) == 4 and all(cell.isdecimal() for cell in tabs):
        return read_movielens_100k(path)
    if is_sequences(lines):
        return read_sequences(path, lines)
    if tuple(plain(name) for name in lines[0].split(",")) == _MOVIELENS_CSV:
        return read_movielens_csv(path)
    return None


def _suffix(path: Path) -> str:
    return Path(path.stem).suffix if path.suffix == ".gz" else path.suffix
