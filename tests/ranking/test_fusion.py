from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from ouzel.ranking.fusion import fused_scores, proposers, ranks, unite
from ouzel.retrieval.types import Candidates

lists = st.lists(st.integers(1, 12), unique=True, max_size=8)


def candidates(name, rows):
    return Candidates.of(name, np.array(rows, np.int32), np.arange(len(rows), 0, -1.0))


@given(parts=st.lists(lists, min_size=1, max_size=4))
def test_a_union_holds_each_item_once_with_all_its_ranks(parts):
    united = Candidates.empty()
    for number, rows in enumerate(parts):
        united = unite(united, candidates(f"s{number}", rows))
    assert united.rows_K.tolist() == list(dict.fromkeys(row for rows in parts for row in rows))
    ranked = dict(zip(united.rows_K.tolist(), ranks(united).tolist(), strict=True))
    for row, given_ in ranked.items():
        assert given_ == [rows.index(row) + 1 if row in rows else 0 for rows in parts]
    for row, names, source in zip(
        united.rows_K.tolist(), proposers(united), united.sources_K.tolist(), strict=True
    ):
        assert names == [f"s{number}" for number, rows in enumerate(parts) if row in rows]
        assert united.names[source] == names[0]


@given(one=lists, other=lists, weight=st.floats(0.0, 10.0))
def test_fused_scores_are_those_of_the_paper(one, other, weight):
    united = unite(candidates("a", one), candidates("b", other))
    found = fused_scores(ranks(united), [1.0, weight])
    for row, score in zip(united.rows_K.tolist(), found.tolist(), strict=True):
        expected = (1 / (61 + one.index(row)) if row in one else 0.0) + (
            weight / (61 + other.index(row)) if row in other else 0.0
        )
        np.testing.assert_allclose(score, expected, rtol=1e-5, atol=1e-9)


def test_agreement_outweighs_a_first_place():
    united = unite(candidates("a", [1, 2]), candidates("b", [3, 2]))
    scores = dict(zip(united.rows_K.tolist(), fused_scores(ranks(united), [1, 1]), strict=True))
    assert max(scores, key=scores.get) == 2


def test_what_is_taken_keeps_its_ranks():
    united = unite(candidates("a", [1, 2]), candidates("b", [3, 2])).take([1])
    assert (ranks(united).tolist(), proposers(united)) == ([[2, 2]], [["a", "b"]])
