"""How accuracy is shown: the columns that people compare, and the verdict in a sentence."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

SHOWN = ("model", "split", "recall@10", "ndcg@10", "mrr@10", "coverage@10", "num_users")
SHOWN_PARTS = ("ndcg@10_warm", "ndcg@10_cold", "num_cold")
"""Targets with little to go by, and the others: see `ouzel.evaluation.cold`."""


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
        shown |= {name: row[name] for name in SHOWN_PARTS if name in row}
        table.append(shown)
    return table


def verdict(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return in one sentence whether the first row is ahead of all others by NDCG@10.

    It is if its lead over the best of them is beyond chance: the whole 95 % interval above 0.

    >>> lead = {"ndcg@10_lead": 0.1, "ndcg@10_lead_low": 0.08, "ndcg@10_lead_high": 0.12}
    >>> model = {"model": "esasrec", "ndcg@10": 0.2, "best_baseline": "popular", **lead}
    >>> verdict([model, {"model": "popular", "ndcg@10": 0.1}])
    'esasrec is ahead of all others: NDCG@10 0.2000, popular 0.1000, lead 0.0800 .. 0.1200 (95%).'
    """
    if len(rows) < 2:
        return "There was nothing to compare on: no user has events in the test part."
    model = rows[0]
    name, rival, ours = model["model"], model["best_baseline"], model["ndcg@10"]
    theirs = next(row["ndcg@10"] for row in rows[1:] if row["model"] == rival)
    low, high = model["ndcg@10_lead_low"], model["ndcg@10_lead_high"]
    figures = f"NDCG@10 {ours:.4f}, {rival} {theirs:.4f}, lead {low:.4f} .. {high:.4f} (95%)."
    if low > 0:
        return f"{name} is ahead of all others: {figures}"
    if high >= 0:
        return f"{name} and {rival}, the best of the others, cannot be told apart: {figures}"
    return (
        f"{rival} is ahead of {name}: {figures} "
        "Short histories or little data favour simple methods; compare before you serve."
    )
