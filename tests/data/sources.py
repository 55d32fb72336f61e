"""Small sources in every format, made up here; and where the public data sets are, if at all."""

from __future__ import annotations

import gzip
import os
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DATA = Path(os.environ.get("OUZEL_DATA", ROOT / ".." / "shared" / "data"))


def public(name: str) -> Path:
    """Return the folder of a public data set, or skip the test that needs it."""
    folder = DATA / name
    if not folder.exists():
        pytest.skip(f"{name} is not at {DATA}: set OUZEL_DATA to a folder that holds it")
    return folder


def write(path: Path, text: str, *, encoding: str = "utf-8") -> Path:
    """Return `path` with `text` in it, gzipped if the name ends in .gz."""
    data = text.encode(encoding)
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return path
