"""Our reader of the safetensors format against the library's own."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import safetensors
import safetensors.numpy
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from ouzel.bundle.tensors import read_tensors, write_tensors

DTYPES = st.sampled_from(
    ["f8", "f4", "f2", "i8", "u8", "i4", "u4", "i2", "u2", "i1", "u1", "?", ">f4", ">i8"]
)
ARRAYS = hnp.arrays(DTYPES, hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4))


@settings(max_examples=60, deadline=None)
@given(arrays=st.dictionaries(st.text(min_size=1, max_size=8), ARRAYS, max_size=4))
def test_both_readers_see_what_was_written(
    arrays: dict, tmp_path_factory: pytest.TempPathFactory
) -> None:
    arrays.pop("__metadata__", None)
    path = tmp_path_factory.mktemp("tensors") / "x.safetensors"
    write_tensors(path, arrays)
    ours, theirs = read_tensors(path), safetensors.numpy.load_file(path)
    assert ours.keys() == theirs.keys() == arrays.keys()
    for name, array in arrays.items():
        assert ours[name].dtype == theirs[name].dtype
        np.testing.assert_array_equal(ours[name], array)
        np.testing.assert_array_equal(theirs[name], array)


def test_the_arrays_are_views_and_cannot_be_written(tmp_path: Path) -> None:
    write_tensors(tmp_path / "x", {"a": np.zeros(4)})
    array = read_tensors(tmp_path / "x")["a"]
    assert not array.flags.owndata
    with pytest.raises(ValueError, match="read-only"):
        array[0] = 1.0


@pytest.mark.parametrize("damage", [b"", b"\xff" * 40, b"\x02" + b"\0" * 7 + b"[]"])
def test_what_is_no_safetensors_file_is_refused(tmp_path: Path, damage: bytes) -> None:
    (tmp_path / "x").write_bytes(damage)
    with pytest.raises(ValueError, match="x is no safetensors file"):
        read_tensors(tmp_path / "x")


def test_a_file_can_be_read_by_other_users(tmp_path) -> None:
    write_tensors(tmp_path / "x", {"a": np.ones(2)})
    assert (tmp_path / "x").stat().st_mode & 0o777 == 0o644


def test_a_full_disk_is_an_error_of_the_system(tmp_path, monkeypatch) -> None:
    def full(arrays, path):
        raise safetensors.SafetensorError("No space left on device")

    monkeypatch.setattr("safetensors.numpy.save_file", full)
    with pytest.raises(OSError, match="cannot be written: No space left"):
        write_tensors(tmp_path / "x", {"a": np.ones(2)})
