"""The whole loop on real data: train on MovieTweetings, serve, and watch a click change a list.

python recipes/demo.py            trains, serves on 127.0.0.1:8000 until Ctrl-C
python recipes/demo.py --once     trains, plays one visitor's session over HTTP, and ends
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.request import Request, urlopen

from rich.console import Console
from rich.table import Table

from ouzel.data.samples import movietweetings

HOME = Path(".demo/home")
TRAINING_MINUTES = 1.75
START_SECONDS = 60
LIST_LENGTH = 10

console = Console(highlight=False)


def main() -> int:
    """Run the demo; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--once", action="store_true", help="play one session and end")
    parser.add_argument("--port", type=int, help="port to serve on (default 8000, --once: any)")
    arguments = parser.parse_args()
    port = arguments.port if arguments.port is not None else (0 if arguments.once else 8000)
    started = time.perf_counter()
    if train():
        return 1
    with server(port) as address:
        ready = time.perf_counter() - started
        console.print(f"\nTrained and serving after {ready:.0f} s. The live page: ", end="")
        console.print(f"[bold]{address}/dashboard[/bold]")
        if arguments.once:
            play(address)
        else:
            console.print("Ctrl-C ends it.")
            wait_for_interrupt()
    return 0


def train() -> int:
    """Train a fresh home on the shipped data; return the exit code of `ouzel train`."""
    shutil.rmtree(HOME, ignore_errors=True)
    command = ["train", "--data", str(movietweetings()), "--out", str(HOME)]
    return ouzel(*command, "--minutes", str(TRAINING_MINUTES)).wait()


def ouzel(*arguments: str) -> subprocess.Popen[bytes]:
    """Return a running `ouzel` command in this very environment."""
    return subprocess.Popen([sys.executable, "-m", "ouzel.cli", *arguments])


@contextmanager
def server(port: int) -> Iterator[str]:
    """Yield the address of a server on the home, ready to answer."""
    port_file = HOME.parent / "port"
    port_file.unlink(missing_ok=True)
    process = ouzel("serve", str(HOME), "--port", str(port), "--port-file", str(port_file))
    try:
        deadline = time.monotonic() + START_SECONDS
        while not port_file.exists():
            if process.poll() is not None or time.monotonic() > deadline:
                raise SystemExit("the server did not start; its message stands above")
            time.sleep(0.05)
        yield f"http://127.0.0.1:{port_file.read_text().strip()}"
    finally:
        process.terminate()
        process.wait(timeout=30)


def wait_for_interrupt() -> None:
    """Return when the person presses Ctrl-C."""
    try:
        while True:
            time.sleep(3600)
    except KeyboardInterrupt:
        console.print("\nGood-bye.")


def play(address: str) -> None:
    """Play a visitor: ask, click three films, ask again; print both lists and their times."""
    visitor = {"session_id": "demo-visitor"}
    first, first_timing = recommend(address, visitor)
    clicked = first["items"][1:4]
    for item in clicked:
        event = {**visitor, "item_id": item["item_id"], "event": "click"}
        call(address, "/v1/events", {**event, "request_id": first["request_id"]})
    second, second_timing = recommend(address, visitor)
    show("Before any click", first, first_timing)
    console.print("The visitor clicks: " + ", ".join(title_of(item) for item in clicked) + "\n")
    show("After the clicks", second, second_timing, before=first)


def recommend(address: str, visitor: dict[str, str]) -> tuple[dict, str]:
    """Return the answer for a visitor, and its Server-Timing header."""
    body = {**visitor, "n": LIST_LENGTH, "fields": ["title", "genres"]}
    return call(address, "/v1/recommend", body)


def call(address: str, path: str, body: dict) -> tuple[dict, str]:
    """Return the JSON answer to a POST, and its Server-Timing header."""
    headers = {"Content-Type": "application/json"}
    with urlopen(Request(address + path, json.dumps(body).encode(), headers)) as reply:
        return json.load(reply), reply.headers.get("Server-Timing", "")


def show(title: str, answer: dict, timing: str, *, before: dict | None = None) -> None:
    """Print a list with titles, what is new in it, and the time of each part."""
    known = {item["item_id"] for item in before["items"]} if before else set()
    table = Table(title=f"{title}  ({answer['took_ms']:.2f} ms)", title_justify="left")
    for name in ("#", "title", "genres", "score", "source", ""):
        table.add_column(name)
    for item in answer["items"]:
        is_new = "new" if before and item["item_id"] not in known else ""
        fields = item["fields"]
        score = f"{item['score']:.2f}"
        row = (str(item["rank"]), fields["title"], fields["genres"], score, item["source"], is_new)
        table.add_row(*row)
    console.print(table)
    console.print(f"  time in ms: {readable(timing)}\n")


def readable(timing: str) -> str:
    """Return a Server-Timing header as `T 0.1, P 0.2, A 0.3 (read 0.05, ...)`."""
    parts = [part.strip().split(";dur=") for part in timing.split(",") if ";dur=" in part]
    whole = ", ".join(f"{name} {float(ms):.2f}" for name, ms in parts if len(name) == 1)
    stages = ", ".join(f"{name} {float(ms):.2f}" for name, ms in parts if len(name) > 1)
    return f"{whole}  ({stages})"


def title_of(item: dict) -> str:
    """Return the title of an item of an answer."""
    return item["fields"]["title"] or item["item_id"]


if __name__ == "__main__":
    sys.exit(main())
