"""Open-loop load on a server, from a process of its own: what users would wait.

Arrivals are a Poisson process fixed before the run; a request's latency counts from the moment it
was due, so a server that stalls is charged for everybody who came meanwhile. A run whose own send
lag is over a millisecond at p99 is void: it measured the generator. A rate missed while the host
took the cores away is tried again; one held in spite of that is held. One run is
`python -m ouzel.evaluation.load`, a `LoadSpec` as JSON in, a `LoadResult` as JSON out.

References:
    Schroeder, Wierman, Harchol-Balter: Open Versus Closed - A Cautionary Tale, NSDI 2006.
"""

from __future__ import annotations

import math
import os
import subprocess
import sys
from collections.abc import Callable

import msgspec

from ouzel.evaluation.load_client import drive
from ouzel.evaluation.load_process import stolen_s
from ouzel.evaluation.load_result import LoadResult
from ouzel.evaluation.load_spec import LoadSpec, make_plan

HELD_SHARE = 0.999
"""Share of requests that must be answered well and in time for a rate to count as held."""

MAX_DEGRADED_SHARE = 0.001
"""Share of requests that a cheaper plan may answer: a rate held without the model is not held."""

TRIES = 12
"""Runs of one rate before the search is given up because no run said anything about the server:
the rate counts neither as held nor as not held."""

LOWEST_RATE = 1.0
"""Requests per second below which the search for a sustained rate gives up."""


class Sustained(msgspec.Struct, frozen=True, kw_only=True):
    """The highest rate held: `requests_per_s` (0: none was), its run, and every run tried."""

    requests_per_s: float
    result: LoadResult | None
    trials: list[LoadResult]


def run_load(spec: LoadSpec) -> LoadResult:
    """Return what one run of `spec` measured, done in a separate process.

    Raises:
        ValueError: the server cannot be reached, or the generator could not do its run.

    >>> spec = LoadSpec(host="127.0.0.1", port=1, rate=8, users=["u"], event_share=0, miss_share=0)
    >>> run_load(spec)  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    ValueError: load run failed (exit 1): cannot reach 127.0.0.1:1 ...: is the server running?
    """
    limit_s = spec.warmup_s + spec.duration_s + spec.timeout_s + 60
    try:
        done = subprocess.run(
            [sys.executable, "-m", "ouzel.evaluation.load"],
            input=msgspec.json.encode(spec),
            capture_output=True,
            timeout=limit_s,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise ValueError(f"the load generator did not end within {limit_s:.0f} s") from error
    if done.returncode != 0:
        reason = done.stderr.decode(errors="replace").strip().rpartition("\n")[2]
        raise ValueError(f"load run failed (exit {done.returncode}): {reason}")
    return msgspec.json.decode(done.stdout, type=LoadResult)


def held(result: LoadResult) -> bool | None:
    """Return whether 99.9% of a run went well within `mark_ms` and at most 0.1% degraded.

    None if the run does not tell: it is void, or it missed while the host had the cores. A run that
    is in time although the host took some of them is held: without the theft it would be quicker.

    >>> from types import SimpleNamespace
    >>> run = {"void": False, "within_mark": 1.0, "requests": 1000, "robbed": True}
    >>> held(SimpleNamespace(degraded=0, **run)), held(SimpleNamespace(degraded=2, **run))
    (True, None)
    """
    if result.void:
        return None
    degraded_share = result.degraded / max(1, result.requests)
    if result.within_mark >= HELD_SHARE and degraded_share <= MAX_DEGRADED_SHARE:
        return True
    return None if result.robbed else False


def sustained(
    spec: LoadSpec,
    *,
    p99_ms: float,
    search_s: float = 5.0,
    precision: float = 0.05,
    told: Callable[[LoadResult], None] | None = None,
    run: Callable[[LoadSpec], LoadResult] = run_load,
) -> Sustained:
    """Return the highest rate that is `held` within `p99_ms`, by bisection.

    The search starts from `spec.rate` with runs of `search_s`, within `precision`; it goes on from
    the rate found, downwards, with runs of `spec.duration_s`. A run that does not tell is repeated.
    Every run asks for other `cold_users` than the one before, since the last ones have a state
    now; `told` hears of each.

    Raises:
        ValueError: `p99_ms`, `search_s` or `precision` is not positive; no run of a rate
            told anything; or as `run_load`.

    >>> from types import SimpleNamespace
    >>> spec = LoadSpec(host="h", port=1, rate=8, users=["u"], event_share=0, miss_share=0)
    >>> def server(asked):
    ...     in_time = float(asked.rate < 100)
    ...     run = {"void": False, "robbed": False, "degraded": 0, "requests": 9}
    ...     return SimpleNamespace(within_mark=in_time, **run)
    >>> 95 < sustained(spec, p99_ms=10, run=server).requests_per_s < 100
    True
    """
    for name, value in (("p99_ms", p99_ms), ("search_s", search_s), ("precision", precision)):
        if value <= 0:
            raise ValueError(f"{name} is {value}: give a positive number")
    trials: list[LoadResult] = []
    asked = msgspec.structs.replace(spec, mark_ms=p99_ms)

    def holds(rate: float, duration_s: float) -> bool:
        nonlocal asked
        for _ in range(TRIES):
            asked = msgspec.structs.replace(asked, rate=rate, duration_s=duration_s)
            trials.append(run(asked))
            asked = others_next(asked)
            if told is not None:
                told(trials[-1])
            outcome = held(trials[-1])
            if outcome is not None:
                return outcome
        raise _nothing_told(trials[-1])

    low, high = _bracket(lambda rate: holds(rate, search_s), spec.rate)
    guess = _bisect(lambda rate: holds(rate, search_s), low, high, precision)
    searched = len(trials)
    low, high = _descend(lambda rate: holds(rate, spec.duration_s), guess, precision)
    rate = _bisect(lambda rate: holds(rate, spec.duration_s), low, high, precision)
    # Rates that hold only rise from one to the next, so the last of them is the answer.
    result = next((trial for trial in reversed(trials[searched:]) if held(trial)), None)
    return Sustained(requests_per_s=rate, result=result, trials=trials)


def _nothing_told(last: LoadResult) -> ValueError:
    return ValueError(
        f"{TRIES} runs at {last.rate:.0f} requests/s told nothing, the last sent "
        f"{last.send_lag_p99_ms:.1f} ms late and was robbed of {last.stolen_share:.1%} of its "
        "cores: end what else runs on this machine and its host"
    )


def others_next(spec: LoadSpec) -> LoadSpec:
    """Return the spec with those users first in `cold_users` whom its run did not come to.

    >>> spec = LoadSpec(
    ...     host="h", port=1, rate=1, duration_s=1, warmup_s=0, users=["u"], event_share=0,
    ...     cold_users=["a", "b"], miss_share=0.5,
    ... )
    >>> others_next(spec).cold_users
    ['b', 'a']
    """
    if not spec.cold_users:
        return spec
    requests = spec.rate * (spec.warmup_s + spec.duration_s)
    asked = math.ceil(requests * spec.miss_share) % len(spec.cold_users)
    turned = spec.cold_users[asked:] + spec.cold_users[:asked]
    return msgspec.structs.replace(spec, cold_users=turned)


def _bisect(holds: Callable[[float], bool], low: float, high: float, precision: float) -> float:
    """Return a rate that holds, less than `precision` below one that does not."""
    while low > 0 and high > low * (1 + precision):
        middle = (low * high) ** 0.5
        low, high = (middle, high) if holds(middle) else (low, middle)
    return low


def _descend(holds: Callable[[float], bool], start: float, precision: float) -> tuple[float, float]:
    """Return a rate that holds (0: none does), `start` if it can, and the last that did not."""
    rate = high = start
    step = 1 + precision
    while rate >= LOWEST_RATE:
        if holds(rate):
            return rate, high
        rate, high, step = rate / step, rate, step * step
    return 0.0, high


def _bracket(holds: Callable[[float], bool], start: float) -> tuple[float, float]:
    """Return a rate that holds (0: none does) and a higher one that does not."""
    rate = start
    if holds(rate):
        while holds(rate * 2):
            rate *= 2
        return rate, rate * 2
    while rate / 2 >= LOWEST_RATE:
        rate /= 2
        if holds(rate):
            return rate, rate * 2
    return 0.0, rate


def _main() -> int:
    """Run the spec on standard input, write the result to standard output, return the exit code."""
    try:
        spec = msgspec.json.decode(sys.stdin.buffer.read(), type=LoadSpec)
        plan = make_plan(spec)
        realtime = _go_first()
        stolen = stolen_s()
        result = drive(spec, plan)
        run_s = (spec.warmup_s + spec.duration_s) * (os.cpu_count() or 1)
        share = (stolen_s() - stolen) / run_s
        result = msgspec.structs.replace(result, realtime=realtime, stolen_share=share)
    except (OSError, ValueError, msgspec.MsgspecError) as error:
        sys.stderr.write(f"{error}\n")
        return 1
    sys.stdout.buffer.write(msgspec.json.encode(result))
    return 0


def _go_first() -> bool:
    """Return whether this process now runs before all ordinary ones.

    On a busy machine the generator would otherwise wait for the server it measures, and for every
    other program; where the system does not allow it, the send lag shows what that cost. It keeps
    to the last core: woken on the core of the server, it would hold up what it measures.
    """
    if not hasattr(os, "sched_setscheduler"):
        return False
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    try:
        os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(1))
    except PermissionError:
        return False
    return True


if __name__ == "__main__":
    sys.exit(_main())
