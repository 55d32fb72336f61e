"""How the items of a Bundle are searched: what was measured with it, and what was chosen here.

A Bundle's manifest holds an `IndexRecord`: the automatic choice and its recall when it was made.
What `ouzel index` chooses is true of one machine, and says nothing of the model; so it lies beside
the Bundle, in `DIR/index/<digest>/`, and a model that is promoted later starts without it. There
lie too the lists of a large catalogue, which take half a minute to build and a second to read.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from ouzel.bundle.files import digest_file, replace_file, write_file
from ouzel.bundle.manifest import FOLDER_DIGITS, IndexRecord
from ouzel.bundle.tensors import read_tensors, write_tensors

logger = logging.getLogger(__name__)

RECALL_KS = (10, 100)
"""The lengths of list whose recall is measured."""

CHOICE = "choice.json"
UNFINISHED = "unfinished.safetensors"
LISTS = "lists-"
UNFINISHED_LISTS = "unfinished-lists.safetensors"


class ChosenIndex(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What `ouzel index` chose for the Bundle `digest`, and for what target.

    Times are those of one query alone on the machine that measured them. `codes_sha256` is the
    digest of `codes-<its start>.safetensors`, None if the engine has nothing to store.
    """

    digest: str
    record: IndexRecord
    p50_ms: float
    p99_ms: float
    wanted_recall: float
    wanted_p99_ms: float
    k: int
    codes_sha256: str | None


class KeptLists:
    """What the automatic engine of one Bundle has built, so that a start need not build it."""

    def __init__(self, home: Path, digest: str) -> None:
        self._folder = home / "index" / digest[:FOLDER_DIGITS]

    def write(self, tensors: Mapping[str, NDArray[Any]]) -> None:
        """Keep `tensors` in place of any before.

        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     kept = KeptLists(Path(folder), "0a1b")
        ...     kept.write({"starts": np.arange(3)})
        ...     kept.read()["starts"].tolist(), KeptLists(Path(folder), "2c3d").read()
        ([0, 1, 2], None)
        """
        self._folder.mkdir(parents=True, exist_ok=True)
        earlier = self._found()
        unfinished = self._folder / UNFINISHED_LISTS
        sha256 = write_file(unfinished, partial(write_tensors, arrays=tensors)).sha256
        made = self._folder / f"{LISTS}{sha256[:FOLDER_DIGITS]}.safetensors"
        unfinished.replace(made)
        for path in earlier:
            if path != made:
                path.unlink()

    def read(self) -> dict[str, NDArray[np.generic]] | None:
        """Return what was kept; None if nothing was, or it is damaged and to be built anew."""
        for path in self._found():
            try:
                if path.stem == f"{LISTS}{digest_file(path).sha256[:FOLDER_DIGITS]}":
                    return read_tensors(path)
            except OSError:
                continue  # Replaced by another process meanwhile, or not for us to read.
        return None

    def keep(self, tensors: Mapping[str, NDArray[Any]]) -> bool:
        """Keep `tensors` if there is room; return whether they are: the next start can do without.

        >>> KeptLists(Path("/dev/null"), "0a1b").keep({"starts": np.arange(3)})
        False
        """
        try:
            self.write(tensors)
        except OSError as error:
            logger.warning("what was built to search items is not kept: %s", error)
            return False
        return True

    def _found(self) -> list[Path]:
        return sorted(self._folder.glob(f"{LISTS}*.safetensors"))


class ChosenIndexes:
    """The choices of one home folder, at most one for each Bundle."""

    def __init__(self, home: Path) -> None:
        self._root = home / "index"

    def write(self, chosen: ChosenIndex, tensors: Mapping[str, NDArray[Any]]) -> ChosenIndex:
        """Return the choice as it is stored with what its engine built, in place of any before.

        >>> import tempfile
        >>> record = IndexRecord(engine="exact", effort=0, recall={"recall@10": 1}, num_queries=9)
        >>> chosen = ChosenIndex(digest="0a1b", record=record, p50_ms=1, p99_ms=2, k=10,
        ...                      wanted_recall=0.9, wanted_p99_ms=3, codes_sha256=None)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     indexes = ChosenIndexes(Path(folder))
        ...     _ = indexes.write(chosen, {})
        ...     indexes.read("0a1b") == chosen
        True
        """
        folder = self._folder(chosen.digest)
        folder.mkdir(parents=True, exist_ok=True)
        sha256 = None
        if tensors:
            unfinished = folder / UNFINISHED
            sha256 = write_file(unfinished, partial(write_tensors, arrays=tensors)).sha256
            unfinished.replace(self._codes(chosen.digest, sha256))
        chosen = msgspec.structs.replace(chosen, codes_sha256=sha256)
        text = msgspec.json.format(msgspec.json.encode(chosen), indent=2) + b"\n"
        replace_file(folder / CHOICE, text)
        for path in folder.glob("codes-*.safetensors"):
            if sha256 is None or path != self._codes(chosen.digest, sha256):
                path.unlink()
        return chosen

    def read(self, digest: str) -> ChosenIndex | None:
        """Return what was chosen for a Bundle, None if nothing was.

        Raises:
            ValueError: the file is damaged, or of a newer library.
        """
        path = self._folder(digest) / CHOICE
        if not path.is_file():
            return None
        try:
            chosen = msgspec.json.decode(path.read_bytes(), type=ChosenIndex)
        except msgspec.DecodeError as error:
            raise ValueError(f"{path} is damaged ({error}): {self._remedy(path)}") from None
        if chosen.digest != digest:
            raise ValueError(f"{path} is for another model: {self._remedy(path)}")
        return chosen

    def tensors(self, chosen: ChosenIndex) -> dict[str, NDArray[np.generic]] | None:
        """Return what the engine of a choice stored, None if it has nothing to store.

        Raises:
            ValueError: the file is missing or damaged.
        """
        if chosen.codes_sha256 is None:
            return None
        path = self._codes(chosen.digest, chosen.codes_sha256)
        if not path.is_file() or digest_file(path).sha256 != chosen.codes_sha256:
            raise ValueError(f"{path} is missing or damaged: {self._remedy(path)}")
        return read_tensors(path)

    def remedy(self, digest: str) -> str:
        """Return what to do where a choice cannot be used."""
        return self._remedy(self._folder(digest) / CHOICE)

    def _folder(self, digest: str) -> Path:
        return self._root / digest[:FOLDER_DIGITS]

    def _codes(self, digest: str, sha256: str) -> Path:
        return self._folder(digest) / f"codes-{sha256[:FOLDER_DIGITS]}.safetensors"

    def _remedy(self, path: Path) -> str:
        return f"run `ouzel index {self._root.parent}`, or remove {path.parent}"
