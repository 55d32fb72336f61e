"""Both peers run in one command, and each has a ratio of its own."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from ouzel.cli.benchmarking import peer, serving
from ouzel.cli.benchmarking.peer import RIVALS, Peer, Tuning
from ouzel.evaluation.serving_case import QUICK
from ouzel.evaluation.workload import Workload, cluster_centres, make_workload

RATES = {"fastapi + eager torch": 300.0, "ray serve + eager torch": 100.0}


@pytest.fixture
def work() -> Workload:
    return make_workload(cluster_centres(5, 8, seed=0), num_items=300, num_live=2, num_cold=1)


@pytest.mark.parametrize("rival", RIVALS)
def test_a_peer_takes_what_it_is_started_with(rival, monkeypatch):
    monkeypatch.setattr(peer, "_environment", lambda name, requirements: requirements)
    words = Peer(rival.folder).command(Path("work"), Path("port"), Tuning(1, 2, 16))
    requirements, app = Path(words[0]), Path(words[1])
    assert "torch==" in requirements.read_text()
    taken = re.findall(r'add_argument\("(--[a-z-]+)"', app.read_text())
    assert sorted(taken) == sorted(word for word in words if word.startswith("--"))


def test_a_peer_is_found_beside_the_sources_from_any_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(peer, "_environment", lambda name, requirements: requirements)
    assert Path(Peer("ray_serve").command(Path("w"), Path("p"), Tuning(1, 1, 1))[1]).is_file()


def test_the_row_has_a_ratio_to_each_peer(work, monkeypatch):
    def measured(rival, *_):
        best = {"system": rival.system, "requests_per_s": RATES[rival.system]}
        return best, [{"system": f"{rival.system} (tuning)", "requests_per_s": 1.0}]

    ours = [{"p99_mark_ms": mark, "requests_per_s": 900.0} for mark in (5.0, 50.0)]
    monkeypatch.setattr(serving, "_home", lambda *_: (Path("home"), work))
    monkeypatch.setattr(serving, "_ouzel", lambda *_: iter(ours))
    monkeypatch.setattr(serving, "_peer", measured)
    run = serving.Run(QUICK, None, None, 0, 1, None)
    strict, loose, *others = serving._case("100k", run, peer=True)
    assert (loose["times_peer"], loose["times_ray_serve"]) == (3.0, 9.0)
    assert not {"times_peer", "times_ray_serve"} & strict.keys()
    assert [row["system"] for row in others][::2] == [*RATES]
    assert {row["case"] for row in others} == {"100k"}
