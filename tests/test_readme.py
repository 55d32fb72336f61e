"""Code in README.md and docs/ is executed, in order, in an empty folder per page.

A block that cannot run says why on the line before it: `<!-- not run: the reason -->`. It is then
a visible skip. A shell block runs if it consists of `ouzel` commands; any other needs a reason.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCK = re.compile(
    r"^(?:<!-- not run: (?P<reason>[^\n]+?) -->\n)?```(?P<language>\w+)\n(?P<code>.*?)^```$",
    re.MULTILINE | re.DOTALL,
)
SHELLS = {"sh", "bash", "shell", "console"}
SECONDS = 120


@dataclass(frozen=True)
class Block:
    """One fenced block of a page: where it is, what it holds, and why it is not run, if so."""

    page: str
    line: int
    language: str
    code: str
    reason: str | None

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"


def _blocks(page: str, text: str) -> list[Block]:
    return [
        Block(
            page,
            text[: found.start("code")].count("\n") + 1,
            found["language"],
            found["code"],
            found["reason"],
        )
        for found in BLOCK.finditer(text)
        if found["language"] in {"python", *SHELLS}
    ]


def _arguments(block: Block) -> list[str]:
    if block.language == "python":
        return [sys.executable, "-c", block.code]
    code = re.sub(r"^\$ ", "", block.code, flags=re.MULTILINE)
    commands = [line for line in code.replace("\\\n", " ").splitlines() if line.strip()]
    foreign = [line for line in commands if not line.startswith(("ouzel ", "#"))]
    if foreign:
        raise ValueError(
            f"{block}: {foreign[0]!r} is no ouzel command: give the block a reason not to run"
        )
    return ["bash", "-euc", code]


def _run(block: Block, folder: Path) -> None:
    programs = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        _arguments(block),
        cwd=folder,
        env=os.environ | {"PATH": programs},
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )
    assert done.returncode == 0, f"{block}\n{done.stdout}\n{done.stderr}"


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return {page.name: tmp_path_factory.mktemp(page.stem) for page in PAGES}


@pytest.mark.parametrize(
    "block",
    [block for page in PAGES for block in _blocks(page.name, page.read_text("utf-8"))],
    ids=str,
)
def test_the_block_runs(block: Block, folders: dict[str, Path]) -> None:
    if block.reason:
        pytest.skip(f"{block} is not run: {block.reason}")
    _run(block, folders[block.page])


def test_a_broken_block_is_seen(tmp_path: Path) -> None:
    text = "# Page\n\n```python\nassert 1 + 1 == 3\n```\n\n```sh\nouzel no-such-command\n```\n"
    blocks = _blocks("page", text)
    assert [str(block) for block in blocks] == ["page:4", "page:8"]
    for block in blocks:
        with pytest.raises(AssertionError, match="page:"):
            _run(block, tmp_path)


def test_blocks_of_a_page_run_in_one_folder_and_ouzel_is_found(tmp_path: Path) -> None:
    text = "```python\nopen('x', 'w').close()\n```\n```console\n$ ouzel --version\n```\n"
    for block in _blocks("page", text):
        _run(block, tmp_path)
    assert (tmp_path / "x").exists()


def test_a_reason_is_read_and_a_foreign_command_needs_one() -> None:
    text = "<!-- not run: takes an hour -->\n```sh\nmake demo\n```\n\n```sh\nrm -r x\n```\n"
    slow, foreign = _blocks("page", text)
    assert slow.reason == "takes an hour"
    with pytest.raises(ValueError, match="give the block a reason"):
        _arguments(foreign)
