"""Folds that a data set comes with: NAME.base to train on and NAME.test, as in MovieLens 100K."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray

from ouzel.data.encode import encode
from ouzel.data.read import read
from ouzel.events.interactions import Interactions


def given_folds(
    folder: Path, *, names: str = "u[0-9]"
) -> list[tuple[str, Interactions, NDArray[np.bool_]]]:
    """Return name, interactions and a mask (E,) of the test part for each fold of a folder.

    Files may be gzipped; `names` is a pattern of those of the folds.

    Raises:
        ValueError: there are no folds, or one lacks its test part.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as place:
    ...     size = Path(place, "u1.base").write_text("7\\t9\\t3\\t900000000\\n")
    ...     size = Path(place, "u1.test").write_text("7\\t8\\t4\\t900000001\\n")
    ...     [(name, _, test_E)] = given_folds(Path(place))
    >>> name, test_E.tolist()
    ('u1', [False, True])
    """
    bases = sorted([*folder.glob(f"{names}.base"), *folder.glob(f"{names}.base.gz")])
    if not bases:
        raise ValueError(
            f"{folder} has no folds: put u1.base, u1.test, u2.base, ... there, or have 5-fold drawn"
        )
    folds = []
    for base in bases:
        test = base.with_name(base.name.replace(".base", ".test"))
        if not test.is_file():
            raise ValueError(f"{base} has no {test.name} beside it: add it")
        parts = [read(base).frame, read(test).frame]
        marks = [pl.lit(0.0), pl.lit(1.0)]
        marked = [part.with_columns(value=mark) for part, mark in zip(parts, marks, strict=True)]
        is_test = encode(pl.concat(marked)).interactions.values_E == 1
        name = base.name.partition(".")[0]
        folds.append((name, encode(pl.concat(parts)).interactions, is_test))
    return folds
