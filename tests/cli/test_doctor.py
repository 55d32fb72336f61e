"""`ouzel doctor` finds each fault that is planted, and names the repair."""

from __future__ import annotations

import json
import socket
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from ouzel.bundle.bundle import Bundle, write_bundle
from ouzel.bundle.store import BundleStore
from ouzel.cli import doctor, machine, main
from ouzel.events.log_schema import open_writer
from tests.bundle.sample import FIELDS, GRAPHS, TENSORS


@pytest.fixture
def home(tmp_path: Path) -> Path:
    home = tmp_path / "home"
    _bundle(home)
    open_writer(home / "events.db", "FULL").close()
    return home


def _bundle(home: Path) -> Bundle:
    store = BundleStore(home)
    bundle = write_bundle(store.bundles, manifest_fields=FIELDS, tensors=TENSORS, graphs=GRAPHS)
    store.promote(bundle.digest)
    return bundle


def _findings(home: Path) -> dict[str, doctor.Finding]:
    return {finding.check: finding for finding in doctor.check_home(home)}


def _doctor(
    capsys: pytest.CaptureFixture[str], *arguments: str
) -> tuple[int, dict[str, dict[str, Any]]]:
    with pytest.raises(SystemExit) as leaving:
        main(["doctor", *arguments, "--json", "-"])
    rows = json.loads(capsys.readouterr().out)
    return int(leaving.value.code or 0), {row["check"]: row for row in rows}


def test_a_sound_home_passes(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, rows = _doctor(capsys, str(home))
    assert code == 0
    assert rows["bundle"]["status"] == rows["log"]["status"] == rows["served"]["status"] == "ok"
    assert {"cores", "cpu flags", "disk", "open files", "numpy", "python"} <= rows.keys()


def test_a_damaged_bundle_is_found(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (BundleStore(home).current() / "encode.onnx").write_bytes(b"x")
    code, rows = _doctor(capsys, str(home))
    assert code == 1
    assert "encode.onnx" in rows["bundle"]["found"]


def test_what_a_killed_writer_left_is_told(home: Path) -> None:
    (home / "bundles" / ".writing-abc").mkdir()
    findings = [finding for finding in doctor.check_home(home) if finding.check == "bundle"]
    assert [finding.status for finding in findings] == ["warn", "ok"]
    assert findings[0].remedy.startswith("rm -r ")


def test_a_home_without_log_or_model_is_broken(home: Path) -> None:
    (home / "events.db").unlink()
    (home / "current").unlink()
    findings = _findings(home)
    assert findings["log"].status == findings["served"].status == "broken"


def test_a_damaged_log_is_found(home: Path) -> None:
    with closing(open_writer(home / "events.db", "FULL")) as connection:
        connection.execute("INSERT INTO items VALUES (7, 'seven', '{}')")
    assert "item rows" in _findings(home)["log"].found
    (home / "events.db").write_bytes(b"no database" * 1000)
    assert "no readable event log" in _findings(home)["log"].found


def test_a_home_that_is_not_there_is_broken(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, rows = _doctor(capsys, str(tmp_path / "nowhere"))
    assert code == 1
    assert rows["home"]["status"] == rows["disk"]["status"] == "broken"


def test_a_taken_port_is_told_with_the_way_out(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        _, rows = _doctor(capsys, "--port", str(port))
    assert rows[f"port {port}"]["status"] == "warn"
    assert "--port 0" in rows[f"port {port}"]["remedy"]


def test_a_slow_disk_few_files_and_an_old_processor_are_told(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(machine, "fsync_ms", lambda _: (50.0, 90.0))
    monkeypatch.setattr(machine, "open_file_limit", lambda: 256)
    monkeypatch.setattr(machine, "cpu_flags", list)
    monkeypatch.setattr(doctor.ScanIndex, "works", lambda: False)
    found = {finding.check: finding for finding in doctor.check_machine(tmp_path, 0)}
    warned = ("disk", "open files", "cpu flags", "scan kernel")
    assert [found[check].status for check in warned] == ["warn"] * 4
    assert "AVX-512 VNNI" in found["scan kernel"].remedy


def test_a_missing_library_is_broken_for_serving_and_a_warning_for_training(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    installed = machine.versions()
    del installed["msgspec"], installed["torch"]
    monkeypatch.setattr(machine, "versions", lambda: installed)
    found = {finding.check: finding for finding in doctor.check_libraries()}
    assert found["msgspec"].status == "broken"
    assert found["torch"].status == "warn"
    assert "ouzel[train]" in found["torch"].remedy
