"""Peers of a benchmark: where they are, their own environments, and how they are tuned.

A peer is a folder in `benchmarks/peers/` with `app.py` and `requirements.txt`. Nothing of it is
part of the package, and nothing of the package is in its environment.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import venv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

BENCH = Path(".bench")


@dataclass(frozen=True)
class Tuning:
    """One way to run a peer: threads of a worker, workers or replicas, most requests in a pass."""

    threads: int
    workers: int
    batch: int

    def __str__(self) -> str:
        """Return the words that a row carries."""
        return f"threads {self.threads}, workers {self.workers}, batch {self.batch}"


@dataclass(frozen=True)
class Rival:
    """A peer that is measured: its folder, its name in rows, and the key of Ouzel's ratio to it."""

    folder: str
    system: str
    ratio: str


RIVALS = (
    Rival("fastapi_torch", "fastapi + eager torch", "times_peer"),
    Rival("ray_serve", "ray serve + eager torch", "times_ray_serve"),
)

TUNINGS = tuple(
    Tuning(threads, workers, batch)
    for threads, workers in ((1, 1), (2, 1), (1, 2))
    for batch in (1, 16)
)
"""What is tried; two cores have no more ways to be shared."""


class Peer:
    """A peer with its environment ready."""

    def __init__(self, name: str) -> None:
        self._folder = _folder(name)
        self._python = _environment(name, self._folder / "requirements.txt")

    def command(self, workload: Path, port_file: Path, tuning: Tuning) -> Sequence[str]:
        """Return the command that serves `workload` and writes its port into `port_file`."""
        options = {
            "--workload": workload.resolve(),
            "--port-file": port_file,
            "--threads": tuning.threads,
            "--workers": tuning.workers,
            "--batch": tuning.batch,
        }
        return self._words(options)

    def measured(self, options: Mapping[str, object]) -> list[dict[str, Any]]:
        """Return the rows that the peer prints as JSON when it is run with these options.

        Raises:
            ValueError: it ends with an error.
        """
        # A library with threads of its own asks for a BLAS that has none.
        environment = {**os.environ, "OPENBLAS_NUM_THREADS": "1"}
        words = self._words(options)
        done = subprocess.run(words, env=environment, stdout=subprocess.PIPE, check=False)
        if done.returncode != 0:
            raise ValueError(f"{self._folder.name} ended with {done.returncode}: see its words")
        rows: list[dict[str, Any]] = json.loads(done.stdout.splitlines()[-1])
        return rows

    def _words(self, options: Mapping[str, object]) -> list[str]:
        words = [str(word) for option in options.items() for word in option]
        return [str(self._python), str(self._folder / "app.py"), *words]


def _folder(name: str) -> Path:
    """Return the peer's folder, in the working directory or beside the package's sources."""
    for root in (Path.cwd(), Path(__file__).parents[4]):
        folder = root / "benchmarks" / "peers" / name
        if (folder / "app.py").exists():
            return folder.resolve()
    raise ValueError(f"benchmarks/peers/{name} is not here: run this in a checkout of Ouzel")


def _environment(name: str, requirements: Path) -> Path:
    """Return the Python of the peer's environment, made anew if the requirements changed."""
    digest = hashlib.sha256(requirements.read_bytes()).hexdigest()[:12]
    folder = BENCH.resolve() / "venvs" / f"{name}-{digest}"
    python, done = folder / "bin" / "python", folder / "installed"
    if not done.exists():
        sys.stderr.write(f"installing {requirements} into {folder}\n")
        venv.create(folder, with_pip=True, clear=True)
        index = os.environ.get("TORCH_INDEX")
        extra = ["--extra-index-url", index] if index else []
        install = [str(python), "-m", "pip", "install", "-q", "--disable-pip-version-check", *extra]
        install += ["-r", str(requirements)]
        if subprocess.run(install, check=False).returncode != 0:
            raise ValueError(f"pip could not install {requirements}: see its words above")
        done.touch()
    return python
