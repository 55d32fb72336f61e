"""The import contracts hold, and each of them sees the import that it forbids."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
CONTRACTS = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"][
    "contracts"
]
FORBIDDEN = [
    ("layers", {"bundle/files.py": "import ouzel.inference"}),
    ("layers", {"models/protocols.py": "import ouzel.evaluation"}),
    ("layers", {"surprise/__init__.py": ""}),
    ("serving-wall", {"ranking/__init__.py": "import torch"}),
    ("serving-wall", {"retrieval/__init__.py": "def late():\n    import ouzel.training"}),
    ("serving-light", {"serving/__init__.py": "import ouzel.data"}),
    (
        "serving-light",
        {"serving/__init__.py": "import ouzel.ranking", "ranking/__init__.py": "import ouzel.data"},
    ),
    ("models-low", {"models/protocols.py": "import ouzel.bundle"}),
    ("training-through-evaluation", {"training/__init__.py": "import ouzel.retrieval"}),
    ("serving-closed", {"compression/__init__.py": "import ouzel.serving"}),
]
"""A contract, and the lines that break it, by the file they are planted in."""


def _lint(source: Path, contract: str | None = None) -> subprocess.CompletedProcess[str]:
    only = [] if contract is None else ["--contract", contract]
    config = ["--config", str(ROOT / "pyproject.toml"), "--no-cache"]
    return subprocess.run(
        [Path(sys.executable).with_name("lint-imports"), *config, *only],
        cwd=source,
        env=os.environ | {"PYTHONPATH": str(source)},
        capture_output=True,
        text=True,
        check=False,
    )


def test_every_contract_is_kept() -> None:
    done = _lint(ROOT / "src")
    assert done.returncode == 0, done.stdout


def test_every_contract_has_a_planted_fault() -> None:
    assert {contract["id"] for contract in CONTRACTS} == {name for name, _ in FORBIDDEN}


@pytest.mark.parametrize(("contract", "lines"), FORBIDDEN)
def test_a_forbidden_import_is_seen(contract: str, lines: dict[str, str], tmp_path: Path) -> None:
    shutil.copytree(ROOT / "src", tmp_path / "src", ignore=shutil.ignore_patterns("__pycache__"))
    for file, line in lines.items():
        module = tmp_path / "src" / "ouzel" / file
        module.parent.mkdir(exist_ok=True)
        with module.open("a") as stream:
            stream.write(f"\n{line}\n")
    done = _lint(tmp_path / "src", contract)
    assert done.returncode == 1, done.stdout
    assert "1 broken" in done.stdout
