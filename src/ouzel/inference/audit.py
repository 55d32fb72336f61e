"""The audit of one state: how far is it from a fresh encode of the history that the log holds?

An audit holds a copy of the state, so that its encode, the longest step there is, may run in
another thread or process while the pool goes on. (ONNX Runtime's sessions may be run from several
threads.)
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ouzel.bundle.manifest import Manifest
from ouzel.events.interactions import History
from ouzel.inference.encoding import ask, encode_into
from ouzel.inference.onnxruntime import Graphs
from ouzel.inference.pool import StatePool, history_hash, slot_bytes

HOUR_MS = 3_600_000

AUDIT_TOLERANCE = 1e-3
"""A float32 state this far from its re-encode is wrong; rounding stays two orders below."""


def audit_tolerance(manifest: Manifest) -> float:
    """Return how far a state of a Bundle may be from its re-encode.

    In float16 and int8 the two may now and then round an entry differently, but never do they
    differ by more than rounding everything was measured to cost.

    >>> from types import SimpleNamespace
    >>> audit_tolerance(SimpleNamespace(states=None))
    0.001
    """
    states = manifest.states
    rows = [] if states is None else states.measured
    errors = [row.vector_error for row in rows if states and row.precision == states.chosen]
    return max([AUDIT_TOLERANCE, *errors])


@dataclass(frozen=True)
class Audit:
    """A user's state, copied into a pool of its own, and the known events of the log's history.

    `digest` is the hash of the events that the state was made from.
    """

    graphs: Graphs
    stored: StatePool
    digest: int
    history: History

    def error(self) -> float:
        """Return the largest difference from a fresh encode, over everything an answer reads.

        Infinite if the state's events are not those of the log. What is compared is the vector at
        the time of the newest event and an hour later, and event by event the values, or what else
        a state consists of; of their difference the one step is taken off by which two states may
        have rounded. (Keys of states of older Bundles may have counted positions from different
        starts.)
        """
        if self.digest != history_hash(self.history):
            return float("inf")
        fresh = StatePool(self.stored.shape, max_bytes=slot_bytes(self.stored.shape))
        encode_into(self.graphs, fresh, [0], [self.history])
        worst = _value_difference(self.stored, fresh, len(self.history))
        newest_ms, slot = int(self.history.times_ms[-1]), np.array([0])
        for now_ms in (newest_ms, newest_ms + HOUR_MS):
            now_B = np.array([now_ms])
            ours, theirs = (ask(self.graphs, pool, slot, now_B) for pool in (self.stored, fresh))
            worst = max(worst, float(np.abs(ours - theirs).max()))
        return worst


def _value_difference(stored: StatePool, fresh: StatePool, length: int) -> float:
    """Return the largest difference of what is cached, keys left out, newest event to oldest."""
    window = stored.shape.window
    newest = np.arange(1, min(length, window) + 1)
    places = (int(stored.length_S[0]) - newest) % window
    fresh_places = (int(fresh.length_S[0]) - newest) % window
    worst = 0.0
    for layer in range(stored.shape.num_layers):
        ours, step = stored.values(0, layer, places)
        theirs, fresh_step = fresh.values(0, layer, fresh_places)
        worst = max(worst, float((np.abs(ours - theirs) - np.maximum(step, fresh_step)).max()))
    rest = zip(stored.beyond_layers(0, places), fresh.beyond_layers(0, fresh_places), strict=True)
    return max([worst, *(float(np.abs(ours - theirs).max()) for ours, theirs in rest)])
