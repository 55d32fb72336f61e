"""`ouzel doctor`: what this machine is, what is wrong with it or with a home, and the repair."""

from __future__ import annotations

import importlib.util
import os
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Literal, NamedTuple

import typer

from ouzel.bundle.bundle import UNFINISHED, load_bundle
from ouzel.bundle.index import ChosenIndexes
from ouzel.bundle.manifest import IndexRecord
from ouzel.bundle.store import BundleStore
from ouzel.cli import machine
from ouzel.cli.printing.output import emit
from ouzel.events.log_check import damage
from ouzel.recommender.cores import usable_cores
from ouzel.retrieval.engines import engine_of
from ouzel.retrieval.scan import ScanIndex
from ouzel.serving.front import Front

EXAMPLE = "ouzel doctor my-home --json -"

SLOW_FSYNC_MS = 20.0
FEW_FILES = 1024


class Finding(NamedTuple):
    """One line of the report; `remedy` is empty where there is nothing to do."""

    check: str
    status: Literal["ok", "warn", "broken"]
    found: str
    remedy: str = ""


def command(
    home: Annotated[
        Path | None, typer.Argument(help="A home to check as well: its bundles and its log.")
    ] = None,
    port: Annotated[
        int, typer.Option(min=0, max=65535, help="The port that a server would listen on.")
    ] = 8000,
    json: Annotated[
        str | None, typer.Option(help="Write JSON to this file, or to stdout with '-'.")
    ] = None,
) -> None:
    """Check this machine, and a home if one is given; exit code 1 if something is broken."""
    folder = home if home is not None else Path(tempfile.gettempdir())
    findings = [*check_libraries(), *check_machine(folder, port)]
    if home is not None:
        findings += check_home(home)
    emit([finding._asdict() for finding in findings], json)
    if any(finding.status == "broken" for finding in findings):
        raise typer.Exit(1)


def check_libraries() -> Iterator[Finding]:
    """Yield a finding for Python and for each library that serving or training needs.

    >>> next(check_libraries()).status
    'ok'
    """
    yield Finding("python", "ok", sys.version.split()[0])
    installed = machine.versions()
    if "ouzel" in installed:
        yield Finding("ouzel", "ok", installed["ouzel"])
    else:
        yield Finding("ouzel", "warn", "runs from a folder, not installed", "pip install -e .")
    for name in machine.SERVING_LIBRARIES:
        yield _library(name, installed, "broken", "pip install --force-reinstall ouzel")
    for name in machine.TRAINING_LIBRARIES:
        yield _library(name, installed, "warn", "to train here: pip install 'ouzel[train]'")


def check_machine(folder: Path, port: int) -> Iterator[Finding]:
    """Yield a finding for cores, vector extensions, threads, disk, port and open files.

    >>> [finding.check for finding in check_machine(Path(tempfile.gettempdir()), 8000)][:2]
    ['cores', 'cpu flags']
    """
    yield Finding("cores", "ok", f"{usable_cores():g}")
    flags = machine.cpu_flags()
    slow = "" if "avx2" in flags else "inference will be slow: use a processor with AVX2"
    yield Finding("cpu flags", "warn" if slow else "ok", " ".join(flags) or "none known", slow)
    slow = (
        ""
        if ScanIndex.works()
        else f"large catalogues are searched by FAISS, slower: {_compiled(flags)}"
    )
    yield Finding("scan kernel", "warn" if slow else "ok", "missing" if slow else "works", slow)
    works = Front.works()
    yield Finding(
        "front door",
        "ok" if works else "warn",
        "works" if works else "missing",
        "" if works else f"plain lists take three times as long: {_compiled(flags)}, on Linux",
    )
    threads = {name: os.environ[name] for name in machine.THREAD_VARIABLES if name in os.environ}
    yield Finding(
        "threads", "ok", " ".join(f"{name}={count}" for name, count in threads.items()) or "not set"
    )
    yield _disk(folder)
    if machine.port_free(port):
        yield Finding(f"port {port}", "ok", "free")
    else:
        yield Finding(f"port {port}", "warn", "taken", "serve with --port 0 for any free port")
    limit = machine.open_file_limit()
    few = "" if limit >= FEW_FILES else "each connection is a file: ulimit -n 4096"
    yield Finding("open files", "warn" if few else "ok", f"{limit:,} allowed", few)


def _compiled(flags: Sequence[str]) -> str:
    """Return how a machine with these flags comes to have what is compiled."""
    if "avx512_vnni" in flags:
        return "install a C++ compiler, then ouzel again"
    return "use a processor with AVX-512 VNNI"


def check_home(home: Path) -> Iterator[Finding]:
    """Yield a finding for what is served, for every bundle, and for the log of a home.

    >>> [finding.status for finding in check_home(Path("no-such-home"))]
    ['broken']
    """
    if not home.is_dir():
        yield Finding("home", "broken", f"{home} is no folder", "ouzel train --data PATH --out DIR")
        return
    store = BundleStore(home)
    try:
        yield Finding("served", "ok", store.current().name)
    except ValueError as error:
        yield Finding("served", "broken", str(error), "promote a bundle, or train again")
    for folder in sorted(store.bundles.glob("*")):
        yield _bundle(folder)
    yield from _index(store)
    yield from _log(home / "events.db")


def _library(
    name: str, installed: dict[str, str], status: Literal["warn", "broken"], remedy: str
) -> Finding:
    if name not in installed:
        return Finding(name, status, "missing", remedy)
    module = name.replace("-", "_")
    if importlib.util.find_spec(module) is None:
        return Finding(name, "broken", f"{installed[name]}, but its files are gone", remedy)
    return Finding(name, "ok", installed[name])


def _disk(folder: Path) -> Finding:
    try:
        median_ms, slowest_ms = machine.fsync_ms(folder)
    except OSError as error:
        return Finding("disk", "broken", f"{folder}: {error.strerror}", "choose a writable folder")
    found = f"{median_ms:.2f} ms per durable append, slowest {slowest_ms:.2f} ms"
    if median_ms > SLOW_FSYNC_MS:
        return Finding("disk", "warn", found, "events are acknowledged after this: use an SSD")
    return Finding("disk", "ok", found)


def _bundle(folder: Path) -> Finding:
    if folder.name.startswith(UNFINISHED):
        return Finding("bundle", "warn", f"{folder} was never finished", f"rm -r {folder}")
    try:
        return Finding("bundle", "ok", f"{load_bundle(folder).version}, every digest verified")
    except (ValueError, OSError) as error:
        return Finding("bundle", "broken", str(error), "ouzel train, or restore a copy")


def _index(store: BundleStore) -> Iterator[Finding]:
    """Yield how the items of the served Bundle are searched, and what recall was measured."""
    try:
        bundle = load_bundle(store.current())
    except (ValueError, OSError):
        return  # Told of above.
    if (built := bundle.manifest.index) is not None:
        yield Finding("index at build", "ok", _recall(built))
    remedy = f"ouzel index {store.home}"
    try:
        indexes = ChosenIndexes(store.home)
        chosen = indexes.read(bundle.digest)
        if chosen is None:
            if built is None:
                found = "recall is measured when a server starts, and was not stored before"
                yield Finding("index", "ok", found)
            return
        indexes.tensors(chosen)
        dim = bundle.tensors("items")["vectors"].shape[1]
        reason = engine_of(chosen.record.engine).why_not(bundle.manifest.num_rows, dim)
    except (ValueError, OSError) as error:
        yield Finding("index chosen", "broken", str(error), remedy)
        return
    found = f"{_recall(chosen.record)}, p99 {chosen.p99_ms:.2f} ms"
    yield Finding("index chosen", "broken" if reason else "ok", reason or found, reason and remedy)


def _recall(record: IndexRecord) -> str:
    shown = ", ".join(f"{name} {share:.4f}" for name, share in sorted(record.recall.items()))
    return f"{record.engine} ({record.effort}): {shown} over {record.num_queries} users"


def _log(path: Path) -> Iterator[Finding]:
    if not path.is_file():
        yield Finding("log", "broken", f"{path} is missing", "ouzel train, or restore a copy")
        return
    try:
        problems = damage(path)
    except (ValueError, OSError) as error:
        problems = [str(error)]
    for problem in problems:
        yield Finding("log", "broken", problem, "restore a copy of events.db")
    if not problems:
        yield Finding("log", "ok", f"{path.stat().st_size:,} bytes, sound")
