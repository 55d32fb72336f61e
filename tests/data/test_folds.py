"""Folds that come with a data set, read as they are."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest

from ouzel.data.folds import given_folds


def write(folder: Path, **files: str) -> None:
    for name, text in files.items():
        (folder / name.replace("_", ".")).write_text(text)


def test_each_fold_has_its_train_and_its_test_part(tmp_path: Path) -> None:
    first, second = "1\t5\t3\t20\n2\t5\t1\t10\n", "1\t6\t4\t10\n"
    write(tmp_path, u1_base=first, u1_test=second, u2_test=first, ua_base=first)
    (tmp_path / "u2.base.gz").write_bytes(gzip.compress(second.encode()))
    (tmp_path / "u2.test").rename(tmp_path / "u2.test.gz")
    (tmp_path / "u2.test.gz").write_bytes(gzip.compress(first.encode()))
    (one, x, test_E), (two, y, other_E) = given_folds(tmp_path)
    assert (one, two) == ("u1", "u2")
    assert x.values_E[test_E].tolist() == [4.0] and x.values_E[~test_E].tolist() == [3.0, 1.0]
    assert y.values_E[other_E].tolist() == [3.0, 1.0] and y.values_E[~other_E].tolist() == [4.0]
    assert x.num_users == 2 and x.num_rows == 3


def test_folds_that_are_none_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"has no folds: put u1\.base, u1\.test"):
        given_folds(tmp_path)
    write(tmp_path, u1_base="1\t5\t3\t20\n")
    with pytest.raises(ValueError, match=r"u1\.base has no u1\.test beside it"):
        given_folds(tmp_path)
