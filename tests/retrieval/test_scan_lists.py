"""Codes in lists: against the scan of all codes, and what only lists refuse or keep."""

from __future__ import annotations

import numpy as np
import pytest
import safetensors
from hypothesis import given, settings
from hypothesis import strategies as st

from ouzel.bundle.index import KeptLists
from ouzel.ranking import assembly
from ouzel.retrieval import scan_lists
from ouzel.retrieval.live import LiveIndex
from ouzel.retrieval.scan import LANES, ScanIndex, packed_codes, scale_of
from ouzel.retrieval.scan_lists import ScanListsIndex, lists_of, places_of

pytestmark = pytest.mark.skipif(not ScanIndex.works(), reason="no scan kernel on this machine")


def clustered(num_rows: int, dim: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(20, dim))
    vectors = centres[rng.integers(0, 20, num_rows)] + 0.5 * rng.normal(size=(num_rows, dim))
    return vectors.astype(np.float32)


@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_who_reads_all_lists_finds_what_a_scan_of_all_codes_finds(data) -> None:
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    num_rows, dim = data.draw(st.integers(200, 900)), data.draw(st.integers(1, 40))
    vectors = rng.normal(size=(num_rows, dim)).astype(np.float32)
    queries = rng.normal(size=(data.draw(st.integers(0, 9)), dim)).astype(np.float32)
    exclude = [np.sort(rng.choice(num_rows, 30, replace=False)).astype(np.int32) for _ in queries]
    hidden = [(None, rng.random(num_rows) < 0.5)[rng.integers(2)] for _ in queries]
    lists, whole = ScanListsIndex(vectors), ScanIndex(vectors)
    lists.effort, whole.effort = lists.most_effort, scan_lists.CANDIDATES
    found = lists.search(queries, 7, exclude=exclude, hidden=hidden)
    expected = whole.search(queries, 7, exclude=exclude, hidden=hidden)
    for ours, theirs in zip(found, expected, strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_a_query_reads_its_nearest_lists_and_no_other() -> None:
    """The planted fault would be a range too many or too few: what is found tells."""
    vectors = clustered(4000, 8)
    index = ScanListsIndex(vectors)
    index.effort = 2
    kept = index.to_tensors()
    starts = kept["starts"] * LANES
    for query in clustered(9, 8, seed=1):
        reach = scan_lists.SPREADS * np.linalg.norm(query) * kept["spreads"]
        nearest = np.argsort(-(kept["centres"] @ query + reach))[:2]
        inside = np.concatenate([kept["place_rows"][starts[c] : starts[c + 1]] for c in nearest])
        best = max(inside[inside > 0], key=lambda row: vectors[row] @ query)
        rows, _ = index.search(query[None], 20)
        assert rows[0, 0] == best and set(rows[0].tolist()) <= set(inside.tolist())


def test_who_finds_too_little_in_his_lists_reads_all() -> None:
    vectors = clustered(4000, 8)
    index, queries = ScanListsIndex(vectors), clustered(3, 8, seed=1)
    index.effort = 1
    near, _ = index.search(queries[1:2], 3500)
    assert (near > 0).sum() == 3500
    # All lists but one are excluded for the second query alone; the others find as before.
    banned = [np.empty(0, np.int32), np.sort(near[0]), np.empty(0, np.int32)]
    rows, _ = index.search(queries, 10, exclude=banned)
    alone = index.search(queries[:1], 10)[0]
    np.testing.assert_array_equal(rows[0], alone[0])
    assert (rows > 0).all() and not set(rows[1].tolist()) & set(near[0].tolist())


def test_where_that_is_hidden_which_is_near_all_lists_are_read() -> None:
    vectors = clustered(4000, 8)
    index, queries = ScanListsIndex(vectors), clustered(9, 8, seed=1)
    index.effort = 4
    for query in queries:
        near = np.zeros(len(vectors), np.bool_)
        near[np.argsort(-(vectors @ query))[:2000]] = True
        expected = np.argsort(-np.where(near, -np.inf, vectors @ query), kind="stable")[:10]
        found, _ = index.search(query[None], 10, hidden=[near])
        assert set(found[0].tolist()) == set(expected.tolist())
        # By chance as many are hidden anywhere: twice the lists are read, and not all.


def test_where_half_is_hidden_by_chance_twice_the_lists_are_read_and_not_all() -> None:
    """What cannot be in the answer tells: the rows of lists that were not read."""
    vectors, rng = clustered(4000, 8), np.random.default_rng(0)
    index = ScanListsIndex(vectors)
    assert index.most_effort > 20
    index.effort = 2
    kept = index.to_tensors()
    starts = kept["starts"] * LANES
    hidden = rng.random(len(vectors)) < 0.5
    for query in clustered(9, 8, seed=1):
        found, _ = index.search(query[None], 10, hidden=[hidden])
        reach = scan_lists.SPREADS * np.linalg.norm(query) * kept["spreads"]
        order = np.argsort(-(kept["centres"] @ query + reach))
        read = [kept["place_rows"][starts[c] : starts[c + 1]] for c in order]
        most = np.concatenate(read[: 8 * index.effort])
        assert set(found[0].tolist()) <= set(most[most > 0].tolist())
        inside = np.concatenate(read[: index.effort])
        inside = inside[(inside > 0) & ~hidden[inside]]
        assert vectors[found[0, 0]] @ query >= (vectors[inside] @ query).max() - 1e-5
        assert not hidden[found[0]].any()


def test_lists_of_another_version_are_built_anew(monkeypatch, tmp_path) -> None:
    monkeypatch.setattr(assembly, "LISTS_ROWS", 4500)
    monkeypatch.setattr(scan_lists, "WORTHWHILE", 1)
    vectors = clustered(5000, 16)
    asked = vectors[1:9], [np.empty(0, np.int32)] * 8
    kept = KeptLists(tmp_path, "0a1b")
    assembly.automatic_engine(vectors, *asked, kept)
    before, now = kept.read()["version"].tolist(), scan_lists.LISTS_VERSION
    monkeypatch.setattr(scan_lists, "LISTS_VERSION", 99)
    assembly.automatic_engine(vectors, *asked, kept)
    assert (before, kept.read()["version"].tolist()) == ([now], [99])


def test_where_there_is_no_room_lists_are_not_kept_and_serve(monkeypatch, tmp_path, caplog) -> None:
    monkeypatch.setattr(assembly, "LISTS_ROWS", 4500)
    monkeypatch.setattr(scan_lists, "WORTHWHILE", 1)

    def full(arrays, path):
        raise safetensors.SafetensorError("No space left on device")

    monkeypatch.setattr("safetensors.numpy.save_file", full)
    vectors = clustered(5000, 16)
    kept = KeptLists(tmp_path, "0a1b")
    asked = vectors[1:9], [np.empty(0, np.int32)] * 8
    assert assembly.automatic_engine(vectors, *asked, kept).name == "scan_lists"
    assert kept.read() is None and "is not kept" in caplog.text


def test_rows_that_are_alike_do_not_take_all_lists() -> None:
    vectors = np.zeros((120_001, 8), np.float32)
    vectors[1:30_000] = clustered(29_999, 8)
    centres, _, lists = lists_of(vectors)
    assert np.bincount(lists[30_000:]).max() > 0
    assert (centres == 0).all(axis=1).sum() <= scan_lists.MOST_IN_A_GROUP


def test_what_has_changed_beside_the_engine_joins_what_was_read_again() -> None:
    vectors = clustered(1000, 8)
    index = LiveIndex(ScanListsIndex(vectors))
    index.engine.effort = 1
    query = vectors[5:6]
    index.add(np.array([1000], np.int32), 9 * query)
    banned = [np.arange(1, 990, dtype=np.int32)]
    rows, _ = index.search(query, 12, exclude=banned)
    assert rows[0, 0] == 1000 and sorted(rows[0, 1:11].tolist()) == list(range(990, 1000))


@pytest.mark.parametrize("grouped", [False, True])
def test_every_row_is_in_one_list_near_to_it(monkeypatch, grouped) -> None:
    monkeypatch.setattr(scan_lists, "POINTS_A_CENTRE", 5 if grouped else 200)
    vectors = clustered(20_000, 8)
    centres, spreads, lists = lists_of(vectors)
    # Groups take the lists due to them, rounded down.
    assert len(centres) == 99 if not grouped else 115 <= len(centres) <= 128
    assert len(np.unique(lists[1:])) > 0.5 * len(centres)
    distances = ((vectors[1:, None] - centres[None]) ** 2).sum(axis=2)
    own = distances[np.arange(19_999), lists[1:]]
    ranks = (distances < own[:, None]).sum(axis=1)
    assert (ranks == 0).mean() > (0.75 if grouped else 0.999) and np.median(ranks) == 0
    for number in np.unique(lists[1:]):
        inside = own[lists[1:] == number]
        assert spreads[number] == pytest.approx(np.sqrt(inside.mean() / 8), rel=1e-3)


def test_of_two_lists_with_one_centre_the_wide_one_is_read_first() -> None:
    rng = np.random.default_rng(0)
    centre = np.full(8, 2, np.float32)
    narrow, wide = (centre + width * rng.normal(size=(128, 8)) for width in (0.1, 1.0))
    vectors = np.concatenate([np.zeros((1, 8)), narrow, wide]).astype(np.float32)
    built = ScanListsIndex(clustered(200, 8)).to_tensors()
    made = {
        "version": np.array([scan_lists.LISTS_VERSION]),
        "centres": np.stack([centre, centre]),
        "spreads": np.array([0.1, 1], np.float32),
        "place_rows": np.arange(1, 257, dtype=np.int32),
        "starts": np.array([0, 8, 16]),
        "scale": scale_of(vectors),
        "codes": packed_codes(vectors, scale_of(vectors), np.arange(1, 257)),
    }
    assert set(made) == set(built)
    index = ScanListsIndex(vectors, made)
    index.effort = 1
    assert (index.search(centre[None], 20)[0] > 128).all()


@given(st.lists(st.integers(0, 4), min_size=2, max_size=400))
def test_places_hold_every_row_once_in_whole_steps(lists) -> None:
    place_rows, starts = places_of(np.array(lists, np.int32), 5)
    assert len(place_rows) == starts[-1] * LANES
    assert sorted(place_rows[place_rows > 0].tolist()) == list(range(1, len(lists)))
    for number in range(5):
        inside = place_rows[starts[number] * LANES : starts[number + 1] * LANES]
        assert all(lists[row] == number for row in inside[inside > 0].tolist())


def test_it_is_made_again_from_what_it_stores() -> None:
    vectors = clustered(1000, 8)
    index = ScanListsIndex(vectors)
    again = ScanListsIndex(vectors, index.to_tensors())
    assert again.most_effort == index.most_effort
    np.testing.assert_array_equal(again.search(vectors[:5], 9)[0], index.search(vectors[:5], 9)[0])


@pytest.mark.parametrize(
    "fault",
    [
        lambda kept: kept.pop("centres"),
        lambda kept: kept.update(starts=kept["starts"].astype(np.int32)),
        lambda kept: kept.update(starts=kept["starts"][:-1]),
        lambda kept: kept.update(centres=kept["centres"][:, :-1]),
        lambda kept: kept.update(spreads=kept["spreads"][:-1]),
        lambda kept: kept.update(
            place_rows=np.where(kept["place_rows"] == 7, 8, kept["place_rows"])
        ),
        lambda kept: kept.update(codes=kept["codes"][:-1]),
    ],
)
def test_lists_that_are_damaged_or_of_other_vectors_are_refused(fault) -> None:
    vectors = clustered(1000, 8)
    kept = dict(ScanListsIndex(vectors).to_tensors())
    fault(kept)
    with pytest.raises(ValueError, match="anew"):
        ScanListsIndex(vectors, kept)


def test_too_few_vectors_make_no_lists() -> None:
    with pytest.raises(ValueError, match="are needed: take another engine"):
        ScanListsIndex(clustered(100, 8))


def test_large_catalogues_are_searched_by_lists_if_that_finds_enough(monkeypatch) -> None:
    monkeypatch.setattr(assembly, "LISTS_ROWS", 4500)
    monkeypatch.setattr(scan_lists, "WORTHWHILE", 1)
    vectors = clustered(5000, 16)
    seen = [np.empty(0, np.int32)] * 8
    assert assembly.automatic_engine(vectors, vectors[1:9], seen).name == "scan_lists"
    monkeypatch.setattr(scan_lists, "WORTHWHILE", 33)
    assert assembly.automatic_engine(vectors, vectors[1:9], seen).name == "scan"
    monkeypatch.setattr(scan_lists, "WORTHWHILE", 1)
    monkeypatch.setattr(ScanListsIndex, "__init__", _blind)
    assert assembly.automatic_engine(vectors, vectors[1:9], seen).name == "scan"
    assert assembly.automatic_engine(vectors[:4400], vectors[1:9], seen).name == "scan"


def test_lists_are_built_once_for_a_bundle(monkeypatch, tmp_path) -> None:
    monkeypatch.setattr(assembly, "LISTS_ROWS", 4500)
    monkeypatch.setattr(scan_lists, "WORTHWHILE", 1)
    vectors = clustered(5000, 16)
    asked = vectors[1:9], [np.empty(0, np.int32)] * 8
    built = []
    lists_of = scan_lists.lists_of
    monkeypatch.setattr(scan_lists, "lists_of", lambda x: built.append(1) or lists_of(x))
    kept = KeptLists(tmp_path, "0a1b")
    first, again = (assembly.automatic_engine(vectors, *asked, kept) for _ in range(2))
    assert len(built) == 1 and (first.name, first.effort) == (again.name, again.effort)
    (file,) = tmp_path.rglob("lists-*.safetensors")
    file.write_bytes(file.read_bytes()[:-1] + b"x")
    assert kept.read() is None
    third = assembly.automatic_engine(vectors, *asked, kept)
    assert len(built) == 2 and kept.read() is not None
    np.testing.assert_array_equal(third.search(asked[0], 5)[0], first.search(asked[0], 5)[0])
    assembly.automatic_engine(vectors[:-1], *asked, kept)  # kept for other vectors
    assert len(built) == 3 and len(list(tmp_path.rglob("*.safetensors"))) == 1


def _blind(index, vectors, tensors=None):
    """Lists that hold nothing but the first rows."""
    ScanIndex.__init__(index, vectors)
    index._centres_CD = np.zeros((2, 16), np.float32)
    index._reach_C = np.zeros(2, np.float32)
    index._place_rows = np.zeros(len(index._codes) * LANES, np.int32)
    index._place_rows[:200] = np.arange(200)
    index._starts_C1 = np.array([0, 4, 8])
    index.effort = 1
