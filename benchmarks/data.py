"""Ten million events read and split: seconds and peak memory, of a process of its own.

    python benchmarks/data.py                     # 10 M events, writes benchmarks/results/data/
    python benchmarks/data.py --rows 100000 --json -

Each case starts a fresh process that reads one file, numbers its users and items, and makes both
splits; the peak is that process's highest resident memory, as the kernel counted it. The file was
written just before, so it comes from the page cache: what is measured is work, not the disk.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import polars as pl

from ouzel.cli.machine import record
from ouzel.data import read
from ouzel.data.encode import encode
from ouzel.data.split import leave_one_out, temporal

ROOT = Path(__file__).parents[1]
RESULT = ROOT / "benchmarks" / "results" / "data" / "read_split.json"
NUM_USERS, NUM_ITEMS = 500_000, 100_000
FIRST_MS, LAST_MS = 1_600_000_000_000, 1_700_000_000_000
VERBS = ("view", "click", "add_to_cart", "purchase")
CASES = ("events.parquet", "events.csv")
MARK = {"seconds": 60.0, "peak_rss_mb": 4096.0}


def generate(folder: Path, rows: int, seed: int) -> None:
    """Write `rows` events in time order: Zipf-like items, log-normal users, millisecond times."""
    rng = np.random.default_rng(seed)
    share = rng.lognormal(sigma=1.2, size=NUM_USERS)
    users = rng.choice(NUM_USERS, rows, p=share / share.sum())
    popularity = 1.0 / np.arange(1, NUM_ITEMS + 1) ** 0.9
    items = rng.choice(NUM_ITEMS, rows, p=popularity / popularity.sum())
    frame = pl.DataFrame(
        {
            "user_id": pl.Series(users, dtype=pl.Int64),
            "item_id": pl.Series(items, dtype=pl.Int64),
            "event": pl.Series(rng.choice(len(VERBS), rows, p=(0.6, 0.25, 0.1, 0.05))),
            "timestamp": np.sort(rng.integers(FIRST_MS, LAST_MS, rows)),
            "value": rng.random(rows, np.float32).round(2),
        }
    ).with_columns(
        pl.format("user-{}", "user_id").alias("user_id"),
        pl.format("item-{}", "item_id").alias("item_id"),
        pl.col("event").replace_strict(dict(enumerate(VERBS)), return_dtype=pl.String),
    )
    frame.write_parquet(folder / "events.parquet")
    frame.write_csv(folder / "events.csv")


def measure(path: Path) -> dict[str, object]:
    """Return the seconds of each step on one file, and this process's peak memory."""
    start = time.perf_counter()
    dataset = read(path)
    was_read = time.perf_counter()
    encoded = encode(dataset.frame)
    encoded_at = time.perf_counter()
    last = leave_one_out(encoded.interactions)
    by_time = temporal(encoded.interactions)
    end = time.perf_counter()
    return {
        "rows_kept": dataset.report.rows_kept,
        "users": encoded.interactions.num_users,
        "items": encoded.interactions.num_rows - 1,
        "leave_one_out_targets": len(last.test),
        "temporal_targets": len(by_time.test),
        "read_seconds": round(was_read - start, 2),
        "encode_seconds": round(encoded_at - was_read, 2),
        "split_seconds": round(end - encoded_at, 2),
        "seconds": round(end - start, 2),
        "peak_rss_mb": peak_rss_mb(),
    }


def peak_rss_mb() -> int:
    """Return the highest resident memory of this process so far, in MiB."""
    # Not ru_maxrss: that one starts from the peak of the process that started this one.
    status = Path("/proc/self/status").read_text()
    (line,) = [line for line in status.splitlines() if line.startswith("VmHWM:")]
    return round(int(line.split()[1]) / 1024)


def run_case(path: Path) -> dict[str, object]:
    """Return the row of one file, measured in a fresh process."""
    done = subprocess.run(
        [sys.executable, __file__, "--measure", str(path)],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise SystemExit(done.stderr)
    row: dict[str, object] = json.loads(done.stdout)
    size = round(path.stat().st_size / 2**20)
    met = all(row[name] < limit for name, limit in MARK.items())  # type: ignore[operator]
    return {"system": "ouzel", "case": path.suffix[1:], "file_mb": size} | row | {"mark_met": met}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=10_000_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", default=str(RESULT), help="where to write, - for stdout")
    parser.add_argument("--measure", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.measure is not None:
        print(json.dumps(measure(given.measure)))
        return
    with tempfile.TemporaryDirectory() as folder:
        generate(Path(folder), given.rows, given.seed)
        rows = [run_case(Path(folder, name)) for name in CASES]
    command = f"python benchmarks/data.py --rows {given.rows} --seed {given.seed}"
    result = record(rows, command=command, seed=given.seed) | {"mark": MARK}
    result["machine"]["load_average"] = os.getloadavg()[0]
    text = json.dumps(result, indent=2) + "\n"
    if given.json == "-":
        sys.stdout.write(text)
        return
    Path(given.json).parent.mkdir(parents=True, exist_ok=True)
    Path(given.json).write_text(text)
    print(f"wrote {given.json}")


if __name__ == "__main__":
    main()
