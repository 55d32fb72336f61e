"""What a load run shall do, and the requests it will send, encoded before it starts.

Shape legend: R = requests of a run.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import msgspec
import numpy as np
from numpy.typing import NDArray

KINDS = ("recommend", "event")


class LoadSpec(msgspec.Struct, frozen=True, kw_only=True):
    """One run: `rate` requests per second for `duration_s`, after `warmup_s` that do not count.

    `users` are those whose state the server holds, most active first: they are drawn by Zipf's
    law with exponent `zipf`. `cold_users` are asked for in turn by `miss_share` of the
    recommendations. `event_share` of all requests report an `event` of a user on one of `items`.
    `k` items are asked for. A request not answered `timeout_s` after it was due is given up.
    `mark_ms` is the latency that the result's `within_mark` counts against. `pid` is the server's
    process: its memory and processor time are read with those of its children.

    Raises:
        ValueError: a number out of range, or a share without the ids that it needs.
    """

    host: str
    port: int
    rate: float
    users: list[str]
    items: list[str] = []
    cold_users: list[str] = []
    duration_s: float = 30.0
    warmup_s: float = 1.0
    timeout_s: float = 5.0
    mark_ms: float = 10.0
    connections: int = 64
    event_share: float = 0.1
    miss_share: float = 0.05
    zipf: float = 1.0
    k: int = 10
    event: str = "click"
    recommend_path: str = "/v1/recommend"
    event_path: str = "/v1/events"
    api_key: str | None = None
    pid: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("rate", "duration_s", "timeout_s", "mark_ms", "connections", "k"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} is {getattr(self, name)}: give a positive number")
        for name in ("event_share", "miss_share"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} is {getattr(self, name)}: give a share from 0 to 1")
        for name, ids, share in (
            ("users", self.users, 1.0),
            ("items", self.items, self.event_share),
            ("cold_users", self.cold_users, self.miss_share),
        ):
            if share > 0 and not ids:
                raise ValueError(f"{name} is empty: give ids, or set their share to 0")


@dataclass(frozen=True)
class Plan:
    """The requests of a run: `due_R` seconds from the start, ascending, `kinds_R` places in KINDS.

    `payloads[i]` is the whole HTTP request i.
    """

    due_R: NDArray[np.float64]
    kinds_R: NDArray[np.int8]
    payloads: list[bytes]


def make_plan(spec: LoadSpec) -> Plan:
    """Return the requests of `spec`; the same seed gives the same plan.

    >>> spec = LoadSpec(host="h", port=1, rate=50, users=["u"], event_share=0, miss_share=0)
    >>> plan = make_plan(spec)
    >>> plan.payloads[0].split()[:2]
    [b'POST', b'/v1/recommend']
    """
    rng = np.random.default_rng(spec.seed)
    total_s = spec.warmup_s + spec.duration_s
    due_R = _arrivals(rng, spec.rate, total_s)
    count = len(due_R)
    kinds_R = (rng.random(count) < spec.event_share).astype(np.int8)
    cold_R = rng.random(count) < spec.miss_share
    users_R = _zipf(rng, len(spec.users), spec.zipf, count)
    items_R = rng.integers(0, max(1, len(spec.items)), count)
    writer = _Writer(spec)
    payloads, num_cold = [], 0
    columns = (kinds_R.tolist(), cold_R.tolist(), users_R.tolist(), items_R.tolist())
    for number, (kind, cold, user, item) in enumerate(zip(*columns, strict=True)):
        if kind:
            payloads.append(writer.event(number, spec.users[user], spec.items[item]))
        elif cold:
            payloads.append(writer.recommend(spec.cold_users[num_cold % len(spec.cold_users)]))
            num_cold += 1
        else:
            payloads.append(writer.recommend(spec.users[user]))
    return Plan(due_R, kinds_R, payloads)


def _arrivals(rng: np.random.Generator, rate: float, total_s: float) -> NDArray[np.float64]:
    count = int(rng.poisson(rate * total_s))
    return np.sort(rng.random(count)) * total_s


def _zipf(
    rng: np.random.Generator, num_users: int, exponent: float, count: int
) -> NDArray[np.int64]:
    weights = np.arange(1, num_users + 1, dtype=np.float64) ** -exponent
    reach = np.cumsum(weights)
    return np.asarray(np.searchsorted(reach, rng.random(count) * reach[-1], side="right"))


class _Writer:
    """Writes whole HTTP requests; recommendations for one user are one object."""

    def __init__(self, spec: LoadSpec) -> None:
        self._spec = spec
        self._cache: dict[str, bytes] = {}
        self._run = np.random.default_rng().integers(1 << 62)

    def recommend(self, user: str) -> bytes:
        if user not in self._cache:
            path, body = self._spec.recommend_path, {"user_id": user, "n": self._spec.k}
            self._cache[user] = self._request(path, body)
        return self._cache[user]

    def event(self, number: int, user: str, item: str) -> bytes:
        # The id differs from run to run: a repeated run must not be answered as duplicates.
        event_id = f"load-{self._run:x}-{number}"
        body = {"event_id": event_id, "event": self._spec.event, "user_id": user, "item_id": item}
        return self._request(self._spec.event_path, body)

    def _request(self, path: str, body: Mapping[str, object]) -> bytes:
        spec, content = self._spec, msgspec.json.encode(body)
        key = f"Authorization: Bearer {spec.api_key}\r\n" if spec.api_key else ""
        head = (
            f"POST {path} HTTP/1.1\r\nHost: {spec.host}:{spec.port}\r\n{key}"
            f"Content-Type: application/json\r\nContent-Length: {len(content)}\r\n\r\n"
        )
        return head.encode() + content
