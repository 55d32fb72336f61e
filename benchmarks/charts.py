"""Charts with two axes, as SVG written by hand: learning curves, and what accuracy costs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from xml.sax.saxutils import escape

WIDTH, HEIGHT = 830, 392
LEFT, RIGHT, TOP, BOTTOM = 62, 310, 52, 66
COLOURS = ("#12908a", "#c2571a", "#5a67b8", "#9a7b16", "#a63d76", "#4d7f2f", "#6b7b83", "#2f77b0")
ALONE = 3.0
"""Radius of a point with no other to draw a line to."""

STYLE = """
  text { font: 13px system-ui, sans-serif; fill: #15242b; }
  .title { font-size: 15px; font-weight: 600; } .note, .tick { fill: #5a6a70; font-size: 12px; }
  .grid { stroke: #d5dcde; stroke-width: 1; } polyline { fill: none; stroke-width: 2; }
  @media (prefers-color-scheme: dark) {
    text { fill: #e9eeee; } .note, .tick { fill: #9fb0b4; } .grid { stroke: #33444a; }
  }
"""


@dataclass(frozen=True)
class Series:
    """Points (x, y) of one name, joined by a line; `radius` > 0 draws them as discs instead."""

    name: str
    points: Sequence[tuple[float, float]]
    radius: float = 0.0


@dataclass(frozen=True)
class Axis:
    """What an axis shows, and whether equal ratios take equal room on it."""

    title: str
    logarithmic: bool = False

    def place(self, value: float, low: float, high: float) -> float:
        """Return where a value lies between `low` (0) and `high` (1).

        >>> Axis("ms", logarithmic=True).place(10, 1, 100)
        0.5
        """
        if self.logarithmic:
            value, low, high = math.log(value), math.log(low), math.log(high)
        return (value - low) / (high - low)

    def ticks(self, low: float, high: float) -> tuple[float, float, list[float]]:
        """Return the ends of the axis and its marks, so that all values are within.

        >>> Axis("epoch").ticks(1, 48)
        (0.0, 50.0, [0.0, 10.0, 20.0, 30.0, 40.0, 50.0])
        >>> Axis("ms", logarithmic=True).ticks(0.3, 20)
        (0.2, 20.0, [0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0])
        """
        if self.logarithmic:
            whole = range(math.floor(math.log10(low)) - 1, math.ceil(math.log10(high)) + 1)
            marks = [digit * 10.0**power for power in whole for digit in (1, 2, 5)]
            first = max(mark for mark in marks if mark <= low)
            last = min(mark for mark in marks if mark >= high and mark > first)
            return first, last, [mark for mark in marks if first <= mark <= last]
        rough = (high - low or abs(high) or 1.0) / 5
        power = 10.0 ** math.floor(math.log10(rough))
        step = min((digit * power for digit in (1, 2, 5, 10)), key=lambda s: abs(s - rough))
        first, last = math.floor(low / step), math.ceil(high / step)
        last = max(last, first + 1)
        return first * step, last * step, [n * step for n in range(first, last + 1)]


def chart(title: str, x: Axis, y: Axis, series: Sequence[Series], note: str) -> str:
    """Return an SVG of `series`, their names beside it.

    >>> line = Series("a < b", [(1, 0.1), (2, 0.2)])
    >>> chart("Learning", Axis("epoch"), Axis("NDCG@10"), [line], "here").count("a &lt; b")
    1
    """
    across = x.ticks(*_ends([point[0] for one in series for point in one.points]))
    up = y.ticks(*_ends([point[1] for one in series for point in one.points]))
    wide, high = WIDTH - LEFT - RIGHT, HEIGHT - TOP - BOTTOM

    def at(point: tuple[float, float]) -> tuple[float, float]:
        left = LEFT + wide * x.place(point[0], *across[:2])
        return left, TOP + high * (1 - y.place(point[1], *up[:2]))

    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img">',
        f"<style>{STYLE}</style>",
        f'<text class="title" x="0" y="18">{escape(title)}</text>',
    ]
    lines += [_level(mark, at((across[0], mark))[1]) for mark in up[2]]
    lines += [_tick(mark, at((mark, up[0]))[0], TOP + high + 18) for mark in across[2]]
    for place, one in enumerate(series):
        lines += _drawn(one, COLOURS[place % len(COLOURS)], [at(point) for point in one.points])
        lines += _named(one, COLOURS[place % len(COLOURS)], place)
    lines += [
        f'<text x="{LEFT + wide / 2}" y="{TOP + high + 36}" text-anchor="middle">'
        f"{escape(x.title)}</text>",
        f'<text x="{LEFT}" y="{TOP - 8}">{escape(y.title)}</text>',
        f'<text class="note" x="0" y="{HEIGHT - 8}">{escape(note)}</text>',
        "</svg>",
        "",
    ]
    return "\n".join(lines)


def _level(mark: float, height: float) -> str:
    ends = f'x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{height:.1f}" y2="{height:.1f}"'
    text = _tick(mark, LEFT - 6, height + 4, anchor="end")
    return f'<line class="grid" {ends}/>{text}'


def _tick(mark: float, left: float, top: float, *, anchor: str = "middle") -> str:
    place = f'x="{left:.1f}" y="{top:.1f}" text-anchor="{anchor}"'
    return f'<text class="tick" {place}>{mark:g}</text>'


def _ends(values: Sequence[float]) -> tuple[float, float]:
    return min(values), max(values)


def _drawn(one: Series, colour: str, places: Sequence[tuple[float, float]]) -> list[str]:
    if one.radius or len(places) == 1:
        return [
            f'<circle cx="{left:.1f}" cy="{top:.1f}" r="{one.radius or ALONE:.1f}" fill="{colour}" '
            'fill-opacity="0.75"/>'
            for left, top in places
        ]
    points = " ".join(f"{left:.1f},{top:.1f}" for left, top in places)
    return [f'<polyline points="{points}" stroke="{colour}"/>']


def _named(one: Series, colour: str, place: int) -> list[str]:
    left, top = WIDTH - RIGHT + 14, TOP + 12 + 20 * place
    return [
        f'<rect x="{left}" y="{top - 9}" width="12" height="12" rx="3" fill="{colour}"/>',
        f'<text x="{left + 18}" y="{top + 2}">{escape(one.name)}</text>',
    ]
