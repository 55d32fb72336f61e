"""Checkpoints: what a run needs to go on to the very weights it would have reached.

A checkpoint is one safetensors file: the tensors of the model, of the average of its weights, of
AdamW and of the best weights so far, and the counters of the run as JSON in its header. Randomness
needs no tensors, because every epoch seeds its own generators from (seed, epoch).
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

CHECKPOINT = "checkpoint.safetensors"
"""The file of a run in the directory that it was given."""


class RunState(msgspec.Struct, kw_only=True):
    """The counters of a run; `fingerprint` tells whether a checkpoint belongs to this run."""

    fingerprint: str
    epoch: int = 0
    steps: int = 0
    seconds: float = 0.0
    best_score: float = -1.0
    best_epoch: int = 0
    rounds_without_gain: int = 0


@dataclass
class Checkpoint:
    """A run between two epochs."""

    run: RunState
    model: dict[str, Tensor] = field(default_factory=dict)
    average: dict[str, Tensor] = field(default_factory=dict)
    best: dict[str, Tensor] = field(default_factory=dict)
    optimizer: dict[str, Tensor] = field(default_factory=dict)


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Return the optimiser's per-parameter state as named tensors, such as `3.exp_avg`.

    >>> weight = torch.nn.Parameter(torch.ones(2))
    >>> weight.sum().backward()
    >>> optimizer = torch.optim.AdamW([weight])
    >>> optimizer.step()
    >>> sorted(optimizer_tensors(optimizer))
    ['0.exp_avg', '0.exp_avg_sq', '0.step']
    """
    return {
        f"{index}.{name}": value
        for index, state in optimizer.state_dict()["state"].items()
        for name, value in state.items()
    }


def restore_optimizer(optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor]) -> None:
    """Put tensors from `optimizer_tensors` back into an optimiser of the same parameters.

    >>> optimizer = torch.optim.AdamW([torch.nn.Parameter(torch.ones(2))])
    >>> kept = {"0.step": torch.tensor(3.0), "0.exp_avg": torch.ones(2)}
    >>> restore_optimizer(optimizer, kept)
    >>> optimizer_tensors(optimizer)["0.step"].item()
    3.0
    """
    state: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        index, name = key.split(".", 1)
        state.setdefault(int(index), {})[name] = value
    optimizer.load_state_dict({**optimizer.state_dict(), "state": state})


def forget(directory: Path) -> None:
    """Remove the checkpoint in a directory, if there is one.

    >>> forget(Path("no-such-directory"))
    """
    (directory / CHECKPOINT).unlink(missing_ok=True)


def save_checkpoint(path: Path, checkpoint: Checkpoint) -> None:
    """Write `checkpoint` to `path`; a crash in between leaves the earlier file whole.

    >>> import tempfile
    >>> run = RunState(fingerprint="this run", epoch=2)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder, "checkpoint.safetensors")
    ...     save_checkpoint(path, Checkpoint(run, model={"weight": torch.ones(2)}))
    ...     stored = load_checkpoint(path, "this run")
    >>> stored.run.epoch, stored.model["weight"].tolist()
    (2, [1.0, 1.0])
    """
    tensors = {
        f"{part}/{name}": value.contiguous().clone()
        for part in ("model", "average", "best", "optimizer")
        for name, value in getattr(checkpoint, part).items()
    }
    fresh = path.with_suffix(".partial")
    save_file(tensors, fresh, metadata={"run": msgspec.json.encode(checkpoint.run).decode()})
    fresh.replace(path)
    os.sync()


def load_checkpoint(path: Path, fingerprint: str) -> Checkpoint | None:
    """Return the checkpoint at `path`, or None if there is none of the run `fingerprint`.

    Raises:
        ValueError: the file cannot be read; the message says to delete it.

    >>> load_checkpoint(Path("no-such-checkpoint.safetensors"), "this run") is None
    True
    """
    if not path.exists():
        return None
    try:
        with safe_open(path, framework="pt") as stored:
            metadata = stored.metadata() or {}
            run = msgspec.json.decode(metadata.get("run", ""), type=RunState)
            checkpoint = Checkpoint(run)
            for key in stored.keys():  # noqa: SIM118 - not a dict
                part, name = key.split("/", 1)
                getattr(checkpoint, part)[name] = stored.get_tensor(key)
    except (SafetensorError, msgspec.DecodeError, OSError) as error:
        raise ValueError(f"{path} is damaged ({error}); delete it to start over") from error
    return checkpoint if run.fingerprint == fingerprint else None
