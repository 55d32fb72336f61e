"""Alternating least squares of `implicit`: the seconds of each sweep, and the factors after it.

Reads users.npy and rows.npy of a folder, each pair once; writes users_N.npy and items_N.npy.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import numpy as np
import scipy.sparse
from implicit.cpu.als import AlternatingLeastSquares


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--dim", type=int, required=True)
    parser.add_argument("--sweeps", type=int, required=True)
    parser.add_argument("--confidence", type=float, required=True)
    parser.add_argument("--l2", type=float, required=True)
    parser.add_argument("--solver", choices=("cholesky", "conjugate gradients"), required=True)
    parser.add_argument("--threads", type=int, required=True)
    arguments = parser.parse_args()
    users, rows = (np.load(arguments.data / f"{name}.npy") for name in ("users", "rows"))
    confidence = np.full(len(users), arguments.confidence, np.float32)
    matrix = scipy.sparse.csr_matrix((confidence, (users, rows)))
    model = AlternatingLeastSquares(
        factors=arguments.dim,
        regularization=arguments.l2,
        alpha=1.0,
        use_cg=arguments.solver != "cholesky",
        iterations=arguments.sweeps,
        num_threads=arguments.threads,
        random_state=0,
    )
    told = []
    last = [time.perf_counter(), time.process_time()]

    def noted(number: int, *_: object) -> None:
        now = [time.perf_counter(), time.process_time()]
        told.append({"seconds": now[0] - last[0], "cpu_seconds": now[1] - last[1]})
        np.save(arguments.data / f"users_{number}.npy", model.user_factors)
        np.save(arguments.data / f"items_{number}.npy", model.item_factors)
        last[:] = [time.perf_counter(), time.process_time()]

    model.fit(matrix, show_progress=False, callback=noted)
    print(json.dumps(told))


if __name__ == "__main__":
    main()
