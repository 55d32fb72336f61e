"""Facts about this machine and its libraries, as results and `ouzel doctor` state them."""

from __future__ import annotations

import os
import platform
import resource
import socket
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from ouzel.recommender.cores import usable_cores

SERVING_LIBRARIES = (
    "numpy", "msgspec", "starlette", "uvicorn", "uvloop", "httptools", "onnxruntime",
    "safetensors", "polars", "prometheus-client", "typer", "rich",
)  # fmt: skip
TRAINING_LIBRARIES = ("torch", "onnx", "onnxscript")
THREAD_VARIABLES = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "POLARS_MAX_THREADS",
)
# What makes matrix products on a CPU fast, from the oldest to the newest.
_CPU_FLAGS = ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_int8", "amx_bf16")


def machine() -> dict[str, object]:
    """Return what a measurement depends on: processor, cores, memory, system.

    >>> sorted(machine())
    ['cores', 'cpu', 'cpu_flags', 'memory_gib', 'python', 'system']
    """
    pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return {
        "cpu": _cpu_field("model name") or platform.processor() or platform.machine(),
        "cores": usable_cores(),
        "cpu_flags": cpu_flags(),
        "memory_gib": round(pages / 2**30, 1),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
    }


def versions() -> dict[str, str]:
    """Return the installed version of ouzel and of each library it builds on.

    >>> "numpy" in versions()
    True
    """
    found = {}
    for name in ("ouzel", *SERVING_LIBRARIES, *TRAINING_LIBRARIES):
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def commit() -> str | None:
    """Return the commit of the checkout that runs, marked if files in it were changed.

    >>> commit() is None or len(commit()) > 6
    True
    """
    words = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty"]
    try:
        told = subprocess.run([*words, "--abbrev=12"], capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return None
    return told.stdout.strip() or None


def record(rows: Sequence[Mapping[str, Any]], *, command: str, seed: int) -> dict[str, Any]:
    """Return rows as the content of a result file: how, on what and with what they were measured.

    >>> list(record([{"system": "ouzel"}], command="ouzel benchmark serving", seed=0))
    ['command', 'commit', 'machine', 'versions', 'seed', 'rows']
    """
    return {
        "command": command,
        "commit": commit(),
        "machine": machine(),
        "versions": versions(),
        "seed": seed,
        "rows": list(rows),
    }


def cpu_flags() -> list[str]:
    """Return those of the vector and matrix extensions that this processor has.

    >>> set(cpu_flags()) <= {"avx2", "avx512f", "avx512_vnni", "avx512_bf16"} | {
    ...     "amx_int8", "amx_bf16"}
    True
    """
    flags = _cpu_field("flags").split()
    return [flag for flag in _CPU_FLAGS if flag in flags]


def fsync_ms(folder: Path, *, count: int = 40) -> tuple[float, float]:
    """Return the median and the slowest milliseconds that a small durable append takes.

    Raises:
        OSError: nothing can be written in `folder`.

    >>> median_ms, slowest_ms = fsync_ms(Path(tempfile.gettempdir()))
    >>> median_ms <= slowest_ms
    True
    """
    taken_ms = []
    with tempfile.TemporaryFile(dir=folder, buffering=0) as file:
        for _ in range(count):
            start = time.perf_counter()
            file.write(bytes(256))
            os.fsync(file.fileno())
            taken_ms.append((time.perf_counter() - start) * 1e3)
    return float(np.median(taken_ms)), max(taken_ms)


def port_free(port: int) -> bool:
    """Return whether a server could listen on this port of 127.0.0.1.

    >>> with socket.socket() as taken:
    ...     taken.bind(("127.0.0.1", 0))
    ...     taken.listen()
    ...     port_free(taken.getsockname()[1])
    False
    """
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def open_file_limit() -> int:
    """Return how many files and connections this process may have open.

    >>> open_file_limit() > 0
    True
    """
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return soft if soft != resource.RLIM_INFINITY else 2**31 - 1


def _cpu_field(name: str) -> str:
    path = Path("/proc/cpuinfo")
    lines = path.read_text("utf-8").splitlines() if path.is_file() else []
    for line in lines:
        key, _, value = line.partition(":")
        if key.strip() == name:
            return value.strip()
    return ""
