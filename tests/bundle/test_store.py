"""Promotion: only sound Bundles, in one step, and back again."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest

from ouzel.bundle import store as store_module
from ouzel.bundle.bundle import Bundle
from ouzel.bundle.store import BundleStore

Make = Callable[..., Bundle]


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> BundleStore:
    times = iter(range(1000))
    monkeypatch.setattr(store_module.clock, "now_ms", lambda: next(times))
    return BundleStore(tmp_path)


def test_promote_and_roll_back_step_by_step(make_bundle: Make, store: BundleStore) -> None:
    one, two, three = (make_bundle(seed=seed) for seed in (1, 2, 3))
    with pytest.raises(ValueError, match="run `ouzel train"):
        store.current()
    for bundle in (one, two, three):
        assert store.promote(bundle.digest) == bundle.path == store.current()
    assert store.rollback() == two.path == store.current()
    assert store.rollback() == one.path == store.current()
    with pytest.raises(ValueError, match="nothing to go back to"):
        store.rollback()
    store.promote(three.path.name)
    assert store.rollback() == one.path, "what was rolled back is not come back to"
    assert [(change.action, change.at_ms) for change in store.history()] == [
        ("promote", 0), ("promote", 1), ("promote", 2), ("rollback", 3), ("rollback", 4),
        ("promote", 5), ("rollback", 6),
    ]  # fmt: skip


def test_promoting_what_is_served_changes_nothing(make_bundle: Make, store: BundleStore) -> None:
    bundle = make_bundle()
    store.promote(bundle.digest)
    store.promote(bundle.digest)
    assert len(store.history()) == 1


def test_a_damaged_bundle_is_not_promoted(make_bundle: Make, store: BundleStore) -> None:
    good, bad = make_bundle(seed=1), make_bundle(seed=2)
    store.promote(good.digest)
    (bad.path / "encode.onnx").write_bytes(b"damaged")
    with pytest.raises(ValueError, match=r"encode\.onnx"):
        store.promote(bad.digest)
    assert store.current() == good.path
    assert len(store.history()) == 1


def test_a_damaged_bundle_is_not_rolled_back_to(make_bundle: Make, store: BundleStore) -> None:
    old, now = make_bundle(seed=1), make_bundle(seed=2)
    store.promote(old.digest)
    store.promote(now.digest)
    (old.path / "append.onnx").unlink()
    with pytest.raises(ValueError, match=r"append\.onnx is missing"):
        store.rollback()
    assert store.current() == now.path


@pytest.mark.parametrize("digest", ["../../etc", "", "0" * 15, "x" * 16, "/" * 16])
def test_a_name_that_is_no_digest_is_refused(store: BundleStore, digest: str) -> None:
    with pytest.raises(ValueError, match="is no bundle digest"):
        store.promote(digest)


def test_an_unknown_digest_and_a_wrong_tail_are_refused(
    make_bundle: Make, store: BundleStore
) -> None:
    bundle = make_bundle()
    with pytest.raises(ValueError, match=f"known are: {bundle.path.name}"):
        store.promote("0" * 64)
    with pytest.raises(ValueError, match="has digest"):
        store.promote(bundle.path.name + "0" * 48)


def test_a_crash_around_the_flip_leaves_a_served_bundle(
    make_bundle: Make, store: BundleStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two, three = (make_bundle(seed=seed) for seed in (1, 2, 3))
    store.promote(one.digest)
    store.promote(two.digest)
    real = store_module.replace_file

    def before(path: Path, content: bytes) -> None:
        raise OSError("planted before the flip")

    def after(path: Path, content: bytes) -> None:
        real(path, content)
        raise OSError("planted after the flip")

    with monkeypatch.context() as patch, pytest.raises(OSError, match="before"):
        patch.setattr(store_module, "replace_file", before)
        store.promote(three.digest)
    assert store.current() == two.path
    with monkeypatch.context() as patch, pytest.raises(OSError, match="after"):
        patch.setattr(store_module, "replace_file", after)
        store.promote(three.digest)
    assert store.current() == three.path
    assert len(store.history()) == 2
    with monkeypatch.context() as patch, pytest.raises(OSError, match="after"):
        patch.setattr(store_module, "replace_file", after)
        store.rollback()
    assert store.current() == two.path
    assert store.rollback() == one.path


def test_a_newer_or_damaged_store_is_refused(make_bundle: Make, store: BundleStore) -> None:
    bundle = make_bundle()
    store.promote(bundle.digest)
    with sqlite3.connect(store.home / "store.db") as connection:
        connection.execute("PRAGMA user_version = 2")
    connection.close()
    with pytest.raises(ValueError, match="schema version 2, this library reads up to 1"):
        store.history()
    (store.home / "store.db").write_bytes(b"not a database" * 100)
    with pytest.raises(ValueError, match="only the history of promotions"):
        store.rollback()
    assert store.current() == bundle.path


def test_a_log_that_is_missing_beside_a_promoted_bundle_is_told_of(tmp_path):
    store = BundleStore(tmp_path)
    store.check_log(tmp_path / "events.db")  # nothing was trained yet
    (tmp_path / "current").write_text("0123456789abcdef\n")
    with pytest.raises(ValueError, match=r"events\.db is missing, and the model of this home"):
        store.check_log(tmp_path / "events.db")
    (tmp_path / "events.db").touch()
    store.check_log(tmp_path / "events.db")
