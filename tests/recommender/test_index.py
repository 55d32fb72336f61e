"""What is measured of every engine, and which one is chosen."""

from __future__ import annotations

import numpy as np
import pytest

from ouzel.recommender import index as measuring
from ouzel.recommender.index import (
    Asked,
    Target,
    automatic_index,
    cheapest,
    measure_engines,
    measured_recall,
    nearest,
)
from ouzel.retrieval.engines import ENGINES
from ouzel.retrieval.exact import ExactIndex

RNG = np.random.default_rng(0)
VECTORS = RNG.normal(size=(1201, 16)).astype(np.float32)
ASKED = Asked(
    RNG.normal(size=(30, 16)).astype(np.float32),
    [np.sort(RNG.choice(1200, 20, replace=False)).astype(np.int32) + 1 for _ in range(30)],
)


class Half(ExactIndex):
    """Finds only even rows: half of the best, or so."""

    name = "half"

    def search(self, queries_BD, k, *, exclude=None, hidden=None):
        odd = np.arange(1201) % 2 == 1
        return super().search(queries_BD, k, exclude=exclude, hidden=[odd] * len(queries_BD))


def row(engine: str, recall: float, p50_ms: float, p99_ms: float) -> dict:
    times = {"p50_ms": p50_ms, "p99_ms": p99_ms}
    return {"engine": engine, "parameters": "", "recall@10": recall, "recall@100": 0.5, **times}


def test_recall_is_the_share_of_the_exact_best_without_what_was_seen() -> None:
    exactly, _ = ExactIndex(VECTORS).search(ASKED.queries_BD, 100, exclude=ASKED.seen)
    found = measured_recall(Half(VECTORS), exactly, ASKED)
    expected = {}
    for k in (10, 100):
        best = []
        for query, seen in zip(ASKED.queries_BD, ASKED.seen, strict=True):
            scores = VECTORS @ query
            scores[[0, *seen]] = -np.inf
            best.append((np.argsort(-scores)[:k] % 2 == 0).mean())
        expected[f"recall@{k}"] = pytest.approx(np.mean(best))
    assert found == expected and 0.3 < found["recall@100"] < 0.7


def test_every_engine_is_measured_until_it_finds_enough() -> None:
    rows = [row for row, _ in measure_engines(VECTORS, ASKED, Target(0.95, 1e6), lambda _: None)]
    able = [engine.name for engine in ENGINES if not engine.why_not(*VECTORS.shape)]
    assert list(dict.fromkeys(row["engine"] for row in rows)) == able
    for name in able:
        found = [row["recall@10"] for row in rows if row["engine"] == name]
        assert found[-1] >= 0.95 and all(share < 0.95 for share in found[:-1])
    assert sum(row["engine"] == "ivf_sq8" for row in rows) > 1
    assert all(0 < row["p50_ms"] <= row["p99_ms"] and row["bytes"] > 0 for row in rows)


def test_what_is_timed_is_as_long_as_what_is_served(monkeypatch) -> None:
    asked_for: list[int] = []

    class Noting(ExactIndex):
        def search(self, queries_BD, k, **more):
            asked_for.append(k)
            return super().search(queries_BD, k, **more)

    monkeypatch.setattr(measuring, "ENGINES", (Noting,))
    (row, _), *_ = measure_engines(VECTORS, ASKED, Target(0.5, 1e6), lambda _: None, breadth=500)
    assert asked_for.count(500) == len(asked_for) - 2 == measuring.TRIES * len(ASKED)
    assert row["items_timed"] == 500


def test_an_engine_that_is_far_too_slow_is_not_asked_to_look_harder() -> None:
    rows = [row for row, _ in measure_engines(VECTORS, ASKED, Target(1.0, 1e-9), lambda _: None)]
    names = [row["engine"] for row in rows]
    assert len(names) == len(set(names))


def test_engines_that_cannot_are_told_of_and_left_out() -> None:
    said: list[str] = []
    rows = list(measure_engines(VECTORS[:40], ASKED, Target(0.5, 1e6), said.append))
    assert not {"pq", "ivf_sq8"} & {row["engine"] for row, _ in rows}
    assert any(words.startswith("pq: left out, there are 39 vectors") for words in said)


def test_the_cheapest_is_the_quickest_of_those_that_reach_both() -> None:
    rows = [
        row("exact", 1.0, 2.0, 2.5),
        row("scan", 0.995, 0.5, 2.9),
        row("pq", 0.98, 0.1, 0.2),
        row("hnsw", 0.999, 0.3, 9.0),
    ]
    found = cheapest(rows, Target(0.99, 3.0))
    assert found is rows[1]
    assert cheapest(rows, Target(0.999, 1.0)) is None
    words = nearest(rows, Target(0.999, 1.0))
    assert "recall is exact (recall@10 1.0000, p99 2.50 ms)" in words
    assert "in that time has pq (recall@10 0.9800, p99 0.20 ms)" in words
    assert cheapest(rows, Target(0.4, 3.0, k=100)) is rows[2]


@pytest.mark.parametrize("numbers", [(0, 1), (1.1, 1), (float("nan"), 1), (0.9, 0), (0.9, 3, 50)])
def test_targets_that_make_no_sense_are_refused(numbers) -> None:
    with pytest.raises(ValueError, match=r"give|measured at"):
        Target(*numbers)


def test_who_tunes_measures_nothing(monkeypatch) -> None:
    tuned = []

    def automatic(vectors, queries, seen):
        tuned.append(queries)
        return ExactIndex(vectors)

    monkeypatch.setattr(measuring, "automatic_engine", automatic)
    index = automatic_index(VECTORS, ASKED)
    assert index is not None and index.lists is None
    assert index.record.num_queries == 15 and index.record.recall["recall@10"] == 1.0
    np.testing.assert_array_equal(tuned[0], ASKED.queries_BD[::2])
    assert automatic_index(VECTORS, Asked(ASKED.queries_BD[:1], ASKED.seen[:1])) is None
