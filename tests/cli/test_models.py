"""`ouzel models` and `ouzel train --model --set`: what there is, and what is refused at once."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ouzel.cli import main
from ouzel.models.ctr import CTR_MODELS
from ouzel.models.registry import MODELS, checked_settings, model_named


def run(*arguments: str) -> int:
    with pytest.raises(SystemExit) as leaving:
        main(arguments)
    return int(leaving.value.code or 0)


def test_every_model_has_its_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("models") == 0
    shown = capsys.readouterr().out
    assert {model.name for model in MODELS} <= {
        line.split()[0] for line in shown.splitlines() if line.strip()
    }
    assert run("models", "--json", "-") == 0
    rows = json.loads(capsys.readouterr().out)
    assert [row["name"] for row in rows] == [model.name for model in (*MODELS, *CTR_MODELS)]
    assert {row["name"] for row in rows if row["kind"] == "ctr"} == {m.name for m in CTR_MODELS}
    assert all(row["use"] and row["cost"] and row["paper"] for row in rows)
    assert rows[0]["settings"]["dim"] == 64


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--model", "esasrek"], "there is no model 'esasrek': did you mean 'esasrec'?"),
        (["--preset", "XXL"], "there is no preset 'XXL': did you mean 'XL'?"),
        (["--set", "dimm=8"], "esasrec has no setting 'dimm': did you mean 'dim'? It has dim, "),
        (["--set", "dim=many"], "dim is 'many'"),
        (["--set", "dim=10"], "dim 10 must be a multiple"),
        (["--set", "dim"], "--set dim: give name=value"),
        (["--set", "dim=8", "--set", "dim=16"], "dim was given before"),
    ],
)
def test_what_is_wrong_is_refused_before_anything_is_read(
    arguments: list[str], told: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    home, data = tmp_path / "home", tmp_path / "events.csv"
    data.write_text("whoever reads this complains of it")
    assert run("train", "--data", str(data), "--out", str(home), *arguments) == 1
    assert told in capsys.readouterr().err
    assert not home.exists()


def test_names_are_unique_over_all_families() -> None:
    known = (*MODELS, *CTR_MODELS)
    assert len({model.name for model in known}) == len(known)
    assert all("S" in model.presets for model in known)


def test_texts_become_what_the_config_holds() -> None:
    settings = {"dim": "32", "timed": "false", "temperature": "0.1"}
    checked = checked_settings(model_named("esasrec"), "M", settings)
    assert checked == {"dim": 32, "timed": False, "temperature": 0.1}
