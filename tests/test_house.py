"""The rules of the house, applied to every file; each rule is shown a fault that it must see."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import ouzel
from tests import rules

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src" / "ouzel"
FILES = sorted(path.relative_to(SOURCE).as_posix() for path in SOURCE.rglob("*.py"))
LAUNCHERS = {"serving/app.py": ("torch", "polars"), "cli/serve.py": ("torch", "polars")}
WRITTEN = {".py", ".md", ".toml", ".json", ".yml", ".html", ".js", ".css", ".txt", ".cfg", ""}
# A path that only one machine has. Split, so that this file does not break its own rule.
MACHINE_PATHS = re.compile(r"/" + r"(?:root|work|Users|home/\w+)/|[A-Z]:\\Users")

Rule = Callable[[ast.Module, str, str], Iterator[str]]
RULES: dict[str, Rule] = {
    "unsafe loaders": lambda tree, text, path: rules.unsafe(tree),
    "wall clock": lambda tree, text, path: rules.wall_clock(tree, path),
    "engines": lambda tree, text, path: rules.engines(tree, path),
    "size": lambda tree, text, path: rules.too_large(tree, text),
    "names": lambda tree, text, path: rules.badly_named(tree, path),
    "examples": lambda tree, text, path: rules.without_example(tree),
}
COMMAND = re.compile(r"cli/(benchmarking/)?\w+\.py: command( has \d+ parameters)?")


def _broken(rule: str) -> list[str]:
    found = []
    for path in FILES:
        text = (SOURCE / path).read_text("utf-8")
        found += [f"{path}: {what}" for what in RULES[rule](ast.parse(text), text, path)]
    # The parameters of a command are its options; its docstring is its --help, and the example
    # stands beside it.
    return [what for what in found if not COMMAND.fullmatch(what)]


@pytest.mark.parametrize("rule", sorted(RULES))
def test_every_file_keeps_the_rule(rule: str) -> None:
    assert _broken(rule) == []


@pytest.mark.parametrize(
    ("rule", "planted"),
    [
        ("unsafe loaders", "def f():\n    import pickle"),
        ("unsafe loaders", "from marshal import loads"),
        ("unsafe loaders", "from torch import load"),
        ("unsafe loaders", "torch.load('x', weights_only=True)"),
        ("unsafe loaders", "yaml.load(text)"),
        ("unsafe loaders", "eval('1')"),
        ("unsafe loaders", "exec('1')"),
        ("unsafe loaders", "numpy.load('x', allow_pickle=True)"),
        ("wall clock", "import time\ntime.time()"),
        ("wall clock", "from time import time_ns as t\nt()"),
        ("wall clock", "import datetime\ndatetime.datetime.now()"),
        ("wall clock", "from datetime import datetime\nf = datetime.utcnow"),
        ("engines", "def f():\n    from onnxruntime import InferenceSession"),
        ("size", "\n" * 501),
        ("size", "def f():\n" + "    pass\n" * 60),
        ("size", "def f(a, b, c, d, *, e, f, g, h, i): pass"),
        ("names", "class NewThing: pass"),
        ("names", "def load_v2(): pass"),
        ("examples", 'def f():\n    """Return nothing."""'),
    ],
)
def test_the_rule_sees_a_planted_fault(rule: str, planted: str) -> None:
    assert list(RULES[rule](ast.parse(planted), planted, "serving/planted.py"))


@pytest.mark.parametrize(
    ("rule", "harmless"),
    [
        ("unsafe loaders", "model.eval()\nconnection.execute('x')\njson.load(f)"),
        ("wall clock", "import time\ntime.perf_counter()\nrow.time.time_ms"),
        ("size", "def f(self, a, b, c, d, *, e, f, g, h): pass"),
        ("names", "def renew(): pass\nclass Newest: pass"),
    ],
)
def test_the_rule_is_quiet_where_nothing_is_wrong(rule: str, harmless: str) -> None:
    assert not list(RULES[rule](ast.parse(harmless), harmless, "serving/planted.py"))


def _loaded_by(module: str, heavy: tuple[str, ...]) -> set[str]:
    program = f"import sys, {module}; print(*(set({heavy!r}) & sys.modules.keys()))"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    return set(done.stdout.split())


def test_importing_ouzel_is_light() -> None:
    assert _loaded_by("ouzel", ("torch", "polars", "onnxruntime", "numpy")) == set()
    assert _loaded_by("ouzel, numpy", ("numpy",)) == {"numpy"}


@pytest.mark.parametrize("path", LAUNCHERS)
def test_a_server_loads_neither_torch_nor_polars(path: str) -> None:
    module = "ouzel." + path.removesuffix(".py").replace("/", ".")
    assert _loaded_by(module, LAUNCHERS[path]) == set()


def test_no_path_of_one_machine_is_written_down() -> None:
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    ).stdout.splitlines()  # fmt: skip
    texts = [ROOT / name for name in listed if Path(name).suffix in WRITTEN]
    found = [
        f"{path.relative_to(ROOT)}: {match[0]}"
        for path in texts
        if path.is_file() and (match := MACHINE_PATHS.search(path.read_text("utf-8", "replace")))
    ]
    assert found == []
    assert MACHINE_PATHS.search("see /" + "root/x") and MACHINE_PATHS.search("C:\\" + "Users\\x")


def test_the_changelog_begins_with_this_version() -> None:
    versions = re.findall(r"^## \[?(\d+\.\d+\.\d+)", (ROOT / "CHANGELOG.md").read_text(), re.M)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert versions[0] == ouzel.__version__ == project["version"]


def test_doctests_are_part_of_the_default_suite(request: pytest.FixtureRequest) -> None:
    assert "src" in request.config.getini("testpaths")
    assert request.config.getoption("--doctest-modules")


def test_whatever_compiled_code_includes_is_in_the_source_distribution():
    """What is not named is left out of it, and then there is quietly no kernel."""
    told = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    for module in told["ext-modules"]:
        named = {ROOT / file for file in (*module["sources"], *module.get("depends", []))}
        for file in sorted(named):
            for line in file.read_text().splitlines():
                if line.startswith('#include "'):
                    included = (file.parent / line.split('"')[1]).resolve()
                    assert included in named, f"{module['name']}: {included} is not in `depends`"
