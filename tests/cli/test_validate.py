"""`ouzel validate`: a table of what is wrong, JSON of the same, and the exit code."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ouzel.cli import main
from ouzel.data.samples import movietweetings


def _run(*arguments: str) -> int:
    with pytest.raises(SystemExit) as leaving:
        main(["validate", *arguments])
    return int(leaving.value.code or 0)


def _csv(folder: Path, *rows: str) -> str:
    path = folder / "events.csv"
    path.write_text("visitor,item_id,timestamp\n" + "\n".join(rows) + "\n", "utf-8")
    return str(path)


def test_good_data(capsys: pytest.CaptureFixture[str]) -> None:
    assert _run(str(movietweetings())) == 0
    shown = capsys.readouterr().out
    assert "MovieTweetings ratings.dat.gz" in shown
    assert "100,000" in shown


def test_bad_rows_are_shown_with_line_column_value_and_remedy(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = _csv(tmp_path, "u,a,5", "u,b,soon", ",c,6")
    assert _run(path, "--map", "user_id=visitor") == 1
    lines = capsys.readouterr().out.splitlines()
    (soon,) = [line.split() for line in lines if "soon" in line]
    assert soon[:4] == ["3", "timestamp", "soon", "unparsable"]
    assert "RFC 3339" in " ".join(soon)
    assert any(line.split()[:3] == ["4", "visitor", "missing"] for line in lines)


def test_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = _csv(tmp_path, "u,a,5", "u,b,soon", ",c,6")
    assert _run(path, "--map", "user_id=visitor", "--json", "-", "--limit", "1") == 1
    told = json.loads(capsys.readouterr().out)
    assert (told["rows_read"], told["rows_kept"]) == (3, 1)
    assert told["dropped"] == {"unparsable": 1, "missing": 1}
    assert told["rows"] == [
        {
            "line": 3,
            "column": "timestamp",
            "value": "soon",
            "reason": "unparsable",
            "remedy": "use epoch s or ms, or RFC 3339",
        }
    ]
    assert _run(str(movietweetings()), "--json", "-") == 0
    assert json.loads(capsys.readouterr().out)["rows"] == []


def test_a_file_of_which_nothing_can_be_used_is_still_explained(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _run(_csv(tmp_path, "u,a,soon"), "--map", "user_id=visitor") == 1
    assert "soon" in capsys.readouterr().out


def test_a_hostile_value_cannot_drive_the_terminal(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _run(_csv(tmp_path, "u,\x1b[31mred,5"), "--map", "user_id=visitor")
    assert "\x1b" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "said", "code"),
    [
        ((), "Missing argument", 2),
        (("nothing.csv",), "does not exist", 1),
        (("nothing.csv", "--map", "user_id"), "write NAME=COLUMN", 1),
        (("nothing.csv", "--limit", "0"), "--limit", 2),
    ],
)
def test_errors(
    arguments: tuple[str, ...], said: str, code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _run(*arguments) == code
    assert said in capsys.readouterr().err


def test_columns_that_cannot_be_found(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert _run(_csv(tmp_path, "u,a,5")) == 1
    assert "--map user_id=COLUMN" in capsys.readouterr().err
