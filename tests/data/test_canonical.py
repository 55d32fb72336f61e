"""Nothing is dropped silently: every fault is counted, named with its line, and explained."""

from __future__ import annotations

import datetime as dt
from pathlib import Path

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ouzel.data import Problem, from_arrow, read
from tests.data.sources import write

HEADER = "userID,itemID,action,time,rating\n"
GOOD = "u1,a,view,978300760,4\n"
FAULTS = {
    ",b,view,978300760,4": ("userID", "", "missing"),
    "u1,,view,978300760,4": ("itemID", "", "missing"),
    "u1,b,,978300760,4": ("action", "", "missing"),
    "u1,b,view,,4": ("time", "", "missing"),
    "u1,b,VIEW IT,978300760,4": ("action", "VIEW IT", "unparsable"),
    "u1,b,view,yesterday,4": ("time", "yesterday", "unparsable"),
    "u1,b,view,978300760,four": ("rating", "four", "unparsable"),
    "u1,b\x07,view,978300760,4": ("itemID", "b\x07", "unparsable"),
    '"u1\n2",b,view,978300760,4': ("userID", "u1\n2", "unparsable"),
    "u1,b,view": ("time", "", "missing"),
    "u1,b,view,978300760,4,5": ("line", "u1,b,view,978300760,4,5", "unparsable"),
    f"{'u' * 257},b,view,978300760,4": ("userID", "u" * 257, "out of range"),
    "u1,b,view,-1,4": ("time", "-1", "out of range"),
    "u1,b,view,978300760000000000,4": ("time", "978300760000000000", "out of range"),
    "u1,b,view,978300760,nan": ("rating", "nan", "out of range"),
    "u1,b,view,978300760,-inf": ("rating", "-inf", "out of range"),
    GOOD.strip(): ("item_id", "a", "duplicate"),
}


@pytest.mark.parametrize("between", ["", "\n", "\r\n\r\n"])
@pytest.mark.parametrize("row", FAULTS)
def test_each_fault_is_reported_with_line_column_value_and_remedy(
    tmp_path: Path, row: str, between: str
) -> None:
    path = write(tmp_path / "e.csv", HEADER + GOOD + between + row + "\nu2,z,view,978300761\n")
    dataset = read(path)
    (problem,) = dataset.report.problems
    assert (problem.column, problem.value, problem.reason) == FAULTS[row]
    line = 3 + between.count("\n")
    assert problem.line == line
    assert problem.remedy
    assert dataset.report.dropped == {problem.reason: 1}
    assert (dataset.report.rows_read, dataset.report.rows_kept) == (3, 2)
    assert dataset.frame["item_id"].to_list() == ["a", "z"]
    assert f"line {line}, {problem.column}" in str(problem)
    with pytest.raises(ValueError, match=rf"kept 2 of 3 rows .*: first, line {line}"):
        read(path, strict=True)


def test_all_faults_at_once_are_counted(tmp_path: Path) -> None:
    rows = [*FAULTS, *FAULTS]
    report = read(write(tmp_path / "e.csv", HEADER + GOOD + "\n".join(rows))).report
    reasons = [reason for _, _, reason in FAULTS.values()]
    assert report.dropped == {reason: 2 * reasons.count(reason) for reason in set(reasons)}
    assert report.rows_read == report.rows_kept + sum(report.dropped.values())
    assert [problem.line for problem in report.problems] == sorted(
        problem.line for problem in report.problems
    )


def test_problems_are_listed_up_to_a_hundred_and_counted_beyond(tmp_path: Path) -> None:
    path = write(tmp_path / "e.csv", HEADER + GOOD + "u1,b,view,x,4\n" * 250)
    report = read(path).report
    assert report.dropped == {"unparsable": 250}
    assert len(report.problems) == 100
    assert report.problems[-1] == Problem(
        102, "time", "x", "unparsable", "use epoch s or ms, or RFC 3339"
    )


def test_broken_utf8_is_one_row(tmp_path: Path) -> None:
    path = tmp_path / "e.csv"
    path.write_bytes((HEADER + GOOD).encode() + b"u1,\xff,view,5,4\n")
    report = read(path).report
    assert report.dropped == {"unparsable": 1}
    assert report.problems[0].remedy == "save the file as UTF-8"


def test_a_quote_that_never_closes_is_an_error(tmp_path: Path) -> None:
    path = write(tmp_path / "e.csv", HEADER + GOOD + '"u,b,view\n' + GOOD * 10_000)
    with pytest.raises(ValueError, match=r"line \d+ cannot be split .*: close the quote"):
        read(path)


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("{", "unparsable"),
        ("7", "unparsable"),
        ('{"user_id": [1], "item_id": "a"}', "unparsable"),
        ('{"user_id": true, "item_id": "a"}', "unparsable"),
        ('{"user_id": "u"}', "missing"),
        ('{"user_id": "u", "item_id": null}', "missing"),
        ('{"user_id": "\\u0001", "item_id": "a"}', "unparsable"),
        ('{"user_id": "\\ud800", "item_id": "a"}', "unparsable"),
    ],
)
def test_json_lines_with_faults(tmp_path: Path, line: str, reason: str) -> None:
    good = '{"user_id": 12, "item_id": "a"}\n'
    dataset = read(write(tmp_path / "e.jsonl", good + "\n" + line + "\n" + good))
    assert dataset.report.dropped == {reason: 1}
    assert dataset.report.problems[0].line == 3
    assert dataset.frame["user_id"].to_list() == ["12", "12"]


def test_repeats_differ_in_nothing(tmp_path: Path) -> None:
    rows = ["u,a,view,5,1", "u,a,view,5,2", "u,a,click,5,1", "u,a,view,6,1", "v,a,view,5,1"]
    path = write(tmp_path / "e.csv", HEADER + "\n".join([*rows, *rows[::-1]]) + "\n")
    dataset = read(path)
    assert dataset.frame["line"].to_list() == [2, 3, 4, 5, 6]
    assert dataset.report.dropped == {"duplicate": 5}
    remedies = [problem.remedy for problem in dataset.report.problems]
    assert remedies[0] == "remove the row: line 6 says the same"


@pytest.mark.parametrize(
    "text",
    [
        *("978300760", "978300760000", "978300760.0", "9.7830076e8", "2000-12-31T22:12:40Z"),
        *("2000-12-31T22:12:40.000+00:00", "2000-12-31 22:12:40", "2000-12-31T23:12:40+01:00"),
    ],
)
def test_times_may_be_seconds_milliseconds_or_rfc3339(tmp_path: Path, text: str) -> None:
    path = write(tmp_path / "e.csv", f"user_id,item_id,timestamp\nu,a,{text}\nu,b,5\n")
    assert read(path, strict=True).frame["timestamp"].to_list() == [978300760000, 5000]


@pytest.mark.parametrize("zone", [None, "UTC", "Asia/Tokyo"])
def test_typed_times(zone: str | None) -> None:
    moment = dt.datetime(2001, 1, 1, 7, 30, tzinfo=dt.UTC)
    column = pl.Series([moment.replace(tzinfo=None)], dtype=pl.Datetime("us"))
    if zone:
        column = column.dt.replace_time_zone("UTC").dt.convert_time_zone(zone)
    frame = pl.DataFrame({"user_id": ["u"], "item_id": ["a"], "timestamp": column})
    expected = int(moment.timestamp()) * 1000
    assert from_arrow(frame).frame["timestamp"].to_list() == [expected]
    days = frame.with_columns(pl.lit(dt.date(2001, 1, 1)).alias("timestamp"))
    assert from_arrow(days).frame["timestamp"].to_list() == [978307200000]


@given(st.integers(0, 99_999_999_999))
def test_small_numbers_are_seconds(seconds: int) -> None:
    frame = pl.DataFrame({"user_id": ["u"], "item_id": ["a"], "timestamp": [seconds]})
    assert from_arrow(frame).frame["timestamp"].to_list() == [seconds * 1000]


def test_typed_ids() -> None:
    frame = pl.DataFrame({"user_id": [1.0, None, 2.5, float("nan")], "item_id": [7, 8, 9, 9]})
    dataset = from_arrow(frame)
    assert dataset.frame["user_id"].to_list() == ["1", "2.5"]
    assert dataset.report.dropped == {"missing": 2}


@pytest.mark.parametrize(
    ("column", "values"),
    [
        ("user_id", [["u"]]),
        ("item_id", [b"a"]),
        ("timestamp", [[1]]),
        ("timestamp", [True]),
        ("value", [dt.date(2001, 1, 1)]),
    ],
)
def test_types_that_hold_no_such_thing(column: str, values: list[object]) -> None:
    frame = pl.DataFrame({"user_id": ["u"], "item_id": ["a"]} | {column: values})
    with pytest.raises(ValueError, match=f"{column} has type"):
        from_arrow(frame)


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["u", "v", "", None]),
            st.sampled_from(["a", "b", "x\n", None]),
            st.sampled_from(["5", "6", "soon", "-7", None]),
        ),
        max_size=12,
    )
)
def test_what_is_kept_and_what_is_dropped_is_what_was_read(
    rows: list[tuple[str | None, str | None, str | None]],
) -> None:
    rows = [("u", "first", "1"), *rows]
    schema = dict.fromkeys(["user_id", "item_id", "timestamp"], pl.String)
    dataset = from_arrow(pl.DataFrame(rows, schema=schema, orient="row"))
    usable = [
        row
        for row in rows
        if row[0] and row[1] and row[1].isprintable() and row[2] in ("1", "5", "6")
    ]
    kept = dataset.frame.select("user_id", "item_id", "timestamp").rows()
    assert kept == [(u, i, int(t or 0) * 1000) for u, i, t in dict.fromkeys(usable)]
    assert dataset.report.rows_read == len(rows)
    assert dataset.report.rows_kept + sum(dataset.report.dropped.values()) == len(rows)
    assert len(dataset.report.problems) == sum(dataset.report.dropped.values())
