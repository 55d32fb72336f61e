"""Every kind of damage is planted and must be named when the Bundle is loaded."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np
import pytest

import ouzel.bundle.bundle as bundle_module
from ouzel.bundle import files
from ouzel.bundle.bundle import Bundle, load_bundle, write_bundle
from ouzel.bundle.manifest import FOLDER_DIGITS, FORMAT_VERSION, digest_of
from tests.bundle.sample import FIELDS, GRAPHS, TENSORS

FILES = ["manifest.json", "items.safetensors", "encode.onnx", "append.onnx"]
Make = Callable[..., Bundle]


def test_what_is_written_is_what_is_read(make_bundle: Make) -> None:
    bundle = load_bundle(make_bundle().path)
    assert np.array_equal(bundle.tensors("items")["vectors_ND"], TENSORS["items"]["vectors_ND"])
    assert bundle.graph("encode").read_bytes() == GRAPHS["encode"]
    assert bundle.manifest.data.num_events == 9
    assert bundle.manifest.graphs["encode"].outputs == {"vector_BD": ["B", 4]}
    assert bundle.path.name == bundle.digest[:16]
    assert bundle.version == f"{bundle.digest[:16]}+0"
    assert sorted(path.name for path in bundle.path.iterdir()) == sorted(FILES)


@pytest.mark.skipif(not Path("/proc/self/smaps").exists(), reason="memory is told by Linux")
def test_arrays_that_rest_take_no_memory_and_stay_what_they_are(tmp_path: Path) -> None:
    def resident_kb() -> int:
        lines = iter(Path("/proc/self/smaps").read_text().splitlines())
        told = 0
        for line in lines:
            if line.endswith("many.safetensors"):
                told += next(int(each.split()[1]) for each in lines if each.startswith("Rss:"))
        return told

    array_N = np.arange(1 << 20, dtype=np.float32)
    tensors = {"many": {"array_N": array_N}}
    bundle = write_bundle(tmp_path, manifest_fields=FIELDS, tensors=tensors, graphs={})
    held_N = bundle.tensors("many")["array_N"]
    assert held_N.sum() > 0 and resident_kb() >= 4096
    bundle.rest("others")
    assert resident_kb() >= 4096
    bundle.rest("many")
    assert resident_kb() < 512
    assert np.array_equal(held_N, array_N)


def test_the_digest_is_that_of_the_content(make_bundle: Make) -> None:
    assert make_bundle().digest == make_bundle().digest
    assert make_bundle(seed=8).digest != make_bundle().digest
    manifest = make_bundle().path / "manifest.json"
    assert digest_of(manifest.read_bytes()) == make_bundle().digest


def test_a_transposed_array_and_a_numpy_scalar_keep_their_values(tmp_path: Path) -> None:
    array_NM = np.arange(6, dtype=np.float32).reshape(2, 3).T
    bundle = write_bundle(
        tmp_path,
        manifest_fields=FIELDS | {"config": {"dim": np.int64(4)}},
        tensors={"x": {"array_NM": array_NM, "scalar": np.float64(3.0)}},
        graphs={},
    )
    assert np.array_equal(bundle.tensors("x")["array_NM"], array_NM)
    assert bundle.tensors("x")["scalar"].shape == ()
    assert bundle.manifest.config == {"dim": 4}


def test_asking_for_what_is_not_there_lists_what_is(make_bundle: Make) -> None:
    with pytest.raises(ValueError, match=r"no score\.onnx, only append\.onnx, encode\.onnx"):
        make_bundle().graph("score")


@pytest.mark.parametrize("name", FILES)
def test_one_flipped_bit_anywhere_is_found(make_bundle: Make, name: str) -> None:
    file = make_bundle().path / name
    whole = file.read_bytes()
    for place in range(0, len(whole), max(1, len(whole) // 25)):
        file.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        with pytest.raises(ValueError, match=name):
            load_bundle(file.parent)
    file.write_bytes(whole)
    load_bundle(file.parent)


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("kept", [0, 1, -1])
def test_a_truncated_file_is_found(make_bundle: Make, name: str, kept: int) -> None:
    file = make_bundle().path / name
    file.write_bytes(file.read_bytes()[:kept])
    with pytest.raises(ValueError, match=rf"{name}.* (again|bytes)"):
        load_bundle(file.parent)


@pytest.mark.parametrize("name", FILES)
def test_a_missing_file_is_found(make_bundle: Make, name: str) -> None:
    file = make_bundle().path / name
    file.unlink()
    with pytest.raises(ValueError, match=name):
        load_bundle(file.parent)


def test_an_extra_file_or_folder_is_found(make_bundle: Make) -> None:
    path = make_bundle().path
    (path / "extra.pkl").write_bytes(b"x")
    with pytest.raises(ValueError, match=r"extra\.pkl is not part of the bundle"):
        load_bundle(path)
    (path / "extra.pkl").unlink()
    (path / "folder").mkdir()
    with pytest.raises(ValueError, match="folder is not part of the bundle"):
        load_bundle(path)


@pytest.mark.parametrize("name", FILES)
def test_a_link_is_refused_even_to_the_same_bytes(
    make_bundle: Make, name: str, tmp_path: Path
) -> None:
    file = make_bundle().path / name
    elsewhere = tmp_path / name
    file.rename(elsewhere)
    file.symlink_to(elsewhere)
    with pytest.raises(ValueError, match=name):
        load_bundle(file.parent)


def test_a_newer_format_is_refused_before_anything_else(make_bundle: Make) -> None:
    path = make_bundle().path
    fields = msgspec.json.decode((path / "manifest.json").read_bytes())
    fields |= {"format_version": FORMAT_VERSION + 1, "a_field_of_the_future": True}
    (path / "manifest.json").write_bytes(msgspec.json.encode(fields))
    with pytest.raises(ValueError, match=r"this library reads up to \d: upgrade"):
        load_bundle(path)


def test_an_edited_manifest_and_a_renamed_folder_are_found(make_bundle: Make) -> None:
    path = make_bundle().path
    renamed = path.rename(path.with_name("0" * 16))
    with pytest.raises(ValueError, match="edited or the folder renamed"):
        load_bundle(renamed)
    path = renamed.rename(path)
    load_bundle(path)
    text = (path / "manifest.json").read_text()
    (path / "manifest.json").write_text(text.replace("0.25", "0.99"))
    with pytest.raises(ValueError, match="edited or the folder renamed"):
        load_bundle(path)


@pytest.mark.parametrize(
    ("replaced", "message"),
    [
        ({"seed": "seven"}, "seed"),
        ({"colour": "red"}, "colour"),
        ({"error_bounds": {"append": float("nan")}}, r"error_bounds\.append is nan"),
        ({"metrics": [{"ndcg@10": float("inf")}]}, r"metrics\[0\]\.ndcg@10 is inf"),
        ({"config": {"device": object()}}, "object"),
    ],
)
def test_a_bad_field_is_refused_and_leaves_nothing(
    make_bundle: Make, tmp_path: Path, replaced: dict, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        make_bundle(**replaced)
    assert list((tmp_path / "bundles").iterdir()) == []


@pytest.mark.parametrize("name", ["../out", "a/b", "", ".hidden", "Upper"])
def test_a_name_cannot_lead_out_of_the_folder(tmp_path: Path, name: str) -> None:
    with pytest.raises(ValueError, match="cannot name a file"):
        write_bundle(tmp_path, manifest_fields=FIELDS, tensors={}, graphs={name: b""})


def test_writing_the_same_again_repairs_a_damaged_bundle(make_bundle: Make) -> None:
    path = make_bundle().path
    (path / "encode.onnx").write_bytes(b"damaged")
    with pytest.raises(ValueError, match=r"encode\.onnx"):
        load_bundle(path)
    assert make_bundle().path == path
    load_bundle(path)
    assert list(path.parent.iterdir()) == [path]


def _break_at(monkeypatch: pytest.MonkeyPatch, step: int) -> list[str]:
    """Let the file system fail at its n-th operation; return the list that counts them."""
    steps: list[str] = []

    def failing(target: object, name: str) -> None:
        real = getattr(target, name)

        def operation(*arguments: object, **named: object) -> object:
            if len(steps) == step:
                raise OSError(28, f"planted at {name}")
            steps.append(name)
            return real(*arguments, **named)

        monkeypatch.setattr(target, name, operation)

    for target, name in [
        (os, "fsync"),
        (Path, "write_bytes"),
        (Path, "rename"),
        (Path, "chmod"),
        (files, "digest_file"),
        (bundle_module, "write_tensors"),
    ]:
        failing(target, name)
    return steps


def test_a_crash_at_any_step_leaves_no_visible_bundle(
    make_bundle: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        steps = _break_at(patch, step=10_000)
        reference = make_bundle()
    total = len(steps)
    rename = steps.index("rename")
    assert steps.count("fsync") == len(FILES) + 2, "every file, the folder and the one around it"
    assert steps[rename - 1] == "fsync", "the folder is on the disk before it is visible"
    assert steps[-1] == "fsync", "the rename is on the disk before the call returns"
    for file in reference.path.iterdir():
        file.unlink()
    reference.path.rmdir()
    for step in range(total):
        with monkeypatch.context() as patch, pytest.raises(OSError, match="planted"):
            _break_at(patch, step)
            make_bundle()
        visible = list((tmp_path / "bundles").iterdir())
        assert visible == ([] if step <= rename else [reference.path])
    load_bundle(reference.path)


def test_a_killed_writer_leaves_only_an_unfinished_folder(
    make_bundle: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch, pytest.raises(OSError, match="planted"):
        patch.setattr(bundle_module.shutil, "rmtree", lambda *_, **__: None)
        _break_at(patch, step=6)
        make_bundle()
    assert [path.name[:9] for path in (tmp_path / "bundles").iterdir()] == [".writing-"]
    load_bundle(make_bundle().path)


def test_a_bundle_of_the_first_format_is_read(make_bundle: Make) -> None:
    path = make_bundle().path
    fields = msgspec.json.decode((path / "manifest.json").read_bytes())
    del fields["states"], fields["kind"]
    text = msgspec.json.encode(fields | {"format_version": 1})
    (path / "manifest.json").write_bytes(text)
    older = load_bundle(path.rename(path.with_name(digest_of(text)[:FOLDER_DIGITS])))
    assert older.manifest.states is None
    assert older.manifest.kind == "sequence"
