"""Files that survive a power cut: every write here is on the disk when it returns."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from pathlib import Path

from ouzel.bundle.manifest import FileDigest


def sync(path: Path) -> None:
    """Return once the content of a file, or the names in a folder, are on the disk.

    >>> sync(Path("."))
    """
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_file(path: Path, content: bytes | Callable[[Path], None]) -> FileDigest:
    """Return the digest of a file just written, from bytes or by a function that writes it.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     write_file(Path(folder) / "a", b"abc").size
    3
    """
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        content(path)
    sync(path)
    return digest_file(path)


def replace_file(path: Path, content: bytes) -> None:
    """Replace a file in one step: a reader sees the old content or the new, never a mixture.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     replace_file(Path(folder) / "a", b"new")
    ...     (Path(folder) / "a").read_bytes()
    b'new'
    """
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        write_file(beside, content)
        beside.replace(path)
        sync(path.parent)
    finally:
        beside.unlink(missing_ok=True)


def digest_file(path: Path) -> FileDigest:
    """Return the SHA-256 and the size in bytes of a file.

    >>> digest_file(Path(__file__)).size == Path(__file__).stat().st_size
    True
    """
    with path.open("rb") as stream:
        sha256 = hashlib.file_digest(stream, "sha256").hexdigest()
        return FileDigest(sha256, os.fstat(stream.fileno()).st_size)
