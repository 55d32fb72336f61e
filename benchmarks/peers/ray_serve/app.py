"""Ray Serve and eager torch: the model and histories of `fastapi_torch`, one deployment.

Requests that wait together in a replica are answered in one pass (`@serve.batch`, `--batch` at
most, no waiting for company).

Usage: app.py --workload FOLDER --port-file FILE [--threads T] [--workers W] [--batch B]
where workers are replicas.
"""

import argparse
import os
import signal
import socket
import sys
import tempfile
import threading
import time
from itertools import groupby
from pathlib import Path
from typing import Any
from uuid import uuid4

MODEL = Path(__file__).parents[1] / "fastapi_torch"
sys.path.insert(0, str(MODEL))
# Read when Ray is imported. Direct ingress would need a balancer of its own in front.
os.environ.update(
    PYTHONPATH=str(MODEL),
    RAY_USAGE_STATS_ENABLED="0",
    RAY_SERVE_THROUGHPUT_OPTIMIZED="1",
    RAY_SERVE_ENABLE_DIRECT_INGRESS="0",
)

import numpy as np  # noqa: E402
import orjson  # noqa: E402
import ray  # noqa: E402
import torch  # noqa: E402
from encoder import Recommender  # noqa: E402
from histories import Histories  # noqa: E402
from ray import serve  # noqa: E402
from starlette.requests import Request  # noqa: E402
from starlette.responses import Response  # noqa: E402

ONGOING = 1000
"""Requests that may wait in a replica: Ray's 5 would leave nothing to batch."""

STORE_BYTES = 80 << 20
"""Nothing is kept in the object store; Ray takes no less."""


class Answers:
    """One replica: encodes, scores the catalogue and takes the best, all in its event loop."""

    def __init__(self, folder: str, threads: int, batch: int) -> None:
        torch.set_num_threads(threads)
        self.recommender = Recommender(torch.from_numpy(np.load(Path(folder, "items.npy"))))
        self.histories = Histories(Path(folder))
        self.top.set_max_batch_size(batch)

    @serve.batch(max_batch_size=1, batch_wait_timeout_s=0)
    async def top(self, asked: list[tuple[int, int]]) -> list[tuple[list[int], list[float]]]:
        """Return rows and scores for each (user, k)."""
        window = self.recommender.encoder.length
        loaded = [self.histories.rows(user) for user, _ in asked]
        found: list[Any] = [None] * len(asked)

        def length(place: int) -> int:
            return min(window, len(loaded[place]))

        for _, group in groupby(sorted(range(len(asked)), key=length), key=length):
            places = list(group)
            most = max(asked[place][1] for place in places)
            rows_BK, scores_BK = self.recommender.top([loaded[place] for place in places], most)
            for place, rows, scores in zip(places, rows_BK, scores_BK, strict=True):
                k = asked[place][1]
                found[place] = rows[:k], scores[:k]
        return found

    async def __call__(self, request: Request) -> Response:
        """Answer one HTTP request."""
        path = request.url.path
        if path == "/health/ready":
            return _reply({"status": "ready"})
        began = time.perf_counter()
        body = orjson.loads(await request.body())
        user = self.histories.row_of.get(body["user_id"])
        if user is None:
            return Response(f"unknown user {body['user_id']}", 404)
        if path == "/v1/events":
            self.histories.append(user, int(body["item_id"][1:]))
            return _reply({"accepted": 1, "duplicates": 0, "conflicts": 0, "rejected": []})
        rows, scores = await self.top((user, body.get("n", 10)))
        items = [
            {"item_id": f"i{row}", "score": score, "rank": rank, "source": "sequence"}
            for rank, (row, score) in enumerate(zip(rows, scores, strict=True), start=1)
        ]
        return _reply(
            {
                "request_id": uuid4().hex,
                "items": items,
                "model": {"name": "eager torch", "version": "peer"},
                "degraded": None,
                "took_ms": 1000 * (time.perf_counter() - began),
            }
        )


def _reply(content: dict[str, Any]) -> Response:
    return Response(orjson.dumps(content), media_type="application/json")


def free_port() -> int:
    """Return a port that nobody has now."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def start(options: argparse.Namespace, port: int, scratch: str) -> None:
    """Return once every replica is ready behind the proxy on `port`."""
    ray.init(
        num_cpus=2,
        include_dashboard=False,
        object_store_memory=STORE_BYTES,
        log_to_driver=False,
        _temp_dir=scratch,
    )
    quiet = {"log_level": "ERROR", "enable_access_log": False}
    serve.start(http_options={"host": "127.0.0.1", "port": port}, logging_config=quiet)
    deployment = serve.deployment(
        Answers,
        num_replicas=options.workers,
        max_ongoing_requests=ONGOING,
        # Placement is not what is measured: proxy and controller share the cores with replicas.
        ray_actor_options={"num_cpus": 0},
        logging_config=quiet,
    )
    app = deployment.bind(str(options.workload), options.threads, options.batch)
    serve.run(app, route_prefix="/", logging_config=quiet)


def main() -> None:
    """Serve until interrupted."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--workload", type=Path, required=True)
    parser.add_argument("--port-file", type=Path, required=True)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--batch", type=int, default=1)
    options = parser.parse_args()
    for name in ("peer-histories.bin", "peer-counts.bin"):
        (options.workload / name).unlink(missing_ok=True)
    stopped = threading.Event()
    # Sockets have names of at most 107 bytes, so the folder's must be short.
    with tempfile.TemporaryDirectory(prefix="ray-", ignore_cleanup_errors=True) as scratch:
        port = free_port()
        start(options, port, scratch)
        signal.signal(signal.SIGTERM, lambda *_: stopped.set())
        options.port_file.write_text(str(port))
        stopped.wait()
        ray.shutdown()


if __name__ == "__main__":
    main()
