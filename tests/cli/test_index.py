"""`ouzel index`: what it chooses is what the server searches with, and what it cannot it says."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ouzel.bundle.index import ChosenIndex, ChosenIndexes
from ouzel.bundle.store import BundleStore
from ouzel.cli import doctor, main
from ouzel.ranking.scoring import BREADTH
from ouzel.ranking.stages import SearchIndex
from ouzel.recommender import index as measuring
from ouzel.recommender.home import Home
from ouzel.recommender.recommender import Recommender
from ouzel.retrieval.engines import ENGINES
from ouzel.retrieval.exact import ExactIndex
from ouzel.serving.home import open_home
from tests.serving.real_home import write_home
from tests.tiny import NUM_ROWS

ABLE = [engine for engine in ENGINES if not engine.why_not(NUM_ROWS, 16)]


@pytest.fixture
def home(tmp_path: Path) -> Path:
    write_home(tmp_path / "home")
    return tmp_path / "home"


def _index(home: Path, *options: str) -> int:
    with pytest.raises(SystemExit) as leaving:
        main(["index", str(home), *options])
    return int(leaving.value.code or 0)


def _chosen(home: Path) -> ChosenIndex | None:
    return ChosenIndexes(home).read(Home(home).current().digest)


def _served(home: Path):
    engine = open_home(home, state_bytes=1 << 20)
    try:
        (search,) = [s for s in engine.answers.pipeline.stages if isinstance(s, SearchIndex)]
        return search.index
    finally:
        engine.log.close()


def test_every_engine_is_shown_and_the_chosen_one_marked(home, capsys) -> None:
    assert _index(home, "--recall", "0.9", "--p99-ms", "1000", "--json", "-") == 0
    rows = json.loads(capsys.readouterr().out)
    assert [row["engine"] for row in rows] == [engine.name for engine in ABLE]
    assert all(row["items_timed"] == 10 for row in rows)
    wanted = {"parameters", "recall@10", "recall@100", "p50_ms", "p99_ms", "bytes"}
    assert all(wanted | {"build_seconds", "chosen"} <= row.keys() for row in rows)
    (marked,) = [row for row in rows if row["chosen"]]
    assert marked["p50_ms"] == min(row["p50_ms"] for row in rows)
    chosen = _chosen(home)
    assert chosen is not None and chosen.record.engine == marked["engine"]


def test_with_a_ranker_what_is_timed_is_what_it_orders(tmp_path, capsys) -> None:
    write_home(tmp_path / "ranked", ranker=True)
    assert _index(tmp_path / "ranked", "--recall", "0.5", "--p99-ms", "1000", "--json", "-") == 0
    rows = json.loads(capsys.readouterr().out)
    assert [row["items_timed"] for row in rows] == len(rows) * [BREADTH]


@pytest.mark.parametrize("engine", ABLE, ids=lambda engine: engine.name)
def test_the_server_and_python_search_with_what_was_chosen(engine, home, monkeypatch) -> None:
    monkeypatch.setattr(measuring, "ENGINES", (engine,))
    assert type(_served(home).engine) is ExactIndex
    assert _index(home, "--recall", "0.5", "--p99-ms", "1000") == 0
    chosen, index = _chosen(home), _served(home)
    assert chosen is not None and type(index.engine) is engine
    assert index.engine.effort == chosen.record.effort
    assert index.recall == chosen.record.recall["recall@10"]
    pipeline = Recommender(home)._open()._pipeline
    (search,) = [stage for stage in pipeline.stages if isinstance(stage, SearchIndex)]
    assert type(search.index.engine) is engine


def test_what_cannot_be_reached_is_an_error_that_shows_what_is_nearest(home, capsys) -> None:
    assert _index(home, "--recall", "0.9", "--p99-ms", "1000") == 0
    before = _chosen(home)
    assert _index(home, "--recall", "1", "--p99-ms", "0.000001") == 1
    told = capsys.readouterr()
    assert "nothing finds 1 of the best 10" in told.err and "Traceback" not in told.err
    assert "the quickest with that recall is" in told.err
    assert "recall@100" in told.out
    assert _chosen(home) == before


@pytest.mark.parametrize("options", [("--recall", "2"), ("--p99-ms", "-1"), ("--k", "7")])
def test_numbers_that_make_no_sense_are_refused(home, options, capsys) -> None:
    assert _index(home, *options) == 1
    assert options[1].split(".")[0] in capsys.readouterr().err


def test_doctor_shows_recall_and_a_choice_that_cannot_be_kept(home, monkeypatch) -> None:
    monkeypatch.setattr(measuring, "ENGINES", (ABLE[-1],))
    assert _index(home, "--recall", "0.5", "--p99-ms", "1000") == 0
    found = {finding.check: finding for finding in doctor.check_home(home)}
    assert found["index chosen"].status == "ok" and "recall@100" in found["index chosen"].found
    monkeypatch.setattr(ABLE[-1], "why_not", lambda *_: "no such processor")
    found = {finding.check: finding for finding in doctor.check_home(home)}
    assert found["index chosen"].status == "broken"
    assert found["index chosen"].remedy == f"ouzel index {home}"
    codes = home / "index" / BundleStore(home).current().name
    for path in codes.glob("*.safetensors"):
        path.write_bytes(b"x")
    found = {finding.check: finding for finding in doctor.check_home(home)}
    assert found["index chosen"].status == "broken" and "damaged" in found["index chosen"].found
