"""What the rows of the serving benchmark say beside rates: recall, precision, memory, start."""

from __future__ import annotations

from unittest.mock import patch

import numpy as np
import pytest

from ouzel.bundle.bundle import load_bundle
from ouzel.bundle.store import BundleStore
from ouzel.cli import main
from ouzel.cli.benchmarking import home as homes
from ouzel.cli.benchmarking import served, serving
from ouzel.cli.benchmarking.home import Origin, Scale, make_home, random_origin
from ouzel.cli.benchmarking.served import home_row
from ouzel.compression.export import graph_signatures
from ouzel.evaluation import workload
from ouzel.evaluation.serving_case import QUICK
from ouzel.evaluation.workload import cluster_centres, make_workload
from ouzel.retrieval.exact import ExactIndex
from ouzel.serving.home import open_home
from tests.tiny import tiny_files

SCALE = Scale(num_items=300, num_live=6, num_cold=3)
FIELDS = {"model": "tiny", "config": {}, "features": {}, "parent": None, "seed": 0, "versions": {}}


def made(folder):
    files = tiny_files()
    fields = {**FIELDS, "graphs": graph_signatures(files)}
    origin = Origin(files, cluster_centres(20, 16, seed=0), fields, skew=1.0)
    return make_home(folder, SCALE, lambda: origin, seed=0, report=lambda done, total: None)


def test_the_row_of_a_home_says_its_precision_and_what_its_index_finds(tmp_path):
    work = made(tmp_path / "home")
    assert home_row(tmp_path / "home", work) == {
        "states": "fp32",
        "ranked": False,
        "blended": False,
        "index_recall@10": 1.0,
        "index_recall@100": 1.0,
    }


def test_an_index_that_misses_is_told_of(tmp_path, monkeypatch):
    """The planted fault: every second vector is gone from what is searched."""
    work = made(tmp_path / "home")

    def missing(vectors_ND, queries_BD, seen, kept):
        halved_ND = vectors_ND.copy()
        halved_ND[::2] = 0.0
        return ExactIndex(halved_ND)

    monkeypatch.setattr(served, "automatic_engine", missing)
    row = home_row(tmp_path / "home", work)
    assert 0.2 < row["index_recall@100"] < 0.9 and row["index_recall@10"] < 0.9


def test_the_index_is_tuned_by_whom_the_server_tunes_it_with(tmp_path, monkeypatch):
    work = made(tmp_path / "home")
    asked = []

    def engine(vectors_ND, queries_BD, seen, kept):
        asked.append(np.stack([rows[:3] for rows in seen]))
        return ExactIndex(vectors_ND)

    monkeypatch.setattr(served, "automatic_engine", engine)
    monkeypatch.setattr("ouzel.ranking.assembly.automatic_engine", engine)
    monkeypatch.setattr("ouzel.ranking.assembly._approximate", lambda *shape: (ExactIndex,))
    home_row(tmp_path / "home", work)
    open_home(tmp_path / "home", state_bytes=1 << 20).log.close()
    ours, servers = asked
    assert np.array_equal(ours, servers)


def test_a_home_made_in_parts_is_the_same(tmp_path, monkeypatch):
    whole = made(tmp_path / "whole")
    monkeypatch.setattr(homes, "ITEMS_A_CHUNK", 7)
    monkeypatch.setattr(workload, "ITEMS_AT_ONCE", 11)
    parts = made(tmp_path / "parts")
    assert np.array_equal(whole.vectors_ND, parts.vectors_ND)
    assert np.array_equal(whole.histories_UL, parts.histories_UL)
    bundles = [
        load_bundle(BundleStore(tmp_path / name).current()).digest for name in ("whole", "parts")
    ]
    assert bundles[0] == bundles[1]


def test_vectors_keep_the_spread_of_their_parents():
    parents_PD = cluster_centres(200, 8, seed=0)
    vectors_ND = make_workload(parents_PD, num_items=5000, num_live=1, num_cold=0).vectors_ND[1:]
    assert np.allclose(vectors_ND.std(axis=0), parents_PD[1:].std(axis=0), rtol=0.1)
    assert np.allclose(vectors_ND.mean(axis=0), parents_PD[1:].mean(axis=0), atol=0.05)


def test_random_weights_keep_states_as_asked(tmp_path, monkeypatch):
    asked = []

    def exported(model, precision):
        asked.append(precision)
        return {}

    with patch("ouzel.compression.export.export_graphs", exported):
        for precision in ("int8", "fp32"):
            random_origin(seed=0, states=precision)
    assert asked == ["int8", "fp32"]

    folders = []
    monkeypatch.setattr(serving, "make_home", lambda folder, *_, **__: folders.append(folder.name))
    for precision in ("int8", "fp32"):
        serving._home(SCALE, serving.Run(QUICK, None, precision, 0, 1, None))
    assert len(set(folders)) == 2 and "int8" in folders[0] and "fp32" in folders[1]


@pytest.mark.parametrize(
    "words",
    [
        ["serving", "--state-precision", "int4"],
        ["serving", "--state-precision", "int8", "--model-from", "home"],
        ["states", "--case", "append-l", "--state-precision", "int8"],
    ],
)
def test_a_precision_that_cannot_be_kept_is_refused(words, capsys):
    with pytest.raises(SystemExit) as ended:
        main(["benchmark", *words])
    assert ended.value.code == 2
    capsys.readouterr()


def test_every_case_has_marks_and_a_scale():
    assert serving.MARKS_MS["10m"] == (50.0,)
    assert serving.SCALES.keys() == serving.MARKS_MS.keys()
    assert serving.SCALES["10m"].num_items == 10_000_000
