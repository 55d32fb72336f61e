"""Matrix factorisation of River: events a second, the error of each rate, a ranked catalogue.

Reads users.npy, rows.npy and values.npy of a folder, in the order of time.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import numpy as np
from river import optim, reco

MODELS = {"FunkMF": reco.FunkMF, "BiasedMF": reco.BiasedMF}


def made(name: str, dim: int, rate: float, l2: float) -> object:
    if name == "FunkMF":
        return reco.FunkMF(n_factors=dim, optimizer=optim.SGD(rate), l2=l2, seed=0)
    return reco.BiasedMF(
        n_factors=dim,
        bias_optimizer=optim.SGD(rate),
        latent_optimizer=optim.SGD(rate),
        l2_bias=l2,
        l2_latent=l2,
        seed=0,
    )


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--dim", type=int, required=True)
    parser.add_argument("--rates", required=True)
    parser.add_argument("--l2", type=float, required=True)
    parser.add_argument("--ranked", type=int, required=True)
    arguments = parser.parse_args()
    columns = [np.load(arguments.data / f"{name}.npy") for name in ("users", "rows", "values")]
    users, rows, values = (column.tolist() for column in columns)
    told = []
    for name in MODELS:
        for rate in map(float, arguments.rates.split(",")):
            model, squares = made(name, arguments.dim, rate, arguments.l2), 0.0
            for user, item, value in zip(users, rows, values, strict=True):
                squares += (value - model.predict_one(user=user, item=item)) ** 2
                model.learn_one(user=user, item=item, y=value)
            told.append({"model": name, "rate": rate, "rmse": (squares / len(users)) ** 0.5})
        best = min((row for row in told if row["model"] == name), key=lambda row: row["rmse"])
        model = made(name, arguments.dim, best["rate"], arguments.l2)
        start, cpu = time.perf_counter(), time.process_time()
        for user, item, value in zip(users, rows, values, strict=True):
            model.learn_one(user=user, item=item, y=value)
        best["seconds"] = time.perf_counter() - start
        best["cpu_seconds"] = time.process_time() - cpu
        cpu = time.process_time()
        model.rank(user=users[-1], items=range(1, arguments.ranked + 1))
        best["rank_cpu_ms"] = 1000 * (time.process_time() - cpu)
    print(json.dumps(told))


if __name__ == "__main__":
    main()
