"""Many short texts in few bytes: one UTF-8 buffer and two offsets a text."""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Iterable, Iterator, Sequence
from typing import NoReturn, overload

import numpy as np
from numpy.typing import NDArray


class TextColumn(Sequence[str]):
    """Texts by position, appended or replaced in place, without an object for each.

    A replaced text leaves its bytes behind until half of the buffer is such waste, then the
    buffer is written anew. Readers in other threads always see a whole old or new text.

    >>> column = TextColumn(["", "Fantômas"])
    >>> column.append("Heat"); column[1], len(column)
    ('Fantômas', 3)
    """

    def __init__(self, texts: Iterable[str] = ()) -> None:
        # One attribute, so that a reader in another thread sees both old or both new.
        self._store = (bytearray(), array("Q"))
        self._waste = 0
        self.extend(texts)

    def __len__(self) -> int:
        return len(self._store[1])

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> list[str]: ...
    def __getitem__(self, index: int | slice) -> str | list[str]:
        if isinstance(index, slice):
            return [self[position] for position in range(*index.indices(len(self)))]
        return self.raw(index).decode()

    def __iter__(self) -> Iterator[str]:
        return (self[position] for position in range(len(self)))

    def raw(self, index: int) -> bytes:
        """Return the UTF-8 bytes of the text at `index`."""
        buffer, spans = self._store
        start, size = divmod(spans[index], _SIZE)
        return bytes(buffer[start : start + size])

    def append(self, text: str) -> None:
        """Add one text at the end."""
        self._store[1].append(self._write(text))

    def extend(self, texts: Iterable[str]) -> None:
        """Add texts at the end, all or none of them."""
        added = list(texts)
        encoded = [text.encode() for text in added]
        sizes = np.fromiter(map(len, encoded), np.uint64, len(encoded))
        if len(sizes) and sizes.max() >= _SIZE:
            _refuse(added[int(sizes.argmax())])
        buffer, spans = self._store
        starts = np.uint64(len(buffer)) + np.cumsum(sizes) - sizes
        buffer += b"".join(encoded)
        packed = np.where(sizes > 0, starts * np.uint64(_SIZE) + sizes, np.uint64(0))
        spans.frombytes(packed.tobytes())

    def replace(self, index: int, text: str) -> None:
        """Put `text` at `index` in place of what is there."""
        buffer, spans = self._store
        self._waste += spans[index] % _SIZE
        spans[index] = self._write(text)
        if self._waste > max(_MIN_WASTE, len(buffer) // 2):
            self._compact()

    def resize(self, length: int) -> None:
        """Grow to `length` texts, the added ones empty."""
        missing = length - len(self)
        if missing > 0:
            self._store[1].extend(array("Q", bytes(8 * missing)))

    def digest(self, count: int) -> str:
        """Return the SHA-256 of the first `count` texts, lengths included (hex)."""
        spans = np.array(self._store[1][:count], np.uint64)
        sha = hashlib.sha256((spans % np.uint64(_SIZE)).astype("<u4").tobytes())
        if _in_order(spans):
            buffer, end = self._store[0], int((spans % np.uint64(_SIZE)).sum())
            sha.update(bytes(buffer[:end]))
            return sha.hexdigest()
        for start in range(0, count, _CHUNK):
            sha.update(b"".join(self.raw(i) for i in range(start, min(count, start + _CHUNK))))
        return sha.hexdigest()

    def _write(self, text: str) -> int:
        encoded = text.encode()
        if not encoded:
            return 0
        if len(encoded) >= _SIZE:
            _refuse(text)
        buffer = self._store[0]
        start = len(buffer)
        buffer += encoded
        return start * _SIZE + len(encoded)

    def _compact(self) -> None:
        texts = [self.raw(index) for index in range(len(self))]
        buffer, spans = bytearray(), array("Q")
        for text in texts:
            spans.append(len(buffer) * _SIZE + len(text) if text else 0)
            buffer += text
        self._store, self._waste = (buffer, spans), 0


def _in_order(spans: NDArray[np.uint64]) -> bool:
    """Return whether texts lie in the buffer one behind the other, from its beginning."""
    sizes = spans % np.uint64(_SIZE)
    starts = np.cumsum(sizes) - sizes
    return bool((spans // np.uint64(_SIZE) == starts)[sizes > 0].all())


def _refuse(text: str) -> NoReturn:
    size = len(text.encode())
    raise ValueError(f"text {text[:40]!r}... has {size} bytes: at most {_SIZE - 1}")


_SIZE = 1 << 20  # a span is start * 2^20 + size: texts under 1 MiB, buffers under 16 TiB
_CHUNK = 65_536
_MIN_WASTE = 1 << 20
