"""Plots of the committed results, as SVG written by hand: no plotting library is installed for it.

    python -m benchmarks.plots        # benchmarks/results/**/*.json -> benchmarks/plots/*.svg

The text and its colours follow the reader's light or dark scheme.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

from benchmarks.charts import Axis, Series, chart

ROOT = Path(__file__).parent
WIDTH, LABEL_WIDTH, VALUE_WIDTH, BAR_HEIGHT = 720, 230, 90, 22
STYLE = """
  text { font: 13px system-ui, sans-serif; fill: #15242b; }
  .title { font-size: 15px; font-weight: 600; } .note { fill: #5a6a70; font-size: 12px; }
  .ours { fill: #12908a; } .theirs { fill: #9aa6ad; }
  @media (prefers-color-scheme: dark) {
    text { fill: #e9eeee; } .note { fill: #9fb0b4; } .theirs { fill: #5c6a70; }
  }
"""

TIMED_OUT_MS = 5000.0
"""A p99 of the load generator's patience, or above, is no latency."""

Row = dict[str, Any]


@dataclass(frozen=True)
class Bar:
    """One bar: what it stands for, how long it is, and whether it is Ouzel's."""

    label: str
    value: float
    ours: bool


@dataclass(frozen=True)
class Plot:
    """A plot over the rows of one topic; `bar` says what a row shows, None if nothing."""

    name: str
    topic: str
    title: str
    form: str
    bar: Callable[[Row], Bar | None]


def _rate_bar(row: Row) -> Bar | None:
    if row.get("p99_mark_ms") != 50.0 or "(tuning)" in row["system"]:
        return None
    return Bar(
        f"{row['case']} items · {row['system']}", row["requests_per_s"], row["system"] == "ouzel"
    )


def _visible_bar(row: Row) -> Bar | None:
    if row.get("case") != "visible":
        return None
    return Bar("click to next answer, p99", row["p99_ms"], True)


PLOTS = (
    Plot(
        "serving-rate",
        "serving",
        "Requests per second held for 30 s, p99 within 50 ms",
        "{:,.0f}/s",
        _rate_bar,
    ),
    Plot("serving-visible", "serving", "A click is visible after", "{:.1f} ms", _visible_bar),
)


def draw(title: str, bars: Sequence[Bar], form: str, note: str) -> str:
    """Return an SVG of horizontal bars from a common zero.

    >>> draw("Speed", [Bar("a < b", 2.0, True)], "{:.0f}/s", "here").count("a &lt; b")
    1
    """
    height = 62 + len(bars) * (BAR_HEIGHT + 10)
    room = WIDTH - LABEL_WIDTH - VALUE_WIDTH
    longest = max(bar.value for bar in bars) or 1.0
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" role="img">',
        f"<style>{STYLE}</style>",
        f'<text class="title" x="0" y="18">{escape(title)}</text>',
    ]
    for place, bar in enumerate(bars):
        top = 34 + place * (BAR_HEIGHT + 10)
        middle, length = top + 15, max(1.0, room * bar.value / longest)
        kind = "ours" if bar.ours else "theirs"
        label, value = escape(bar.label), form.format(bar.value)
        lines += [
            f'<text x="{LABEL_WIDTH - 8}" y="{middle}" text-anchor="end">{label}</text>',
            f'<rect class="{kind}" x="{LABEL_WIDTH}" y="{top}" width="{length:.1f}" '
            f'height="{BAR_HEIGHT}" rx="3"/>',
            f'<text x="{LABEL_WIDTH + length + 8:.1f}" y="{middle}">{value}</text>',
        ]
    lines += [f'<text class="note" x="0" y="{height - 8}">{escape(note)}</text>', "</svg>", ""]
    return "\n".join(lines)


def results(folder: Path) -> Iterator[dict[str, Any]]:
    """Yield the result documents of one topic, in the order of their names."""
    for path in sorted(folder.glob("*.json")):
        yield json.loads(path.read_text("utf-8"))


def bars_of(plot: Plot, documents: Iterable[dict[str, Any]]) -> list[Bar]:
    """Return the bars of a plot; of bars with one label the last document's holds."""
    found = {}
    for document in documents:
        for row in document["rows"]:
            if bar := plot.bar(row):
                found[bar.label] = bar
    return list(found.values())


def curves_of(documents: Iterable[dict[str, Any]]) -> dict[str, list[Series]]:
    """Return for each data set the curve of the first seed of each model."""
    found: dict[str, dict[str, Series]] = {}
    for document in documents:
        for row in document["rows"]:
            if row.get("curve") and row["split"] == "leave-one-out":
                named = found.setdefault(row["case"], {})
                # It is the model that was trained, whatever it was blended with after that.
                name = _name(row).replace(" + blend", "")
                named.setdefault(name, Series(name, row["curve"]))
    return {case: list(named.values()) for case, named in found.items()}


def costs_of(documents: Iterable[dict[str, Any]]) -> dict[str, list[Series]]:
    """Return for each data set a disc for each model: what a list takes, what it finds, and, by
    the area, how large a state is; the first seed's."""
    found: dict[str, dict[str, Series]] = {}
    for document in documents:
        for row in document["rows"]:
            if "click_to_list_ms" in row and row["split"] == "leave-one-out" and "seed" in row:
                name = f"{_name(row)}, {row['state_bytes'] / 1000:,.1f} kB"
                radius = 4 + (row["state_bytes"] / 1000) ** 0.5
                point = row["click_to_list_ms"], row["ndcg@10"]
                named = found.setdefault(row["case"], {})
                named.setdefault(_name(row), Series(name, [point], radius))
    return {case: list(named.values()) for case, named in found.items()}


def latencies_of(document: dict[str, Any]) -> list[Series]:
    """Return for each system its p99 by the rate of requests; of several tunings the best at each.

    >>> rows = [{"system": "a", "rate": 9, "p99_ms": ms} for ms in (5.0, 3.0)]
    >>> latencies_of({"rows": rows})
    [Series(name='a', points=[(9, 3.0)], radius=0.0)]
    """
    best: dict[str, dict[float, float]] = {}
    for row in document["rows"]:
        if "rate" in row and row["p99_ms"] < TIMED_OUT_MS:
            by_rate = best.setdefault(row["system"], {})
            by_rate[row["rate"]] = min(row["p99_ms"], by_rate.get(row["rate"], TIMED_OUT_MS))
    return [Series(system, sorted(by_rate.items())) for system, by_rate in best.items()]


def _name(row: Row) -> str:
    settings = ", ".join(f"{key}={value}" for key, value in row.get("settings", {}).items())
    name: str = row["model"]
    return f"{name} ({settings})" if settings else name


def write_charts(target: Path) -> None:
    """Write the charts of accuracy: learning curves, and what a model costs, by data set."""
    documents = list(results(ROOT / "results" / "accuracy"))
    note = "NDCG@10 on the validation part after each epoch; seed 0"
    for case, series in curves_of(documents).items():
        title = f"Learning curves: {case}"
        svg = chart(title, Axis("epoch"), Axis("NDCG@10"), series, note)
        (target / f"learning-{case}.svg").write_text(svg, "utf-8")
    note = "click to list: median, one user, in process, no disk; area: bytes of a user's state"
    for case, series in costs_of(documents).items():
        if len(series) > 1:
            took = Axis("click to list, ms", logarithmic=True)
            svg = chart(f"What accuracy costs: {case}", took, Axis("NDCG@10, test"), series, note)
            (target / f"costs-{case}.svg").write_text(svg, "utf-8")


def write_latencies(target: Path) -> None:
    """Write a chart of the p99 by the rate for each run beside peers."""
    for path in sorted((ROOT / "results" / "serving").glob("*_peer_rates.json")):
        document = json.loads(path.read_text("utf-8"))
        case = document["rows"][0]["case"]
        axes = Axis("requests/s", logarithmic=True), Axis("p99, ms", logarithmic=True)
        note = f"in its best tuning at each rate, each for 10 s; {_made_on(document)}"
        svg = chart(f"Latency by load: {case} items", *axes, latencies_of(document), note)
        (target / f"{path.stem}.svg").write_text(svg, "utf-8")


def _made_on(document: dict[str, Any]) -> str:
    machine = document["machine"]
    return f"{machine['cpu']}, {machine['cores']:g} cores, commit {document['commit']}"


def main() -> None:
    """Write every plot that has results."""
    target = ROOT / "plots"
    target.mkdir(exist_ok=True)
    write_charts(target)
    write_latencies(target)
    for plot in PLOTS:
        every = results(ROOT / "results" / plot.topic)
        documents = [document for document in every if bars_of(plot, [document])]
        bars = bars_of(plot, documents)
        if not bars:
            print(f"{plot.name}: no results under benchmarks/results/{plot.topic}")
            continue
        note = _made_on(documents[-1])
        path = target / f"{plot.name}.svg"
        path.write_text(draw(plot.title, bars, plot.form, note), "utf-8")
        print(path)


if __name__ == "__main__":
    main()
