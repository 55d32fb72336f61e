"""From a raw table to canonical columns: every value checked, every loss counted and explained."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import polars as pl

from ouzel.data.aliases import CANONICAL
from ouzel.data.raw import LINE, Raw
from ouzel.data.report import MAX_PROBLEMS, Problem, ReadReport, Reason
from ouzel.data.values import id_text, is_blank, milliseconds, number
from ouzel.events.types import MAX_ID_BYTES
from ouzel.events.validation import MAX_TIMESTAMP_MS
from ouzel.events.verbs import canonical_verb

_CONTROL = r"[\x00-\x1f\x7f-\x9f]"
_MAX_VALUE = 3.4e38  # float32


@dataclass(frozen=True)
class _Rule:
    """A condition on checked columns that makes a row unusable, with its explanation."""

    reason: Reason
    column: str
    condition: pl.Expr
    remedy: str


_NO_VERB = _Rule(
    "unparsable",
    "event",
    pl.lit(False),  # known only once all verbs are
    "use a shipped verb, or a name of your own in lower case letters, digits and _",
)


def canonical(raw: Raw) -> tuple[pl.DataFrame, ReadReport]:
    """Return the canonical frame of a raw table and the report of what was left out.

    Raises: ValueError if a column has a type that cannot hold its values.

    >>> columns = {"user_id": "user", "item_id": "item", "timestamp": "ts"}
    >>> rows = {"user_id": ["u", "u"], "item_id": ["a", ""], "timestamp": [5, 6], "line": [2, 3]}
    >>> frame, report = canonical(Raw("a table", pl.LazyFrame(rows), columns))
    >>> print(report)
    a table: kept 1 of 2 rows (dropped 1 missing)
    """
    rules = [*_rules(raw), _NO_VERB]
    frame = _named(_checked(raw, rules), len(rules))
    bad = frame.filter(pl.col("fault") > 0)
    kept = (frame.filter(pl.col("fault") == 0) if len(bad) else frame).drop("fault")
    repeats = _repeats(kept)
    if len(repeats):
        kept = kept.join(repeats.select(LINE), on=LINE, how="anti", maintain_order="left")
    problems = [*raw.problems, *_problems(raw, bad, rules), *_repeat_problems(repeats)]
    report = ReadReport(
        raw.recognised,
        len(frame) + raw.num_broken,
        len(kept),
        _counts(raw, bad, rules, len(repeats)),
        tuple(sorted(problems, key=lambda problem: problem.line)[:MAX_PROBLEMS]),
        "timestamp" in raw.columns,
    )
    return kept, report


def _rules(raw: Raw) -> list[_Rule]:
    rules = [*_id_rules("user_id"), *_id_rules("item_id")]
    if "event" in raw.columns:
        remedy = "fill it in with a verb such as click"
        rules.append(_Rule("missing", "event", is_blank("_event"), remedy))
    if "timestamp" in raw.columns:
        rules += _time_rules()
    if "value" in raw.columns:
        rules += _value_rules(raw.value_range)
    return rules


def _id_rules(name: str) -> Iterable[_Rule]:
    text = pl.col(name)
    yield _Rule("missing", name, is_blank(name), "fill it in, or remove the row")
    too_long = text.str.len_bytes() > MAX_ID_BYTES
    yield _Rule("out of range", name, too_long, f"shorten the id to {MAX_ID_BYTES} bytes")
    yield _Rule("unparsable", name, text.str.contains(_CONTROL), "remove the control characters")


def _time_rules() -> Iterable[_Rule]:
    time = pl.col("timestamp")
    yield _Rule("missing", "timestamp", is_blank("_timestamp"), "fill it in, or remove the row")
    remedy = "use epoch s or ms, or RFC 3339"
    yield _Rule("unparsable", "timestamp", time.is_null(), remedy)
    remedy = "use epoch seconds or milliseconds between 1970 and 9999"
    outside = ~time.is_between(0, MAX_TIMESTAMP_MS)
    yield _Rule("out of range", "timestamp", outside, remedy)


def _value_rules(bounds: tuple[float, float] | None) -> Iterable[_Rule]:
    value = pl.col("value")
    lost = value.is_null() & ~is_blank("_value")
    yield _Rule("unparsable", "value", lost, "give a number or leave it empty")
    low, high = bounds or (-_MAX_VALUE, _MAX_VALUE)
    remedy = f"give a number between {low:g} and {high:g}" if bounds else "give a finite number"
    outside = value.is_nan() | ~value.is_between(low, high)
    yield _Rule("out of range", "value", outside, remedy)


def _checked(raw: Raw, rules: Sequence[_Rule]) -> pl.DataFrame:
    """Return all rows with canonical types and `fault`, the number of the first broken rule."""
    frame = _typed(raw, rules, any_format=False)
    unparsable = [
        number
        for number, rule in enumerate(rules, 1)
        if (rule.reason, rule.column) == ("unparsable", "timestamp")
    ]
    if frame["fault"].is_in(unparsable).any():
        # Numbers are the fast case; only a column with other texts pays for the date formats.
        frame = _typed(raw, rules, any_format=True)
    return frame


def _typed(raw: Raw, rules: Sequence[_Rule], *, any_format: bool) -> pl.DataFrame:
    schema = raw.table.collect_schema()
    fault = pl.lit(0, pl.UInt8)
    for position, rule in reversed(list(enumerate(rules, 1))):
        fault = pl.when(rule.condition).then(pl.lit(position, pl.UInt8)).otherwise(fault)
    values = [id_text(name, schema[name]).alias(name) for name in CANONICAL[:2]]
    event = pl.col("event").cast(pl.String) if "event" in schema else pl.lit(raw.default_event)
    time = (
        milliseconds("timestamp", schema["timestamp"], any_format=any_format)
        if "timestamp" in schema
        else pl.col(LINE).cast(pl.Int64)
    )
    value = number("value", schema["value"]) if "value" in schema else pl.lit(None, pl.Float64)
    originals = [pl.col(name).alias(f"_{name}") for name in CANONICAL[2:] if name in schema]
    return (
        raw.table.with_columns(
            *values, *originals, event.alias("event"), time.alias("timestamp"), value.alias("value")
        )
        .select(
            *CANONICAL[:4],
            pl.col("value").cast(pl.Float32),
            pl.col(LINE).cast(pl.UInt32),
            fault.alias("fault"),
        )
        .collect(engine="streaming")
    )


def _named(frame: pl.DataFrame, no_verb: int) -> pl.DataFrame:
    """Return the frame with Ouzel's verbs; rows whose names are no verbs get fault `no_verb`."""
    verbs, refused = {}, []
    for name in frame["event"].unique().drop_nulls().to_list():
        try:
            verbs[name] = canonical_verb(name) if name else name
        except ValueError:
            refused.append(name)
    if refused:
        wrong = pl.col("event").is_in(refused) & (pl.col("fault") == 0)
        fault = pl.when(wrong).then(pl.lit(no_verb, pl.UInt8)).otherwise(pl.col("fault"))
        frame = frame.with_columns(fault.alias("fault"))
    if any(name != verb for name, verb in verbs.items()):
        frame = frame.with_columns(pl.col("event").replace(verbs))
    return frame


def _repeats(kept: pl.DataFrame) -> pl.DataFrame:
    """Return the rows that equal an earlier one, with the line of that as `first`."""
    # Few rows share a hash; only they are compared, which spares memory.
    twins = kept.filter(kept.select(CANONICAL).hash_rows().is_duplicated())
    marked = twins.with_columns(first=pl.col(LINE).min().over(CANONICAL))
    return marked.filter(pl.col("first") != pl.col(LINE))


def _counts(
    raw: Raw, bad: pl.DataFrame, rules: Sequence[_Rule], num_repeats: int
) -> dict[Reason, int]:
    counts: dict[Reason, int] = {"unparsable": raw.num_broken, "duplicate": num_repeats}
    for position, count in bad["fault"].value_counts().sort("fault").iter_rows():
        reason = rules[position - 1].reason
        counts[reason] = counts.get(reason, 0) + count
    return {reason: count for reason, count in counts.items() if count}


def _problems(raw: Raw, bad: pl.DataFrame, rules: Sequence[_Rule]) -> list[Problem]:
    if not len(bad):
        return []
    first = bad.sort(LINE).head(MAX_PROBLEMS).select(LINE, "fault")
    source = raw.table.filter(pl.col(LINE).is_in(first[LINE].to_list())).collect()
    values = {row[LINE]: row for row in source.iter_rows(named=True)}
    found = []
    for line, fault in first.iter_rows():
        rule = rules[fault - 1]
        value = values[line][rule.column]
        column = raw.columns[rule.column]
        text = "" if value is None else str(value)
        found.append(Problem(line, column, text, rule.reason, rule.remedy))
    return found


def _repeat_problems(repeats: pl.DataFrame) -> list[Problem]:
    return [
        Problem(
            row[LINE],
            "item_id",
            row["item_id"],
            "duplicate",
            f"remove the row: line {row['first']} says the same",
        )
        for row in repeats.head(MAX_PROBLEMS).iter_rows(named=True)
    ]
