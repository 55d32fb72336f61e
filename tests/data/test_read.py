"""Every format, recognised by itself, gives the same canonical events."""

from __future__ import annotations

import json
from pathlib import Path

import polars as pl
import pytest

from ouzel.data import from_arrow, read
from ouzel.data.dataset import Dataset
from ouzel.data.samples import movietweetings
from tests.data.sources import public, write

CANONICAL = ["user_id", "item_id", "event", "timestamp", "value", "line"]
ROWS = [
    ("u1", "007", "view", 978300760000, None),
    ("u2", "ä, b", "purchase", 978300760500, 2.5),
    ("u1", "c", "subscribe", 978300761000, None),
]
HEADER = "user_id,item_id,event,timestamp,value\n"
CSV = HEADER + (
    'u1,007,view,978300760000,\nu2,"ä, b",purchase,978300760500,2.5\nu1,c,subscribe,978300761000,\n'
)


def events(dataset: Dataset) -> list[tuple[object, ...]]:
    assert dataset.frame.columns == CANONICAL
    assert dataset.frame.dtypes == [
        *(pl.String, pl.String, pl.String, pl.Int64, pl.Float32, pl.UInt32)
    ]
    return [row[:5] for row in dataset.frame.iter_rows()]


@pytest.mark.parametrize("name", ["e.csv", "e.csv.gz", "e.txt", "e.dat"])
def test_csv(tmp_path: Path, name: str) -> None:
    dataset = read(write(tmp_path / name, CSV))
    assert events(dataset) == ROWS
    assert dataset.frame["line"].to_list() == [2, 3, 4]
    assert dataset.report.recognised.startswith(f"CSV {name}")
    assert dataset.report.dropped == {}
    assert dataset.items is None
    assert dataset.item_columns() == {}


@pytest.mark.parametrize("separator", ["\t", ";", "|"])
def test_other_separators(tmp_path: Path, separator: str) -> None:
    text = f"user_id{separator}item_id\nu{separator}a,b\n"
    assert events(read(write(tmp_path / "e.tsv", text)))[0][:2] == ("u", "a,b")


@pytest.mark.parametrize("name", ["e.jsonl", "e.jsonl.gz", "e.ndjson", "e.txt"])
def test_json_lines(tmp_path: Path, name: str) -> None:
    names = HEADER.strip().split(",")
    lines = [json.dumps(dict(zip(names, row, strict=True))) for row in ROWS]
    dataset = read(write(tmp_path / name, "\n".join(lines) + "\n\n"))
    assert events(dataset) == ROWS
    assert dataset.report.recognised.startswith(f"JSON lines {name}")


def test_parquet(tmp_path: Path) -> None:
    path = tmp_path / "e.parquet"
    pl.DataFrame(ROWS, schema=HEADER.strip().split(","), orient="row").write_parquet(path)
    dataset = read(path)
    assert events(dataset) == ROWS
    assert dataset.frame["line"].to_list() == [1, 2, 3]


def test_a_folder_of_parquet_parts(tmp_path: Path) -> None:
    for part in (1, 0):
        frame = pl.DataFrame({"user_id": [f"u{part}"], "item_id": [str(part)]})
        frame.write_parquet(tmp_path / f"part-{part}.parquet")
    assert [row[0] for row in events(read(tmp_path))] == ["u0", "u1"]


def test_columns_by_other_names(tmp_path: Path) -> None:
    path = write(tmp_path / "e.csv", "VisitorID,movieId:token,behavior,ts\n1,2,Order Completed,5\n")
    assert events(read(path)) == [("1", "2", "purchase", 5000, None)]
    path = write(tmp_path / "odd.csv", "who,what,stars,line\n1,2,4,7\n")
    with pytest.raises(ValueError, match="no column for user_id and item_id among"):
        read(path)
    chosen = read(path, columns={"user_id": "who", "item_id": "what", "timestamp": "line"})
    assert events(chosen) == [("1", "2", "rate", 7000, 4.0)]
    assert "user_id=who" in chosen.report.recognised
    with pytest.raises(ValueError, match="'nobody', absent among"):
        read(path, columns={"user_id": "nobody", "item_id": "what"})
    with pytest.raises(ValueError, match="'price' is no event column"):
        read(path, columns={"price": "who"})


def test_a_mapping_makes_another_source(tmp_path: Path) -> None:
    path = write(tmp_path / "e.csv", "user_id,item_id,a,b\nu,i,1,2\n")
    digests = {
        read(path).digest,
        read(path, columns={"timestamp": "a"}).digest,
        read(path, columns={"timestamp": "b"}).digest,
    }
    assert len(digests) == 3
    assert read(path).digest in digests


def test_movielens_dat(tmp_path: Path) -> None:
    write(tmp_path / "ratings.dat.gz", "1::9::5::978300760\n2::31::0.5::978300761\r\n")
    write(tmp_path / "movies.dat", "9::Amélie :: II (2001)::Comedy|Romance\n", encoding="latin-1")
    dataset = read(tmp_path)
    assert dataset.report.recognised == "MovieLens ratings.dat.gz"
    assert events(dataset) == [
        ("1", "9", "rate", 978300760000, 5.0),
        ("2", "31", "rate", 978300761000, 0.5),
    ]
    assert dataset.item_columns() == {
        "item_id": ["9"],
        "title": ["Amélie :: II (2001)"],
        "genres": ["Comedy|Romance"],
    }


def test_movielens_csv(tmp_path: Path) -> None:
    path = write(tmp_path / "ratings.csv", "userId,movieId,rating,timestamp\n1,9,6,978300760\n")
    write(tmp_path / "movies.csv.gz", 'movieId,title,genres\n9,"Alien, The",Horror\n')
    for source in (tmp_path, path):
        with pytest.raises(ValueError, match=r"between 0\.5 and 5"):
            read(source)
    write(path, "userId,movieId,rating,timestamp\n1,9,5,978300760\n1,9,5\n")
    dataset = read(path)
    assert dataset.report.recognised == "MovieLens ratings.csv"
    assert dataset.report.dropped == {"missing": 1}
    assert dataset.item_columns()["title"] == ["Alien, The"]


def test_movielens_100k(tmp_path: Path) -> None:
    write(tmp_path / "u.data", "7\t9\t3\t900000000\n")
    write(tmp_path / "u.genre", "unknown|0\nAction|1\nComedy|2\n\n")
    movie = "9|Kolyá (1996)|24-Jan-1997||http://x|0|1|1\n"
    write(tmp_path / "u.item.gz", movie, encoding="latin-1")
    dataset = read(tmp_path)
    assert events(dataset) == [("7", "9", "rate", 900000000000, 3.0)]
    assert dataset.item_columns() == {
        "item_id": ["9"],
        "title": ["Kolyá (1996)"],
        "genres": ["Action|Comedy"],
    }


def test_movietweetings_keeps_leading_zeros(tmp_path: Path) -> None:
    write(tmp_path / "ratings.dat", "1::0114508::0::1381006850\n2::10272386::10::1381006851\n")
    dataset = read(tmp_path)
    assert dataset.report.recognised == "MovieTweetings ratings.dat"
    assert [row[1] for row in events(dataset)] == ["0114508", "10272386"]
    assert [row[4] for row in events(dataset)] == [0.0, 10.0]


def test_the_shipped_sample() -> None:
    dataset = read(movietweetings(), strict=True)
    assert len(dataset.frame) == 100_000
    assert dataset.frame["user_id"].n_unique() == 16_554
    assert dataset.frame["item_id"].n_unique() == 10_506
    assert dataset.frame["timestamp"].is_between(1_361_000_000_000, 1_379_000_000_000).all()
    assert dataset.items is not None
    assert set(dataset.frame["item_id"]) == set(dataset.items["item_id"])
    assert "MIT" in (movietweetings() / "LICENSE").read_text()
    assert "CrowdRec" in (movietweetings() / "README.md").read_text()


def test_sequence_files(tmp_path: Path) -> None:
    pairs = read(write(tmp_path / "pairs.txt", "1 7\n1 9\n2 7\n"))
    lines = read(write(tmp_path / "lines.txt.gz", "1 7 9\n\n2  7 \n"))
    assert [row[:2] for row in events(pairs)] == [("1", "7"), ("1", "9"), ("2", "7")]
    assert events(lines) == events(pairs)
    assert [row[3] for row in events(pairs)] == [1, 2, 3]
    assert not pairs.report.has_time
    broken = read(write(tmp_path / "pairs.txt", "1 7\n" * 200 + "1 7 9\n"))
    assert broken.report.dropped == {"unparsable": 1}
    assert broken.report.problems[0].line == 201


def test_tables_in_memory() -> None:
    frame = pl.DataFrame(ROWS, schema=HEADER.strip().split(","), orient="row")
    dataset = from_arrow(frame)
    assert events(dataset) == ROWS
    assert from_arrow(frame.clone()).digest == dataset.digest
    assert from_arrow(frame.reverse()).digest != dataset.digest
    with pytest.raises(ValueError, match="list is no Arrow table"):
        from_arrow(ROWS)
    with pytest.raises(ValueError, match="first, line 1, item '' is missing: fill it in"):
        from_arrow(pl.DataFrame({"user": ["u"], "item": [""]}), strict=True)


def test_any_arrow_stream_will_do() -> None:
    class Stream:
        """A table that is known by its capsule only."""

        def __arrow_c_stream__(self, requested_schema: object = None) -> object:
            frame = pl.DataFrame({"user_id": [1], "item_id": [2]})
            return frame.__arrow_c_stream__(requested_schema)

    assert events(from_arrow(Stream()))[0][:2] == ("1", "2")


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("empty.csv", "", "is empty"),
        ("header.csv", HEADER, "no event is left"),
        ("e.jsonl", "[1]\n", "no JSON object"),
        ("e.jsonl", '{"a": 1}\n', "no column for user_id"),
        ("e.parquet", "no parquet", "cannot be read"),
        ("e.csv.gz", "", "is empty"),
        ("e.csv", "\n\n", "is empty"),
        ("e.dat", "1::2::3::4::5\n", "no event is left"),
    ],
)
def test_files_that_are_nothing(tmp_path: Path, name: str, text: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        read(write(tmp_path / name, text))


@pytest.mark.parametrize("name", ["e.csv.gz", "ratings.dat.gz", "e.jsonl.gz", "1.txt.gz"])
def test_a_cut_archive_is_an_error(tmp_path: Path, name: str) -> None:
    text = {"e": CSV, "r": "1::2::3::4\n", "1": "1 2\n"}[name[0]]
    if "json" in name:
        text = '{"user_id": 1, "item_id": 2}\n'
    path = write(tmp_path / name, text * 3000)
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(ValueError, match=r"whole|not a text file"):
        read(path)


def test_what_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="does not exist"):
        read(tmp_path / "nothing.csv")
    with pytest.raises(ValueError, match="holds nothing"):
        read(tmp_path)
    write(tmp_path / "a.csv", CSV)
    assert events(read(tmp_path)) == ROWS
    write(tmp_path / "b.csv", CSV)
    with pytest.raises(ValueError, match=r"a\.csv, b\.csv: name the file"):
        read(tmp_path)
    write(tmp_path / "events.csv", CSV)
    assert events(read(tmp_path)) == ROWS


@pytest.mark.parametrize(
    ("name", "rows", "users", "items"),
    [
        ("ml-1m", 1_000_209, 6_040, 3_706),
        ("ml-1m/ratings.parquet", 1_000_209, 6_040, 3_706),
        ("ml-100k", 100_000, 943, 1_682),
        ("ml-latest-small", 100_004, 671, 9_066),
        ("amazon-beauty", 198_502, 22_363, 12_101),
        ("amazon-beauty-bert4rec", 353_962, 40_226, 54_542),
    ],
)
def test_public_data_sets_have_their_published_size(
    name: str, rows: int, users: int, items: int
) -> None:
    frame = read(public(name), strict=True).frame
    counts = (len(frame), frame["user_id"].n_unique(), frame["item_id"].n_unique())
    assert counts == (rows, users, items)
