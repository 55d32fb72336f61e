"""What it takes to fit: a sweep of iALS, an epoch of the sequence backbone, EASE on many items.

Peers fit the same events with the same settings in environments of their own; what is compared is
CPU time where both had the same number of threads, since others may use the machine.

Shape legend: E = pairs, U = users, N = catalogue rows with the padding row 0, D = dim.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ouzel.cli.benchmarking.peer import Peer
from ouzel.cli.benchmarking.training_data import Stream
from ouzel.features.matrix import Matrix, matrix_of, matrix_of_pairs

THREADS = 2
DIM, LAYERS, WINDOW = 128, 2, 200
"""Of the backbone."""

FACTORS, SWEEPS = 64, 8
ALPHA, L2 = 0.3, 1.0
"""Of iALS, with the same ridge on every vector."""

CLOSE = 1.01
"""A loss is reached that is at most this many times the least one."""

MANY_ITEMS, MANY_USERS, EVENTS_A_USER = 20_000, 40_000, 40
QUICK_SHARE = 10

Row = dict[str, Any]


@dataclass(frozen=True)
class Run:
    """What a case is measured with; `told` says what goes on."""

    seed: int
    quick: bool
    peer: bool
    told: Callable[[str], None] = field(default=print)


@dataclass
class Watch:
    """Seconds by the clock and of CPU time, of all threads, that a block takes."""

    seconds: float = 0.0
    cpu_seconds: float = 0.0

    def __enter__(self) -> Watch:
        self._began = time.perf_counter(), time.process_time()
        return self

    def __exit__(self, *_: object) -> None:
        self.seconds = time.perf_counter() - self._began[0]
        self.cpu_seconds = time.process_time() - self._began[1]

    def row(self) -> Row:
        """Return what a row says of it."""
        return {"seconds": round(self.seconds, 3), "cpu_seconds": round(self.cpu_seconds, 3)}


def peer_rows(
    name: str, columns: Mapping[str, NDArray[Any]], options: Mapping[str, object], folder: Path
) -> list[Row]:
    """Return what a peer prints of `columns`, which it finds in `folder` with what it writes there.

    Raises:
        ValueError: it cannot be installed here, or fails.

    >>> peer_rows("nobody", {}, {}, Path("nowhere"))
    Traceback (most recent call last):
    ...
    ValueError: benchmarks/peers/nobody is not here: run this in a checkout of Ouzel
    """
    peer = Peer(name)
    for column, values in columns.items():
        np.save(folder / f"{column}.npy", values)
    return peer.measured({"--data": folder, **options})


def missing_row(system: str, error: ValueError) -> Row:
    """Return the row of a peer that could not be measured here.

    >>> missing_row("river", ValueError("pip could not install it"))["missing"]
    'pip could not install it'
    """
    return {"system": system, "missing": str(error)}


def backbone_rows(stream: Stream, run: Run) -> Iterator[Row]:
    """Yield an epoch of the sequence backbone: events a second, and the share that is padding.

    One row has the loss that is the default, one the full softmax that the peer has.

    >>> from unittest.mock import patch
    >>> with patch("ouzel.cli.benchmarking.fitting._epoch", return_value={"tokens_per_s": 9}):
    ...     [row["loss"] for row in backbone_rows(None, Run(0, True, False, print))]
    backbone: an epoch of sampled_softmax
    backbone: an epoch of full_softmax
    ['sampled_softmax', 'full_softmax']
    """
    ours: Row = {}
    for loss in ("sampled_softmax", "full_softmax"):
        run.told(f"backbone: an epoch of {loss}")
        ours = {"system": "ouzel esasrec", "loss": loss, **_epoch(stream, loss, run.seed)}
        yield ours
    if not run.peer:
        return
    run.told("backbone: an epoch of RecTools")
    columns: dict[str, NDArray[Any]] = {
        "users": stream.users_E,
        "rows": stream.rows_E,
        "times": stream.times_ms_E,
    }
    options = {"--dim": DIM, "--layers": LAYERS, "--window": WINDOW, "--batch": 128}
    options["--threads"] = THREADS
    try:
        with tempfile.TemporaryDirectory() as folder:
            (found,) = peer_rows("rectools_sasrec", columns, options, Path(folder))
    except ValueError as error:
        yield missing_row("rectools sasrec", error)
        return
    theirs = {**found, "tokens_per_s": round(found["tokens"] / found["seconds"])}
    theirs["tokens_per_cpu_s"] = round(found["tokens"] / found["cpu_seconds"])
    times = ours["tokens_per_cpu_s"] / theirs["tokens_per_cpu_s"]
    yield {"system": "rectools sasrec", "loss": "full_softmax", **theirs, "ouzel_times": times}


def _epoch(stream: Stream, loss: str, seed: int) -> Row:
    import torch

    from ouzel.features.batches import training_batches, training_windows
    from ouzel.models.sequence.esasrec import ESASRec
    from ouzel.training.fit import FitSettings, fit

    interactions = stream.interactions()
    torch.set_num_threads(THREADS)
    torch.manual_seed(seed)
    settings = FitSettings(epochs=1, loss=loss, seed=seed)
    sizes = {"dim": DIM, "num_layers": LAYERS, "window": WINDOW}
    model = ESASRec.build("S", interactions.num_rows, **sizes)
    rng = np.random.default_rng(seed)
    windows = training_windows(interactions, max_length=WINDOW, rng=rng)
    batches = training_batches(interactions, windows, tokens=settings.batch_tokens, rng=rng)
    padded = sum(batch.rows_BL.size for batch in batches)
    tokens = int((windows[:, 1] - windows[:, 0]).sum())
    with tempfile.TemporaryDirectory() as folder, Watch() as watch:
        fit(
            model,
            interactions,
            settings,
            max_length=WINDOW,
            validate=None,
            directory=Path(folder),
        )
    return {
        "tokens": tokens,
        "tokens_per_s": round(tokens / watch.seconds),
        "tokens_per_cpu_s": round(tokens / watch.cpu_seconds),
        "padding_share": round(1 - tokens / padded, 4),
        **watch.row(),
    }


def ials_rows(stream: Stream, run: Run) -> Iterator[Row]:
    """Yield the seconds of a sweep of iALS and until its loss is close to the least of all.

    The peer minimises the same loss up to a scale: confidence (1 + alpha) / alpha for a pair seen
    and 1 for others, target 1, ridge l2 (1 + alpha) / alpha.

    >>> from unittest.mock import patch
    >>> from ouzel.cli.benchmarking.training_data import made_up
    >>> stream = made_up(30, seed=0)
    >>> with patch("ouzel.cli.benchmarking.fitting.FACTORS", 4):
    ...     (row,) = ials_rows(stream, Run(0, True, False, lambda words: None))
    >>> row["losses"][-1] < row["losses"][0]
    True
    """
    matrix = matrix_of(stream.interactions())
    run.told("ials: sweeps of Ouzel")
    all_rows = [{"system": "ouzel ials", **_ials(matrix, run.seed)}]
    if run.peer:
        for solver in ("cholesky", "conjugate gradients"):
            run.told(f"ials: sweeps of implicit, {solver}")
            try:
                all_rows.append({"system": f"implicit als, {solver}", **_implicit(matrix, solver)})
            except ValueError as error:
                yield missing_row(f"implicit als, {solver}", error)
    mark = CLOSE * min(min(row["losses"]) for row in all_rows)
    for row in all_rows:
        # Who does not get there has a loss that is not equal.
        sweeps = next((n for n, loss in enumerate(row["losses"], 1) if loss <= mark), None)
        row["sweeps_to_loss"] = sweeps
        for name in ("seconds", "cpu_seconds"):
            spent = row.pop(name)
            row[f"{name}_a_sweep"] = round(float(np.median(spent)), 4)
            row[f"{name}_to_loss"] = None if sweeps is None else round(sum(spent[:sweeps]), 3)
    ours = all_rows[0]
    for row in all_rows[1:]:
        row["ouzel_times_a_sweep"] = row["cpu_seconds_a_sweep"] / ours["cpu_seconds_a_sweep"]
        if None not in (row["sweeps_to_loss"], ours["sweeps_to_loss"]):
            row["ouzel_times"] = row["cpu_seconds_to_loss"] / ours["cpu_seconds_to_loss"]
    yield from all_rows


def _ials(matrix: Matrix, seed: int) -> Row:
    import torch

    from ouzel.models.factorization.ials import IALS, IALSConfig

    torch.set_num_threads(THREADS)
    torch.manual_seed(seed)
    config = IALSConfig(dim=FACTORS, alpha=ALPHA, l2=L2, power=0.0, block=FACTORS)
    model = IALS.build(config, num_users=matrix.num_users, num_rows=matrix.num_rows)
    losses, seconds, cpu_seconds = [], [], []
    for _ in range(SWEEPS):
        with Watch() as watch:
            model.sweep(matrix)
        seconds.append(watch.seconds)
        cpu_seconds.append(watch.cpu_seconds)
        users_UD, items_ND = model.users.weight.detach().numpy(), model.items.weight.detach()
        losses.append(ials_loss(users_UD, items_ND.numpy(), matrix))
    return {"losses": losses, "seconds": seconds, "cpu_seconds": cpu_seconds}


def _implicit(matrix: Matrix, solver: str) -> Row:
    scale = (1 + ALPHA) / ALPHA
    options = {"--dim": FACTORS, "--sweeps": SWEEPS, "--threads": THREADS, "--solver": solver}
    options |= {"--confidence": scale, "--l2": L2 * scale}
    columns = {"users": matrix.users_E(), "rows": matrix.rows_E}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        told = peer_rows("implicit_als", columns, options, folder)
        # The same loss in its scale of vectors.
        read = [
            [
                np.load(folder / f"{side}_{n}.npy") / (1 + ALPHA) ** 0.5
                for side in ("users", "items")
            ]
            for n in range(SWEEPS)
        ]
    losses = [ials_loss(users_UD, items_ND, matrix) for users_UD, items_ND in read]
    seconds = {name: [row[name] for row in told] for name in ("seconds", "cpu_seconds")}
    return {"losses": losses, **seconds}


def ials_loss(
    users_UD: NDArray[np.float32], items_ND: NDArray[np.float32], matrix: Matrix
) -> float:
    """Return the whole loss that `ouzel.models.factorization.ials` minimises, with power 0.

    >>> matrix = Matrix(np.array([0, 1]), np.array([1], np.int32), 2)
    >>> ials_loss(np.zeros((1, 2)), np.ones((2, 2)), matrix)
    3.0
    """
    users_UD, items_ND = users_UD.astype(np.float64), items_ND.astype(np.float64)
    items_ND[0] = 0
    seen = 0.0
    for first in range(0, len(matrix), 1 << 16):
        part = slice(first, first + (1 << 16))
        pairs = users_UD[matrix.users_E()[part]], items_ND[matrix.rows_E[part]]
        seen += float(np.square(np.einsum("ed,ed->e", *pairs) - 1).sum())
    everything = float(((users_UD.T @ users_UD) * (items_ND.T @ items_ND)).sum())
    norms = float(np.square(users_UD).sum() + np.square(items_ND).sum())
    return seen + ALPHA * everything + L2 * norms


def ease_rows(run: Run) -> Iterator[Row]:
    """Yield the seconds that EASE takes for 20,000 items.

    >>> from unittest.mock import patch
    >>> with patch("ouzel.cli.benchmarking.fitting.MANY_ITEMS", 300):
    ...     (row,) = ease_rows(Run(0, True, False, lambda words: None))
    >>> row["items"], row["weights"] > 0
    (30, True)
    """
    import torch

    from ouzel.models.neighbours.ease import EASE, EASEConfig

    torch.set_num_threads(THREADS)
    share = QUICK_SHARE if run.quick else 1
    items, users = MANY_ITEMS // share, MANY_USERS // share
    run.told(f"ease: {items:,} items")
    rng = np.random.default_rng(run.seed)
    rows_E = 1 + (items * rng.random(users * EVENTS_A_USER) ** 2).astype(np.int32)
    users_E = np.repeat(np.arange(users), EVENTS_A_USER)
    matrix = matrix_of_pairs(users_E, rows_E, num_users=users, num_rows=items + 1)
    with Watch() as watch:
        model = EASE.fit(matrix, EASEConfig())
    weights = len(model.weights.values_W)
    yield {"system": "ouzel ease", "items": items, "weights": weights, **watch.row()}
