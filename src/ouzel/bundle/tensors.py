"""Arrays in safetensors files: written whole, read as views of the mapped file.

`safetensors.numpy.load_file` copies every array to the heap (measured: 287 MiB resident for a
286 MiB file), and a server's processes should share one copy; so reading maps the file.
"""

from __future__ import annotations

import json
import mmap
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.numpy
from numpy.typing import NDArray

_DTYPES = {
    "F64": "<f8",
    "F32": "<f4",
    "F16": "<f2",
    "I64": "<i8",
    "U64": "<u8",
    "I32": "<i4",
    "U32": "<u4",
    "I16": "<i2",
    "U16": "<u2",
    "I8": "i1",
    "U8": "u1",
    "BOOL": "?",
}
_LENGTH_BYTES = 8

READABLE = 0o644


def write_tensors(path: Path, arrays: Mapping[str, NDArray[Any]]) -> None:
    """Write named arrays to a safetensors file.

    Raises:
        ValueError: an array holds something other than booleans, integers or floats.
        OSError: the file cannot be written, for want of room for one.

    >>> write_tensors(Path("x"), {"a": np.array(["text"])})
    Traceback (most recent call last):
    ...
    ValueError: tensor 'a' has dtype <U4: store booleans, integers or floats
    """
    # The format copies raw memory: a transposed view or other byte order would be scrambled.
    whole = {name: np.asarray(array, order="C") for name, array in arrays.items()}
    for name, array in whole.items():
        dtype = array.dtype.newbyteorder("<")
        if dtype not in [np.dtype(text) for text in _DTYPES.values()]:
            raise ValueError(
                f"tensor {name!r} has dtype {array.dtype}: store booleans, integers or floats"
            )
        whole[name] = array.astype(array.dtype.newbyteorder(sys.byteorder), copy=False)
    try:
        safetensors.numpy.save_file(whole, path)
    except safetensors.SafetensorError as error:
        raise OSError(f"{path} cannot be written: {error}") from None
    # The library writes for its own user alone; a server may run as another.
    path.chmod(READABLE)


def read_tensors(path: Path) -> dict[str, NDArray[Any]]:
    """Return the arrays of a safetensors file as read-only views of the mapped file.

    Raises:
        ValueError: the file is not in the format.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     write_tensors(Path(folder) / "x", {"a": np.eye(2, dtype=np.float32)})
    ...     read_tensors(Path(folder) / "x")["a"].tolist()
    [[1.0, 0.0], [0.0, 1.0]]
    """
    try:
        mapped = np.asarray(np.memmap(path, dtype=np.uint8, mode="r"))
        start = _LENGTH_BYTES + int.from_bytes(mapped[:_LENGTH_BYTES].tobytes(), "little")
        header = json.loads(mapped[_LENGTH_BYTES:start].tobytes())
        header.pop("__metadata__", None)
        return {name: _view(mapped[start:], entry) for name, entry in header.items()}
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        raise ValueError(f"{path} is no safetensors file: {error}") from None


def let_go(array: NDArray[Any]) -> None:
    """Let the system have the memory of a file back that an array of `read_tensors` is a view of.

    What is read of it again is read from the file again, or from what the system kept of it.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     write_tensors(Path(folder) / "x", {"a": np.eye(2, dtype=np.float32)})
    ...     array = read_tensors(Path(folder) / "x")["a"]
    ...     let_go(array)
    ...     array.tolist()
    [[1.0, 0.0], [0.0, 1.0]]
    """
    base: Any = array
    while isinstance(base, np.ndarray):
        base = base.base
    if isinstance(base, mmap.mmap) and hasattr(mmap, "MADV_DONTNEED"):
        base.madvise(mmap.MADV_DONTNEED)


def _view(data: NDArray[np.uint8], entry: dict[str, Any]) -> NDArray[Any]:
    first, last = entry["data_offsets"]
    return data[first:last].view(_DTYPES[entry["dtype"]]).reshape(entry["shape"])
