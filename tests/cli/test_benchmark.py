"""The benchmark's home is a home like any other: it serves, and it is made only once."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from ouzel.bundle.bundle import load_bundle
from ouzel.bundle.store import BundleStore
from ouzel.cli import benchmark, main
from ouzel.cli.benchmarking import peer, serving
from ouzel.cli.benchmarking.home import Origin, Scale, make_home, trained_origin
from ouzel.compression.export import graph_signatures
from ouzel.evaluation.workload import cluster_centres
from ouzel.inference.input_table import InputTable
from ouzel.serving.home import open_home
from tests.serving.real_home import write_home
from tests.tiny import tiny_files

SCALE = Scale(num_items=300, num_live=6, num_cold=3)
FIELDS = {"model": "tiny", "config": {}, "features": {}, "parent": None, "seed": 0, "versions": {}}


def tiny_origin():
    parents = cluster_centres(20, 16, seed=0)
    fields = {**FIELDS, "graphs": graph_signatures(tiny_files())}
    return Origin(tiny_files(), parents, fields, skew=1.0)


def made(folder, origin=tiny_origin):
    return make_home(folder, SCALE, origin, seed=0, report=lambda done, total: None)


def test_the_home_serves(tmp_path):
    work = made(tmp_path / "home")
    engine = open_home(tmp_path / "home", state_bytes=1 << 20)
    assert engine.log.num_users == 9
    history = engine.log.history(engine.log.user_row(user_id="u7"))
    assert history.rows.tolist() == work.histories_UL[7].tolist()
    assert engine.catalog.row("i300") == 300
    engine.log.close()
    bundle = load_bundle(BundleStore(tmp_path / "home").current())
    items = bundle.tensors("items")
    assert np.array_equal(items["vectors"], np.load(tmp_path / "home" / "items.npy"))
    assert np.allclose(np.linalg.norm(items["vectors"][1:], axis=1), 1.0, atol=1e-5)


def test_a_home_is_made_once_and_a_broken_one_again(tmp_path):
    first = made(tmp_path / "home")

    def never():
        raise AssertionError("made twice")

    second = made(tmp_path / "home", never)
    assert np.array_equal(first.histories_UL, second.histories_UL)
    (tmp_path / "home" / "workload.done").unlink()
    again = made(tmp_path / "home")
    assert np.array_equal(first.vectors_ND, again.vectors_ND)


def test_a_trained_model_lends_its_graphs_and_vectors(tmp_path):
    made(tmp_path / "home")
    bundle = load_bundle(BundleStore(tmp_path / "home").current())
    origin = trained_origin(bundle)
    assert origin.graphs["encode"] == tiny_files()["encode"]
    assert np.array_equal(origin.parents_PD, InputTable.of(bundle).whole())
    assert origin.fields["parent"] == bundle.digest


def test_a_trained_model_lends_its_ranker(tmp_path):
    write_home(tmp_path / "trained", ranker=True)
    bundle = load_bundle(BundleStore(tmp_path / "trained").current())
    made(tmp_path / "home", lambda: trained_origin(bundle))
    engine = open_home(tmp_path / "home", state_bytes=1 << 20)
    assert "ranker" in [stage.name for stage in engine.answers.pipeline.stages]
    engine.log.close()
    lines = load_bundle(BundleStore(tmp_path / "home").current()).tensors("ranker")["items"]
    assert len(lines) == SCALE.num_items + 1


def test_a_run_leaves_its_home_as_it_was(tmp_path, monkeypatch):
    monkeypatch.setattr(serving, "BENCH", tmp_path)
    made(tmp_path / "home")
    before = (tmp_path / "home" / "events.db").read_bytes()
    with serving._fresh(tmp_path / "home") as copy:
        (copy / "events.db").write_bytes(b"changed")
        assert load_bundle(BundleStore(copy).current())
    assert not copy.exists()
    assert (tmp_path / "home" / "events.db").read_bytes() == before
    assert load_bundle(BundleStore(tmp_path / "home").current())


@pytest.mark.parametrize(
    "words",
    [
        ["everything"],
        ["serving", "--case", "11k"],
        ["serving", "--rates", "fast"],
        ["serving", "--rates", "500,0"],
        ["serving", "--case", "visible", "--rates", "500"],
    ],
)
def test_what_is_no_case_is_bad_usage(words, capsys):
    with pytest.raises(SystemExit) as leaving:
        main(["benchmark", *words])
    assert leaving.value.code == 2
    capsys.readouterr()


def test_every_topic_has_its_file_and_every_file_its_topic():
    room = Path(benchmark.__file__).parent / "benchmarking"
    files = {path.stem for path in room.glob("*.py") if "\ndef command(" in path.read_text()}
    assert files == set(benchmark.TOPICS)


@pytest.mark.parametrize("topic", benchmark.TOPICS)
def test_help_of_a_topic_shows_an_example_and_the_json_option(topic, capsys):
    with pytest.raises(SystemExit) as leaving:
        main(["benchmark", topic, "--help"])
    assert leaving.value.code == 0
    shown = capsys.readouterr().out
    assert f"Example: ouzel benchmark {topic}" in shown
    assert "--json" in shown


def test_help_names_every_topic(capsys):
    with pytest.raises(SystemExit):
        main(["benchmark", "--help"])
    shown = capsys.readouterr().out
    assert all(topic in shown for topic in benchmark.TOPICS)


def test_a_peer_needs_a_checkout(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match="benchmarks/peers/nobody is not here"):
        peer.Peer("nobody")


def test_tunings_that_short_runs_cannot_tell_apart_are_all_measured_in_full():
    assert serving._likely_best([218, 366.8, 176, 366.8, 330, 310], 0.15) == [1, 3, 4]
    assert serving._likely_best([0, 0], 0.15) == [0, 1]
