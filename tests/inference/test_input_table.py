"""An input side kept as lengths serves what the whole table does, in half the memory."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from ouzel.bundle.bundle import load_bundle
from ouzel.bundle.store import BundleStore
from ouzel.events.interactions import History
from ouzel.features.batches import pad_histories
from ouzel.inference.input_table import InputTable, input_tensors
from ouzel.inference.onnxruntime import Graphs
from tests.serving.real_home import write_home
from tests.tiny import NUM_ROWS, tiny_files, tiny_graphs


def halves() -> tuple[np.ndarray, InputTable]:
    whole_ND = tiny_graphs().table.whole().copy()
    whole_ND[0] = 0  # nothing reads padding
    vectors_ND = tiny_graphs().item(np.arange(NUM_ROWS))
    return whole_ND, InputTable(vectors_ND, input_tensors(whole_ND, vectors_ND)["lengths"])


def test_rows_are_read_as_they_were() -> None:
    whole_ND, table = halves()
    rows_BL = np.array([[3, 1, 0], [3, NUM_ROWS - 1, 2]])
    part, places_BL = table.read(rows_BL)
    np.testing.assert_allclose(part[places_BL], whole_ND[rows_BL], rtol=1e-6, atol=1e-9)
    assert not part[0].any()
    np.testing.assert_allclose(table.whole(), whole_ND, rtol=1e-6, atol=1e-9)


def test_an_encode_and_an_append_are_the_same() -> None:
    _, table = halves()
    of_whole, of_lengths = Graphs(tiny_files(), halves()[0]), Graphs(tiny_files(), table)
    long = History(np.array([1, 2, 3], np.int32), np.array([10, 20, 30]))
    histories, start_B = pad_histories([long, long.last(1)]), np.zeros(2, np.int64)
    pairs = zip(
        of_whole.encode(histories, start_B), of_lengths.encode(histories, start_B), strict=True
    )
    for one, other in pairs:
        np.testing.assert_allclose(one, other, atol=1e-5)


def test_a_row_that_is_not_there_is_refused() -> None:
    _, table = halves()
    with pytest.raises(ValueError, match="not in the table of items"):
        table.read(np.array([NUM_ROWS]))


def test_a_bundle_has_the_lengths_and_one_mapping_serves_all(tmp_path: Path) -> None:
    write_home(tmp_path)
    bundle = load_bundle(BundleStore(tmp_path).current())
    assert set(bundle.tensors("inputs")) == {"lengths"}
    held = bundle.tensors("items")["vectors"]
    assert bundle.tensors("items")["vectors"] is held
    assert np.shares_memory(InputTable.of(bundle)._rows_ND, held)
