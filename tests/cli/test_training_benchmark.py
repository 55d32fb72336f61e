"""The benchmark of training: peers get the same events, losses are of one scale, rows say all."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest

from ouzel.cli import main
from ouzel.cli.benchmarking import catalogue, fitting, learning, peer, training
from ouzel.cli.benchmarking.fitting import ALPHA, L2, SWEEPS, Run, ials_loss, ials_rows
from ouzel.cli.benchmarking.learning import following_rows, rating_rows, running_means
from ouzel.cli.benchmarking.training_data import made_up, stream_of
from ouzel.evaluation.prequential import prequential_hits
from ouzel.features.matrix import matrix_of

PEERS = {"implicit_als": "implicit", "river_mf": "river", "rectools_sasrec": "rectools"}
STREAM = made_up(40, seed=1)


@pytest.fixture(autouse=True)
def small(monkeypatch) -> None:
    monkeypatch.setattr(fitting, "FACTORS", 8)


def run(*, with_peer: bool = False) -> Run:
    return Run(0, True, with_peer, lambda words: None)


def no_environment(monkeypatch) -> None:
    monkeypatch.setattr(peer, "_environment", lambda name, requirements: requirements)


def asked_of_peers(monkeypatch) -> dict[str, set[str]]:
    """Let every peer fail after its options were noted."""
    asked: dict[str, set[str]] = {}

    def noted(name, columns, options, folder):
        asked[name] = {*options, "--data"}
        raise ValueError("pip could not install it")

    monkeypatch.setattr(fitting, "peer_rows", noted)
    monkeypatch.setattr(learning, "peer_rows", noted)
    monkeypatch.setattr(fitting, "_epoch", lambda *_: {"tokens_per_cpu_s": 1})
    return asked


def test_a_peer_takes_what_it_is_asked_and_what_is_missing_has_a_row(monkeypatch):
    no_environment(monkeypatch)
    asked = asked_of_peers(monkeypatch)
    told = run(with_peer=True)
    rows = [*fitting.backbone_rows(STREAM, told), *ials_rows(STREAM, told)]
    rows += rating_rows(STREAM, told)
    missing = [row["system"] for row in rows if row.get("missing") == "pip could not install it"]
    assert missing[0] == "rectools sasrec" and missing[-1] == "river" and len(missing) == 4
    assert asked.keys() == PEERS.keys()
    for name, words in asked.items():
        requirements, app, *_ = map(Path, peer.Peer(name)._words({}))
        assert PEERS[name] in requirements.read_text()
        taken = re.findall(r'add_argument\("(--[a-z0-9-]+)"', app.read_text())
        assert sorted(taken) == sorted(words)


def test_what_a_peer_prints_last_are_its_rows(tmp_path, monkeypatch, capfd):
    (tmp_path / "benchmarks/peers/small").mkdir(parents=True)
    app = tmp_path / "benchmarks/peers/small/app.py"
    app.write_text("import sys\nprint('hello')\nprint('[{\"n\": %s}]' % sys.argv[2])\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(peer, "_environment", lambda name, requirements: Path("python3"))
    assert peer.Peer("small").measured({"--n": 3}) == [{"n": 3}]
    app.write_text("raise SystemExit(4)")
    with pytest.raises(ValueError, match="small ended with 4"):
        peer.Peer("small").measured({"--n": 3})
    capfd.readouterr()


def test_the_peer_of_ials_minimises_the_same_loss(monkeypatch):
    """Its factors in its scale, after our own sweeps: same losses, so same times to them."""
    matrix = matrix_of(STREAM.interactions())
    ours = fitting._ials(matrix, seed=0)

    def as_peer(name, columns, options, folder):
        assert options["--confidence"] == pytest.approx((1 + ALPHA) / ALPHA)
        assert options["--l2"] == pytest.approx(L2 * (1 + ALPHA) / ALPHA)
        rng = np.random.default_rng(0)
        for n in range(SWEEPS):
            for side, size in (("users", matrix.num_users), ("items", matrix.num_rows)):
                np.save(folder / f"{side}_{n}.npy", rng.normal(0, 1 / (n + 1), (size, 4)))
        return [{"seconds": 1.0, "cpu_seconds": 2.0}] * SWEEPS

    monkeypatch.setattr(fitting, "peer_rows", as_peer)
    rows = list(ials_rows(STREAM, run(with_peer=True)))
    np.testing.assert_allclose(rows[0]["losses"], ours["losses"], rtol=1e-3)
    assert rows[0]["sweeps_to_loss"] <= SWEEPS and rows[1]["sweeps_to_loss"] is None
    assert rows[1]["cpu_seconds_a_sweep"] == 2.0 and "ouzel_times" not in rows[1]
    assert rows[1]["ouzel_times_a_sweep"] == 2.0 / rows[0]["cpu_seconds_a_sweep"]


def test_losses_of_both_scales_are_one_but_for_a_factor():
    """What implicit minimises over its vectors, and what Ouzel does over its own."""
    matrix = matrix_of(STREAM.interactions())
    rng = np.random.default_rng(2)
    theirs = [rng.normal(0, 0.3, (n, 4)) for n in (matrix.num_users, matrix.num_rows)]
    theirs[1][0] = 0
    scores = theirs[0] @ theirs[1].T
    confidence = np.ones_like(scores)
    target = np.zeros_like(scores)
    target[matrix.users_E(), matrix.rows_E] = 1
    confidence[matrix.users_E(), matrix.rows_E] = (1 + ALPHA) / ALPHA
    norms = sum(np.square(table).sum() for table in theirs)
    whole = (confidence * (target - scores) ** 2).sum() + L2 * (1 + ALPHA) / ALPHA * norms
    ours = ials_loss(*(table / (1 + ALPHA) ** 0.5 for table in theirs), matrix)
    # The squares of the targets that neither can change differ.
    left_over = len(matrix) * (1 - 1 / (1 + ALPHA))
    assert (1 + ALPHA) ** 2 / ALPHA * (ours - left_over) == pytest.approx(whole)


def test_ratings_of_a_peer_are_beside_the_like_of_them(monkeypatch):
    def river(name, columns, options, folder):
        assert (np.diff(columns["users"]) != 0).any() and len(columns["values"]) == len(STREAM)
        spent = {"seconds": 2.0, "cpu_seconds": 2.0, "rank_cpu_ms": 30.0}
        funk = [{"rate": 0.01, "rmse": 1.5}, {"rate": 0.05, "rmse": 1.0, **spent}]
        biased = [{"rate": 0.01, "rmse": float("nan")}, {"rate": 0.05, "rmse": 0.9, **spent}]
        told = (("FunkMF", funk), ("BiasedMF", biased))
        return [{"model": model, **row} for model, rows in told for row in rows]

    monkeypatch.setattr(learning, "peer_rows", river)
    plain, means, funk, biased = rating_rows(STREAM, run(with_peer=True))
    per_s = len(STREAM) / 2.0
    assert funk["ouzel_times"] == pytest.approx(plain["events_per_cpu_s"] / per_s)
    assert biased["ouzel_times"] == pytest.approx(means["events_per_cpu_s"] / per_s)
    assert funk["ouzel_times_ranking"] == pytest.approx(30 / plain["rank_cpu_ms"])
    assert funk["ouzel_times_listing"] == pytest.approx(30 / plain["list_cpu_ms"])
    assert plain["list_cpu_ms"] < plain["rank_cpu_ms"]
    assert biased["rmse_by_rate"] == {"0.01": None, "0.05": 0.9}


def test_running_means_see_nothing_of_what_comes():
    users, rows = STREAM.users_E, STREAM.rows_E
    values = STREAM.values_E + np.random.default_rng(0).normal(0, 2, 40)[users]
    whole = running_means(users, rows, values)
    for count in (1, 50, 700):
        part = running_means(users[:count], rows[:count], values[:count])
        np.testing.assert_allclose(part, whole[:count])
    changed = values.copy()
    changed[700] += 1
    assert not np.allclose(running_means(users, rows, changed)[701:], whole[701:])
    errors = values - whole
    assert np.square(errors[500:]).mean() < 0.5 * values.var()


def test_who_follows_finds_more_than_who_stopped(monkeypatch):
    monkeypatch.setattr(learning, "FOLLOWED", {"eals": 2000})
    monkeypatch.setattr(learning, "ASKED", 300)
    (row,) = following_rows(made_up(40, seed=0), run())
    assert row["recall@10"] > 2 * row["recall@10_stopped"]


class Counting:
    """A learner that foretells the row that its user took last, and every row if it is asked."""

    def __init__(self, rows: int) -> None:
        self.learned: list[tuple[int, int]] = []
        self.rows = rows

    def partial_fit(self, users, rows):
        self.learned += zip(users.tolist(), rows.tolist(), strict=True)
        return np.zeros(len(rows), np.float32)

    def arrays(self):
        users = 1 + max((user for user, _ in self.learned), default=-1)
        items = np.zeros((self.rows, 1), np.float32)
        items[len(self.learned) % self.rows] = 1
        return np.ones((users, 1), np.float32), items


def test_every_event_is_asked_for_before_it_is_learned():
    """The planted fault would be to learn a part first: the third event would be a miss."""
    users, rows = np.zeros(5, int), np.array([4, 1, 2, 3, 2])
    learner = Counting(6)
    asked, hits = prequential_hits(learner, users, rows, k=1)
    assert asked.tolist() == [0, 1, 2, 3] and hits.tolist() == [False, True, True, True]
    assert learner.learned == list(zip(users.tolist(), rows.tolist(), strict=True))


def test_after_the_stop_nothing_is_learned():
    learner = Counting(6)
    prequential_hits(learner, np.zeros(9, int), np.arange(1, 10) % 5 + 1, every=2, stop=4)
    assert len(learner.learned) == 4
    with pytest.raises(ValueError, match="every is 0"):
        prequential_hits(learner, np.zeros(1, int), np.ones(1, int), every=0)


def test_seen_items_are_no_answer_and_ties_count_against():
    learner = Counting(4)
    learner.learned = [(0, 1)] * 4  # arrays: the padding row is best, all others alike
    _, hits = prequential_hits(learner, np.array([0]), np.array([3]), k=2)
    assert not hits[0]
    learner.learned = [(0, 1)] * 4
    _, hits = prequential_hits(learner, np.array([0]), np.array([3]), k=3)
    assert hits[0]


def test_events_of_a_file_are_numbered_in_order_of_time(tmp_path):
    path = tmp_path / "clicks.csv"
    path.write_text("user_id,item_id,timestamp,value\nb,x,30,2\na,y,10,5\nb,y,20,3\n")
    stream = stream_of(path, seed=0, quick=False)
    assert stream.users_E.tolist() == [0, 1, 1] and stream.rows_E.tolist() == [1, 1, 2]
    assert stream.values_E.tolist() == [5, 3, 2] and (stream.num_users, stream.num_rows) == (2, 3)
    assert stream.interactions().rows_E.tolist() == [1, 1, 2]


def test_the_command_writes_the_rows_of_its_case(tmp_path, monkeypatch):
    monkeypatch.setattr(training, "ials_rows", lambda stream, run: [{"system": f"{run.quick}"}])
    monkeypatch.setattr(training, "stream_of", lambda data, *, seed, quick: STREAM)
    file = tmp_path / "result.json"
    words = ["training", "--case", "ials", "--quick", "--data", "ml-1m.dat", "--json", str(file)]
    with pytest.raises(SystemExit) as leaving:
        main(["benchmark", *words])
    assert leaving.value.code == 0
    (row,) = json.loads(file.read_text())["rows"]
    assert (row["system"], row["case"], row["data"]) == ("True", "ials", "ml-1m")
    assert row["load"] >= 0


def test_the_peak_of_a_large_catalogue_is_that_of_a_process_of_its_own(monkeypatch) -> None:
    monkeypatch.setattr(catalogue, "NUM_ITEMS", 20_000)
    monkeypatch.setattr(catalogue, "NUM_USERS", 200)
    (row,) = catalogue.catalogue_rows(Run(0, True, False, print))
    assert (row["items"], row["events"]) == (2000, 400)
    assert row["tokens_per_s"] > 0 and 0.1 < row["peak_gib"] < 8
