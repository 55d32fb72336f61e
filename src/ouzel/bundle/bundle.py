"""The artefact: one immutable folder, named by its digest, that serving runs from.

A folder holds `manifest.json`, one `NAME.safetensors` per group of tensors and one `NAME.onnx` per
graph, and nothing else. It appears whole or not at all, and loading checks every byte of it.
"""

from __future__ import annotations

import re
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any
from weakref import WeakValueDictionary

from numpy.typing import NDArray

from ouzel.bundle.files import digest_file, sync, write_file
from ouzel.bundle.manifest import (
    FOLDER_DIGITS,
    FileDigest,
    Manifest,
    build_manifest,
    decode_manifest,
    digest_of,
    encode_manifest,
)
from ouzel.bundle.tensors import let_go, read_tensors, write_tensors

MANIFEST = "manifest.json"
UNFINISHED = ".writing-"
"""Prefix of a folder that a writer has not finished; a crash leaves it behind, invisible."""

_NAME = re.compile(r"[a-z0-9][a-z0-9_]*")


@dataclass(frozen=True)
class Bundle:
    """A Bundle whose every byte was checked: `path` is its folder, `digest` 64 hex digits."""

    path: Path
    manifest: Manifest
    digest: str
    _held: WeakValueDictionary[tuple[str, str], NDArray[Any]] = field(
        default_factory=WeakValueDictionary, compare=False, repr=False
    )

    @property
    def version(self) -> str:
        """Return the served version: the folder name and the number of deltas applied."""
        return f"{self.digest[:FOLDER_DIGITS]}+0"

    def tensors(self, name: str) -> dict[str, NDArray[Any]]:
        """Return the arrays of `NAME.safetensors`: read-only views of the mapped file.

        Who asks while another holds an array gets that one, as each mapping counts as memory.

        Raises:
            ValueError: the Bundle has no such tensors; the message lists those it has.
        """
        arrays = read_tensors(self._file(name, ".safetensors"))
        return {key: self._held.setdefault((name, key), array) for key, array in arrays.items()}

    def rest(self, *names: str) -> None:
        """Say that arrays of these names, which stay what they are, will seldom be read again."""
        for (name, _), array in list(self._held.items()):
            if name in names:
                let_go(array)

    def graph(self, name: str) -> Path:
        """Return the path of `NAME.onnx`.

        Raises:
            ValueError: the Bundle has no such graph; the message lists those it has.
        """
        return self._file(name, ".onnx")

    def _file(self, name: str, suffix: str) -> Path:
        if name + suffix in self.manifest.files:
            return self.path / (name + suffix)
        there = sorted(file for file in self.manifest.files if file.endswith(suffix))
        raise ValueError(f"{self.path} has no {name}{suffix}, only {', '.join(there) or 'none'}")


def write_bundle(
    bundles: Path,
    *,
    manifest_fields: Mapping[str, Any],
    tensors: Mapping[str, Mapping[str, NDArray[Any]]],
    graphs: Mapping[str, bytes],
) -> Bundle:
    """Return a new Bundle in the folder `bundles`, complete and on the disk.

    `manifest_fields` are all fields of `Manifest` but `format_version` and `files`. The same
    content gives the same digest, and then the folder that is there already; if that is damaged,
    it is replaced.

    Raises:
        ValueError: a field, a name or a tensor cannot be stored; the message says which.

    >>> import tempfile
    >>> fields = dict(model="Popular", config={}, features={}, num_rows=3, catalogue_digest="c")
    >>> fields |= dict(metrics=[], graphs={}, error_bounds={}, versions={}, seed=1, parent=None)
    >>> data = {"digest": "d", "cut_off_ms": None, "num_events": 2, "num_users": 1}
    >>> import numpy as np
    >>> counts = {"count_N": np.array([0, 5, 2])}
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     bundle = write_bundle(Path(folder), manifest_fields=fields | {"data": data},
    ...                           tensors={"popular": counts}, graphs={})
    ...     load_bundle(bundle.path).tensors("popular")["count_N"].tolist()
    [0, 5, 2]
    """
    _check_names([*tensors, *graphs])
    bundles.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix=UNFINISHED, dir=bundles))
    try:
        files = _write_files(folder, tensors, graphs)
        text = encode_manifest(build_manifest(manifest_fields, files=files))
        write_file(folder / MANIFEST, text)
        # mkdtemp makes the folder private; a server may run as another user.
        folder.chmod(0o755)
        sync(folder)
        return _publish(folder, bundles / digest_of(text)[:FOLDER_DIGITS])
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def load_bundle(path: Path) -> Bundle:
    """Return the Bundle in a folder, after checking the digest of every file in it.

    Raises:
        ValueError: a file is missing, damaged, truncated or extra, the manifest was edited, or a
            newer library wrote it; the message names the file and what to do.

    >>> load_bundle(Path("no-such-folder"))
    Traceback (most recent call last):
    ...
    ValueError: no-such-folder has no manifest.json: it is not a bundle, or was copied in part
    """
    manifest_path = path / MANIFEST
    if manifest_path.is_symlink() or not manifest_path.is_file():
        raise ValueError(f"{path} has no {MANIFEST}: it is not a bundle, or was copied in part")
    text = manifest_path.read_bytes()
    try:
        manifest = decode_manifest(text)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    digest = digest_of(text)
    if path.resolve().name != digest[:FOLDER_DIGITS]:
        raise ValueError(
            f"{path}: {MANIFEST} has digest {digest[:FOLDER_DIGITS]}, which is not the folder's "
            f"name: it was edited or the folder renamed; copy the bundle again, or train again"
        )
    _check_files(path, manifest)
    return Bundle(path, manifest, digest)


def _check_names(names: list[str]) -> None:
    for name in names:
        if not _NAME.fullmatch(name):
            raise ValueError(f"{name!r} cannot name a file of a bundle: use a-z, 0-9 and _")


def _write_files(
    folder: Path,
    tensors: Mapping[str, Mapping[str, NDArray[Any]]],
    graphs: Mapping[str, bytes],
) -> dict[str, FileDigest]:
    files = {}
    for name, arrays in tensors.items():
        file = f"{name}.safetensors"
        files[file] = write_file(folder / file, partial(write_tensors, arrays=arrays))
    for name, graph in graphs.items():
        file = f"{name}.onnx"
        files[file] = write_file(folder / file, graph)
    return files


def _publish(folder: Path, final: Path) -> Bundle:
    """Return the Bundle under its final name; a damaged one that bears it is replaced."""
    damaged = folder.with_name(f"{folder.name}-damaged")
    try:
        if final.exists():
            return load_bundle(final)
    except ValueError:
        final.rename(damaged)
    folder.rename(final)
    sync(final.parent)
    shutil.rmtree(damaged, ignore_errors=True)
    return load_bundle(final)


def _check_files(path: Path, manifest: Manifest) -> None:
    remedy = "copy the bundle again, or train again"
    there = {entry.name for entry in path.iterdir()} - {MANIFEST}
    for name in sorted(there - manifest.files.keys()):
        raise ValueError(f"{path / name} is not part of the bundle: move it elsewhere")
    for name, expected in sorted(manifest.files.items()):
        file = path / name
        if file.is_symlink():
            raise ValueError(f"{file} is a link, a bundle holds plain files only: {remedy}")
        if not file.is_file():
            raise ValueError(f"{file} is missing: {remedy}")
        found = digest_file(file)
        if found.size != expected.size:
            raise ValueError(f"{file} has {found.size} bytes, not {expected.size}: {remedy}")
        if found.sha256 != expected.sha256:
            raise ValueError(f"{file} is damaged, its digest does not match: {remedy}")
