"""Which threads a serving process has: the table is in `docs/threads.md`.

Requests are the parallelism of a server, and processes its way to more cores. A library that makes
a thread for each core, in every process, makes all of them wait for each other.
"""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor

ONE_THREAD = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "BLIS_NUM_THREADS",
    "NUMEXPR_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
    "POLARS_MAX_THREADS",
    "RAYON_NUM_THREADS",
)
"""Variables that are to be 1 before the libraries that read them are imported."""

THREADS_BESIDE = 2
"""Threads for what is long and rare: a filter that is read for the first time, titles made anew."""


def bound_threads_beside() -> None:
    """Give the running event loop few threads for `asyncio.to_thread`; usual are 4 and the cores.

    >>> async def count():
    ...     bound_threads_beside()
    ...     return asyncio.get_running_loop()._default_executor._max_workers
    >>> asyncio.run(count())
    2
    """
    executor = ThreadPoolExecutor(THREADS_BESIDE, thread_name_prefix="ouzel-beside")
    asyncio.get_running_loop().set_default_executor(executor)
