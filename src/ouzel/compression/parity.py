"""How far what serves is from what was trained, measured on real histories before a Bundle is kept.

Two promises of a Bundle: its graphs give the vectors of the torch model, and appending events one
by one gives what encoding the whole history gives. Both within `PARITY_BOUND` in float32.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from ouzel.events.interactions import History
from ouzel.features.batches import pad_histories
from ouzel.inference.encoding import HistoryEncoder
from ouzel.inference.onnxruntime import Graphs
from ouzel.inference.states import UserStates
from ouzel.models.protocols import SequenceEncoder

PARITY_BOUND = 1e-4
"""Largest absolute difference of a user vector's entries, the vector scaled to length 1."""

APPENDED_EVENTS = 32
"""How many of its newest events each history of the append check receives one by one."""

REQUEST_DELAY_MS = 3_600_000
POOL_BYTES = 256 << 20


def measure_parity(
    model: SequenceEncoder, graphs: Graphs, histories: Sequence[History]
) -> dict[str, float]:
    """Return the largest differences: `export` (graphs to torch), `append` (chain to encode).

    Raises:
        ValueError: one is above `PARITY_BOUND`: such graphs must not be served.
    """
    histories = [history for history in histories if len(history)]
    expected = [_torch_vector(model, graphs, history) for history in histories]
    encoder = HistoryEncoder(graphs)
    encoded, _ = encoder(histories, np.array([_request_ms(history) for history in histories]))
    bounds = {
        "export": _worst(encoded, expected),
        "append": _worst([_appended(graphs, history) for history in histories], encoded),
    }
    for name, bound in bounds.items():
        if not bound <= PARITY_BOUND:
            raise ValueError(
                f"the exported graphs are off by {bound:.2g} ({name}), more than {PARITY_BOUND:g}; "
                "train again, and report this with the versions that `ouzel doctor` prints"
            )
    return bounds


def _torch_vector(model: SequenceEncoder, graphs: Graphs, history: History) -> NDArray[np.float32]:
    padded = pad_histories([history.last(graphs.shape.receptive_field)])
    requests_BL = padded.times_BL.copy()
    requests_BL[0, -1] = _request_ms(history)
    with torch.no_grad():
        inputs = map(torch.from_numpy, (padded.rows_BL, padded.times_BL, requests_BL))
        return np.asarray(model(*inputs)[0, -1].numpy(), np.float32)


def _appended(graphs: Graphs, history: History) -> NDArray[np.float32]:
    """Return the vector after the newest events came in one by one."""
    first = max(1, len(history) - APPENDED_EVENTS)
    start = History(history.rows[:first], history.times_ms[:first])
    states = UserStates(
        graphs, max_bytes=POOL_BYTES, load_history=lambda user: start, version="parity"
    )
    states.query([0], _request_ms(history))
    for row, time_ms in zip(
        history.rows[first:].tolist(), history.times_ms[first:].tolist(), strict=True
    ):
        states.observe(0, row, time_ms)
    vectors, _ = states.query([0], _request_ms(history))
    vector: NDArray[np.float32] = vectors[0]
    return vector


def _request_ms(history: History) -> int:
    return int(history.times_ms[-1]) + REQUEST_DELAY_MS


def _worst(
    found: Sequence[NDArray[np.float32]] | NDArray[np.float32],
    expected: Sequence[NDArray[np.float32]] | NDArray[np.float32],
) -> float:
    pairs = zip(found, expected, strict=True)
    return max(
        (float(np.abs(one - two).max() / np.linalg.norm(two)) for one, two in pairs), default=0.0
    )
