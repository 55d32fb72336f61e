"""The verdict is no surer than the data."""

from __future__ import annotations

import pytest

from ouzel.cli.printing.accuracy import accuracy_table, verdict


def rows_of(low, high, *, ours=0.2, theirs=0.15):
    lead = {"ndcg@10_lead": ours - theirs, "ndcg@10_lead_low": low, "ndcg@10_lead_high": high}
    model = {"model": "esasrec", "ndcg@10": ours, "best_baseline": "vmis", **lead}
    return [model, {"model": "popular", "ndcg@10": 0.1}, {"model": "vmis", "ndcg@10": theirs}]


@pytest.mark.parametrize(
    ("low", "high", "words"),
    [
        (0.01, 0.09, "esasrec is ahead of all others: NDCG@10 0.2000, vmis 0.1500"),
        (-0.01, 0.11, "esasrec and vmis, the best of the others, cannot be told apart"),
        (0.0, 0.0, "cannot be told apart"),
        (-0.09, -0.01, "vmis is ahead of esasrec"),
    ],
)
def test_a_lead_counts_only_beyond_its_interval(low, high, words):
    said = verdict(rows_of(low, high))
    assert words in said
    assert f"lead {low:.4f} .. {high:.4f} (95%)" in said


def test_no_test_part_is_no_verdict():
    assert verdict([]).startswith("There was nothing to compare on")


def test_the_table_keeps_to_the_columns_people_compare():
    assert set(accuracy_table(rows_of(0.01, 0.09))[0]) == {"model", "ndcg@10"}
