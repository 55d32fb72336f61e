"""FastAPI and eager torch, the same two routes and bodies as Ouzel.

Requests that are waiting together are answered in one pass (`--batch` at most): encode, score and
top-k all run on the event loop's thread, so that at one worker nothing fights over two cores.

Usage: app.py --workload FOLDER --port-file FILE [--threads T] [--workers W] [--batch B]
"""

import argparse
import asyncio
import os
import time
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
import orjson
import torch
import uvicorn
from encoder import Recommender
from fastapi import FastAPI, HTTPException, Response
from histories import Histories
from pydantic import BaseModel
from uvicorn.supervisors import Multiprocess

MODEL = {"name": "eager torch", "version": "peer"}


class Ask(BaseModel):
    """The body of POST /v1/recommend."""

    user_id: str
    n: int = 10


class Click(BaseModel):
    """The body of POST /v1/events."""

    event_id: str
    event: str
    user_id: str
    item_id: str
    timestamp: int | None = None


class Batcher:
    """Answers whatever is waiting when the loop comes round, at most `largest` at a time."""

    def __init__(self, recommender: Recommender, histories: Histories, *, largest: int) -> None:
        self._recommender = recommender
        self._histories = histories
        self._largest = largest
        self._waiting: list[tuple[int, int, asyncio.Future[Any]]] = []

    def submit(self, user: int, k: int) -> asyncio.Future[Any]:
        """Return a future of (rows, scores)."""
        loop = asyncio.get_running_loop()
        future = loop.create_future()
        self._waiting.append((user, k, future))
        if len(self._waiting) == 1:
            loop.call_soon(self._run)
        return future

    def _run(self) -> None:
        taken, self._waiting = self._waiting[: self._largest], self._waiting[self._largest :]
        for group in self._alike(taken):
            histories = [rows for rows, _, _ in group]
            most = max(k for _, k, _ in group)
            rows_BK, scores_BK = self._recommender.top(histories, most)
            for (_, k, future), rows, scores in zip(group, rows_BK, scores_BK, strict=True):
                if not future.done():
                    future.set_result((rows[:k], scores[:k]))
        if self._waiting:
            asyncio.get_running_loop().call_soon(self._run)

    def _alike(self, taken: list[tuple[int, int, Any]]) -> Iterator[list[tuple[Any, int, Any]]]:
        """Yield groups whose windows have one length: no padding."""
        window = self._recommender.encoder.length
        loaded = [(self._histories.rows(user), k, future) for user, k, future in taken]

        def length(entry: tuple[Any, int, Any]) -> int:
            return min(window, len(entry[0]))

        for _, group in groupby(sorted(loaded, key=length), key=length):
            yield list(group)


def create() -> FastAPI:
    """Return the app of one worker; its settings come through the environment."""
    torch.set_num_threads(int(os.environ["PEER_THREADS"]))
    folder = Path(os.environ["PEER_WORKLOAD"])
    recommender = Recommender(torch.from_numpy(np.load(folder / "items.npy")))
    histories = Histories(folder)
    batcher = Batcher(recommender, histories, largest=int(os.environ["PEER_BATCH"]))
    app = FastAPI(openapi_url=None)

    def user_row(user_id: str) -> int:
        if user_id not in histories.row_of:
            raise HTTPException(404, f"unknown user {user_id}")
        return histories.row_of[user_id]

    @app.post("/v1/recommend")
    async def recommend(ask: Ask) -> Response:
        began = time.perf_counter()
        rows, scores = await batcher.submit(user_row(ask.user_id), ask.n)
        items = [
            {"item_id": f"i{row}", "score": score, "rank": rank, "source": "sequence"}
            for rank, (row, score) in enumerate(zip(rows, scores, strict=True), start=1)
        ]
        reply = {
            "request_id": uuid4().hex,
            "items": items,
            "model": MODEL,
            "degraded": None,
            "took_ms": 1000 * (time.perf_counter() - began),
        }
        return Response(orjson.dumps(reply), media_type="application/json")

    @app.post("/v1/events")
    async def events(click: Click) -> Response:
        histories.append(user_row(click.user_id), int(click.item_id[1:]))
        body = orjson.dumps({"accepted": 1, "duplicates": 0, "conflicts": 0, "rejected": []})
        return Response(body, media_type="application/json")

    @app.get("/health/ready")
    async def ready() -> Response:
        return Response(b'{"status":"ready"}', media_type="application/json")

    return app


def main() -> None:
    """Serve until interrupted."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--workload", type=Path, required=True)
    parser.add_argument("--port-file", type=Path, required=True)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--batch", type=int, default=1)
    options = parser.parse_args()
    os.environ["PEER_WORKLOAD"] = str(options.workload)
    os.environ["PEER_THREADS"] = str(options.threads)
    os.environ["PEER_BATCH"] = str(options.batch)
    for name in ("peer-histories.bin", "peer-counts.bin"):
        (options.workload / name).unlink(missing_ok=True)
    config = uvicorn.Config(
        "app:create",
        factory=True,
        host="127.0.0.1",
        port=0,
        workers=options.workers,
        access_log=False,
        log_level="warning",
        loop="uvloop",
        http="httptools",
        # a worker that loads torch on busy cores is slow to answer its parent, not dead
        timeout_worker_healthcheck=120,
    )
    socket = config.bind_socket()
    options.port_file.write_text(str(socket.getsockname()[1]))
    if options.workers == 1:
        uvicorn.Server(config).run(sockets=[socket])
    else:
        Multiprocess(config, sockets=[socket]).run()


if __name__ == "__main__":
    main()
