"""How accuracy is shown: the columns that people compare, and the verdict in a sentence."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

SHOWN = ("model", "split", "recall@10", "ndcg@10", "mrr@10", "coverage@10", "num_users")


def accuracy_table(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return the rows with the columns worth a person's look, NDCG with its 95 % interval.

    >>> accuracy_table([{"model": "popular", "ndcg@10": 0.1}])
    [{'model': 'popular', 'ndcg@10': 0.1}]
    """
    table = []
    for row in rows:
        shown = {name: row[name] for name in SHOWN if name in row}
        if "ndcg@10_low" in row:
            shown["ndcg@10 95%"] = f"{row['ndcg@10_low']:.4f} .. {row['ndcg@10_high']:.4f}"
        table.append(shown)
    return table


def verdict(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return in one sentence whether the model, the first row, beats every baseline by NDCG@10.

    >>> rows = [{"model": "esasrec", "ndcg@10": 0.2}, {"model": "popular", "ndcg@10": 0.1}]
    >>> verdict(rows)
    'esasrec beats every baseline: NDCG@10 0.2000, best baseline popular 0.1000 (+100%).'
    """
    if len(rows) < 2:
        return "There was nothing to compare on: no user has events in the test part."
    model, best = rows[0], max(rows[1:], key=lambda row: float(row["ndcg@10"]))
    ours, theirs = float(model["ndcg@10"]), float(best["ndcg@10"])
    if ours > theirs:
        lead = f" (+{100 * (ours / theirs - 1):.0f}%)" if theirs > 0 else ""
        return (
            f"{model['model']} beats every baseline: NDCG@10 {ours:.4f}, "
            f"best baseline {best['model']} {theirs:.4f}{lead}."
        )
    return (
        f"A baseline wins: {best['model']} has NDCG@10 {theirs:.4f}, {model['model']} {ours:.4f}. "
        "Short histories or little data favour simple methods; compare before you serve."
    )
