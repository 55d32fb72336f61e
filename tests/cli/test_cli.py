"""The command line as a whole: light help, exit codes, one-line errors, honest tables."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from rich.console import Console

from ouzel import cli
from ouzel.cli import COMMANDS, main
from ouzel.cli.printing import output
from ouzel.recommender.home import Home
from ouzel.training.checkpoint import CHECKPOINT

FOLDER = Path(cli.__file__).parent


def _run(*arguments: str) -> int:
    with pytest.raises(SystemExit) as leaving:
        main(arguments)
    return int(leaving.value.code or 0)


@pytest.fixture
def plant(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[..., None]], None]:
    """Return a function that puts its argument in the place of `ouzel doctor`."""

    def put(function: Callable[..., None]) -> None:
        module = SimpleNamespace(command=function, EXAMPLE="ouzel doctor")
        monkeypatch.setattr(cli, "import_module", lambda _: module)

    return put


def test_every_command_has_its_file_and_every_file_its_command() -> None:
    is_command = ("\ndef command(", "\nTOPICS = ")
    files = {
        path.stem
        for path in FOLDER.glob("*.py")
        if any(mark in path.read_text() for mark in is_command)
    }
    assert files == set(COMMANDS)


@pytest.mark.parametrize("name", COMMANDS.keys() - {"benchmark"})
def test_help_shows_an_example_and_the_json_option(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _run(name, "--help") == 0
    shown = capsys.readouterr().out
    assert f"Example: ouzel {name}" in shown
    assert "--json" in shown


def test_help_loads_no_command_and_no_heavy_library() -> None:
    program = (
        "import sys\nfrom ouzel.cli import main\n"
        "try: main(['--help'])\nexcept SystemExit: pass\n"
        "heavy = {'torch', 'polars', 'onnxruntime', 'numpy', 'ouzel.cli.doctor'}\n"
        "sys.exit(str(sorted(heavy & sys.modules.keys()) or ''))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False
    )
    assert done.returncode == 1 and done.stderr.strip() == "", done.stderr
    assert all(name in done.stdout for name in COMMANDS)


@pytest.mark.parametrize("arguments", [("nonsense",), ("doctor", "--nonsense"), ("--nonsense",)])
def test_bad_usage_leaves_with_2(
    arguments: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    assert _run(*arguments) == 2
    captured = capsys.readouterr()
    assert "onsense" in captured.err and captured.out == ""


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (ValueError("bad\n value: do this"), "error: bad value: do this"),
        (
            FileNotFoundError(2, "No such file", "x.csv"),
            "error: x.csv: No such file: check the path",
        ),
        (OSError(28, "No space left"), "error: No space left: free some space on this disk"),
        (
            ModuleNotFoundError("no", name="torch"),
            "error: this needs torch: pip install 'ouzel[train]'",
        ),
    ],
)
def test_what_goes_wrong_is_one_line_and_exit_code_1(
    error: BaseException, told: str, plant: Callable, capsys: pytest.CaptureFixture[str]
) -> None:
    def command() -> None:
        raise error

    plant(command)
    assert _run("doctor") == 1
    captured = capsys.readouterr()
    assert captured.err == told + "\n"
    assert captured.out == ""


def test_who_interrupts_is_told_so_by_the_code_of_a_signal(
    plant: Callable, capsys: pytest.CaptureFixture[str]
) -> None:
    def command() -> None:
        raise KeyboardInterrupt

    plant(command)
    assert _run("doctor") == 130
    assert capsys.readouterr().err == "error: interrupted\n"


def test_a_bug_is_not_hidden(plant: Callable) -> None:
    def command() -> None:
        raise TypeError("a bug")

    plant(command)
    with pytest.raises(TypeError, match="a bug"):
        main(["doctor"])


def test_a_missing_library_of_another_kind_is_not_hidden(plant: Callable) -> None:
    def command() -> None:
        raise ModuleNotFoundError("no", name="ouzel.colour")

    plant(command)
    with pytest.raises(ModuleNotFoundError):
        main(["doctor"])


def test_json_goes_where_it_is_asked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [{"model": "Popular", "recall@10": np.float32(0.5), "num_users": np.int64(3)}]
    output.emit(rows, "-")
    assert json.loads(capsys.readouterr().out) == [
        {"model": "Popular", "recall@10": 0.5, "num_users": 3}
    ]
    output.emit(rows, str(tmp_path / "x.json"), title="Accuracy")
    assert json.loads((tmp_path / "x.json").read_text())[0]["num_users"] == 3
    assert "Accuracy" in capsys.readouterr().out


def test_a_table_is_aligned_and_never_cut(capsys: pytest.CaptureFixture[str]) -> None:
    long = "a title that is longer than any terminal " * 5
    output.emit([{"item": long, "score": 0.25}, {"item": "b", "score": 10.5, "rank": 1}], None)
    lines = [line for line in capsys.readouterr().out.splitlines() if line.strip()]
    assert long.strip() in lines[2]
    assert lines[2].index("0.2500") == lines[3].index("10.5000") + 1
    assert len({len(line) for line in lines}) == 1


def test_a_hostile_title_stays_text(capsys: pytest.CaptureFixture[str]) -> None:
    output.emit([{"title": "[red]x[/red] \x1b[31m\n:smile:"}], None)
    shown = capsys.readouterr().out
    assert "[red]x[/red] \N{REPLACEMENT CHARACTER}[31m\N{REPLACEMENT CHARACTER}:smile:" in shown


def test_a_result_shows_its_fields_then_its_rows(capsys: pytest.CaptureFixture[str]) -> None:
    output.emit({"command": "benchmark", "seed": 1, "rows": [{"p99_ms": 2.5, "ok": True}]}, None)
    shown = capsys.readouterr().out
    assert shown.index("benchmark") < shown.index("p99_ms")
    assert "2.5000" in shown and "yes" in shown


def test_progress_in_a_pipe_is_a_line_for_each_tenth(capsys: pytest.CaptureFixture[str]) -> None:
    with output.progress("Reading") as report:
        for done in range(1001):
            report(done, 1000)
    captured = capsys.readouterr()
    assert captured.out == ""
    assert len(captured.err.splitlines()) == 11
    assert captured.err.splitlines()[-1] == "Reading: 1,000 of 1,000"


def test_a_table_too_wide_for_a_terminal_goes_on_below_and_no_number_is_cut(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    names = [f"metric@{k}" for k in range(12)]
    rows = [{"model": name, **dict.fromkeys(names, 0.1234)} for name in ("esasrec", "popular")]
    monkeypatch.setattr(output, "_console", lambda stream: Console(file=stream, width=60))
    output.emit(rows, None)
    shown = capsys.readouterr().out
    assert all(name in shown for name in names)
    assert shown.count("0.1234") == 24
    assert shown.count("esasrec") == shown.count("model") > 1
    assert max(len(line) for line in shown.splitlines()) <= 60


@pytest.mark.parametrize(
    ("model", "epochs", "where"),
    [
        ("esasrec", 1, "where the last epoch ended"),
        ("esasrec", 0, "from the start"),
        ("ials", 1, "from the start"),
    ],
)
def test_a_training_that_is_interrupted_says_how_it_goes_on(
    model: str,
    epochs: int,
    where: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def interrupted(home: Home, *_: object) -> None:
        home.training.mkdir()
        if epochs:
            (home.training / CHECKPOINT).touch()
        raise KeyboardInterrupt

    monkeypatch.setattr("ouzel.recommender.train.train_home", interrupted)
    events = tmp_path / "events.csv"
    events.write_text("user_id,item_id,timestamp\na,x,1\na,y,2\n")
    told = ("train", "--data", str(events), "--out", str(tmp_path / "home"), "--model", model)
    assert _run(*told) == 130
    assert f"the same command trains on {where}" in capsys.readouterr().err
