"""What was chosen for a Bundle is stored whole, and never served damaged or for another one."""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np
import pytest

from ouzel.bundle.index import CHOICE, ChosenIndex, ChosenIndexes
from ouzel.bundle.manifest import IndexRecord

DIGEST = "0123456789abcdef" * 4
CODES = {"codes": np.arange(20, dtype=np.uint8)}


def choice(engine: str = "pq") -> ChosenIndex:
    recall = {"recall@10": 0.99, "recall@100": 0.97}
    return ChosenIndex(
        digest=DIGEST,
        record=IndexRecord(engine=engine, effort=128, recall=recall, num_queries=200),
        p50_ms=0.2,
        p99_ms=0.4,
        wanted_recall=0.98,
        wanted_p99_ms=3.0,
        k=10,
        codes_sha256=None,
    )


def stored(home: Path) -> Path:
    return home / "index" / DIGEST[:16]


def test_a_choice_comes_back_with_its_codes(tmp_path) -> None:
    indexes = ChosenIndexes(tmp_path)
    assert indexes.read(DIGEST) is None
    written = indexes.write(choice(), CODES)
    assert indexes.read(DIGEST) == written and written.record == choice().record
    tensors = indexes.tensors(written)
    assert tensors is not None and tensors["codes"].tolist() == list(range(20))
    assert indexes.read("f" * 64) is None


def test_another_choice_takes_the_place_of_the_first(tmp_path) -> None:
    indexes = ChosenIndexes(tmp_path)
    indexes.write(choice(), CODES)
    before = indexes.tensors(indexes.write(choice(), {"codes": np.ones(3, np.uint8)}))
    assert len(list(stored(tmp_path).iterdir())) == 2
    exact = indexes.write(choice("exact"), {})
    assert indexes.read(DIGEST) == exact and indexes.tensors(exact) is None
    assert [path.name for path in stored(tmp_path).iterdir()] == [CHOICE]
    assert before is not None and before["codes"].tolist() == [1, 1, 1]


@pytest.mark.parametrize("damage", ["byte", "cut", "gone"])
def test_damaged_codes_are_found(tmp_path, damage: str) -> None:
    indexes = ChosenIndexes(tmp_path)
    written = indexes.write(choice(), CODES)
    (path,) = stored(tmp_path).glob("*.safetensors")
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content if damage == "byte" else content[:-4])
    if damage == "gone":
        path.unlink()
    with pytest.raises(ValueError, match=r"missing or damaged: run `ouzel index .*`, or remove"):
        indexes.tensors(written)


def test_a_choice_that_is_damaged_or_for_another_model_is_refused(tmp_path) -> None:
    indexes = ChosenIndexes(tmp_path)
    written = indexes.write(choice(), {})
    path = stored(tmp_path) / CHOICE
    other = msgspec.structs.replace(written, digest=DIGEST[::-1])
    path.write_bytes(msgspec.json.encode(other))
    with pytest.raises(ValueError, match="another model"):
        indexes.read(DIGEST)
    path.write_bytes(b"{}")
    with pytest.raises(ValueError, match=r"choice.json is damaged .*: run `ouzel index"):
        indexes.read(DIGEST)
