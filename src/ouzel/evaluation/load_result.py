"""What a load run measured, and how the numbers are made from what each request met.

Shape legend: R = requests of a run.
"""

from __future__ import annotations

from dataclasses import dataclass

import msgspec
import numpy as np
from numpy.typing import NDArray

from ouzel.evaluation.load_spec import KINDS, LoadSpec

LOST, TIMED_OUT, MALFORMED = -1, -2, -3
"""Stand where a status would: connection lost, given up, answer that is no HTTP we can read."""

MAX_SEND_LAG_MS = 1.0
"""A run whose own p99 send lag is over this is void."""


MAX_STOLEN_SHARE = 0.001
"""A run from which the host took more of the cores' time than this share is robbed: as many
requests may be late, and no server can answer while it may not run."""


class Latency(msgspec.Struct, frozen=True):
    """Latencies of one kind of request, from when each was due, in milliseconds."""

    count: int
    p50_ms: float
    p90_ms: float
    p99_ms: float
    p999_ms: float
    max_ms: float


class ServerUse(msgspec.Struct, frozen=True):
    """What the server's processes took meanwhile; `rss_mb` at the end, `peak_rss_mb` ever.

    Shared pages count once in `rss_mb`, and for each process in `peak_rss_mb`.
    Processor time is None if one of them ended in the run.
    """

    cpu_s: float | None
    cpu_ms_per_request: float | None
    rss_mb: float
    peak_rss_mb: float


class LoadResult(msgspec.Struct, frozen=True, kw_only=True):
    """One run. Everything is counted over the requests due after the warm-up.

    `requests_per_s` counts good (2xx) answers. `statuses` has the count of each HTTP status.
    `degraded` counts good answers that said they were made by a cheaper plan. `timed_out`, `lost`
    and `malformed` were never answered; in `latency` they weigh as long as they were waited for.
    `within_mark` is the share answered well within the spec's `mark_ms`. `waited` requests found
    every connection busy. `client_cpu_share` is the generator's own processor time per second;
    `realtime` says that the system let it go before all others, which keeps its send lag small.
    `stolen_share` is the share of the cores' time that the host of a virtual machine took away.
    """

    rate: float
    duration_s: float
    requests: int
    requests_per_s: float
    within_mark: float
    latency: dict[str, Latency]
    statuses: dict[str, int]
    degraded: int
    timed_out: int
    lost: int
    malformed: int
    waited: int
    send_lag_p50_ms: float
    send_lag_p99_ms: float
    send_lag_max_ms: float
    client_cpu_share: float
    void: bool
    realtime: bool = False
    stolen_share: float = 0.0
    server: ServerUse | None = None

    @property
    def robbed(self) -> bool:
        """Return whether a miss may be the host's doing."""
        return self.stolen_share > MAX_STOLEN_SHARE


@dataclass(frozen=True)
class Record:
    """What each request met: `lag_R` and `latency_R` in seconds, `status_R` HTTP or a reason."""

    lag_R: NDArray[np.float64]
    latency_R: NDArray[np.float64]
    status_R: NDArray[np.int64]
    degraded_R: NDArray[np.bool_]
    waited_R: NDArray[np.bool_]


def summarise(
    spec: LoadSpec,
    record: Record,
    kinds_R: NDArray[np.int8],
    counted_R: NDArray[np.bool_],
    *,
    client_cpu_share: float,
    server: ServerUse | None,
) -> LoadResult:
    """Return the numbers of the requests in `counted_R`.

    Raises:
        ValueError: no request counts: the run was too short for its rate.

    >>> spec = LoadSpec(host="h", port=1, rate=2, users=["u"], event_share=0, miss_share=0)
    >>> two = np.zeros(2)
    >>> record = Record(two, two + 0.001, np.array([200, 500]), two > 0, two > 0)
    >>> kinds = np.zeros(2, np.int8)
    >>> summarise(spec, record, kinds, two == 0, client_cpu_share=0.1, server=None).statuses
    {'200': 1, '500': 1}
    """
    if not counted_R.any():
        raise ValueError(
            f"no request was due in {spec.duration_s} s at {spec.rate}/s: give a longer duration"
        )
    status_C = record.status_R[counted_R]
    latency_C = record.latency_R[counted_R] * 1e3
    good_C = (status_C >= 200) & (status_C < 300)
    lag_p50, lag_p99, lag_max = _quantiles(record.lag_R[counted_R] * 1e3, (0.5, 0.99, 1.0))
    seen, counts = np.unique(status_C, return_counts=True)
    tally = dict(zip(seen.tolist(), counts.tolist(), strict=True))
    kinds_C = kinds_R[counted_R]
    latency = {"all": _latency(latency_C)}
    for kind, name in enumerate(KINDS):
        if (kinds_C == kind).any():
            latency[name] = _latency(latency_C[kinds_C == kind])
    return LoadResult(
        rate=spec.rate,
        duration_s=spec.duration_s,
        requests=len(status_C),
        requests_per_s=float(good_C.sum() / spec.duration_s),
        within_mark=float((good_C & (latency_C <= spec.mark_ms)).mean()),
        latency=latency,
        statuses={str(status): count for status, count in tally.items() if status > 0},
        degraded=int(record.degraded_R[counted_R].sum()),
        timed_out=tally.get(TIMED_OUT, 0),
        lost=tally.get(LOST, 0),
        malformed=tally.get(MALFORMED, 0),
        waited=int(record.waited_R[counted_R].sum()),
        send_lag_p50_ms=lag_p50,
        send_lag_p99_ms=lag_p99,
        send_lag_max_ms=lag_max,
        client_cpu_share=client_cpu_share,
        void=lag_p99 > MAX_SEND_LAG_MS,
        server=server,
    )


def _quantiles(values: NDArray[np.float64], shares: tuple[float, ...]) -> list[float]:
    """Return observed values: the smallest that at least each share of all do not exceed."""
    found: list[float] = np.quantile(values, shares, method="inverted_cdf").tolist()
    return found


def _latency(values_ms: NDArray[np.float64]) -> Latency:
    return Latency(len(values_ms), *_quantiles(values_ms, (0.5, 0.9, 0.99, 0.999, 1.0)))
