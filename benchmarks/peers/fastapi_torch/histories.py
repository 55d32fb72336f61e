"""Every user's history in one memory-mapped file, shared by the worker processes.

An event is a write into the mapping under a file lock: the next request sees it, whichever worker
serves that. Nothing is synced to disk, which costs the peer less than Ouzel's durable log.
"""

import fcntl
from pathlib import Path

import numpy as np
import torch
from torch import Tensor


class Histories:
    """`row_of(user id)`, `rows(user)`, `append(user, row)` over `capacity` events a user."""

    def __init__(self, folder: Path, *, spare: int = 1000) -> None:
        start_UL = np.load(folder / "histories.npy", mmap_mode="r")
        num_users, self._first = start_UL.shape
        shape = (num_users, self._first + spare)
        path = folder / "peer-histories.bin"
        self._lock = (folder / "peer.lock").open("wb")
        fcntl.flock(self._lock, fcntl.LOCK_EX)
        fresh = not path.exists()
        mode = "w+" if fresh else "r+"
        self._rows = np.memmap(path, np.int64, mode, shape=shape)
        self._counts = np.memmap(folder / "peer-counts.bin", np.int64, mode, shape=(num_users,))
        if fresh:
            self._rows[:, : self._first] = start_UL
            self._counts[:] = self._first
        fcntl.flock(self._lock, fcntl.LOCK_UN)
        self._shared = torch.from_numpy(self._rows)
        self.row_of = {f"u{user}": user for user in range(num_users)}

    def rows(self, user: int) -> Tensor:
        """Return all catalogue rows of a user, oldest first."""
        return self._shared[user, : int(self._counts[user])]

    def append(self, user: int, row: int) -> None:
        """Add one event; past the capacity the oldest half is dropped."""
        fcntl.flock(self._lock, fcntl.LOCK_EX)
        count = int(self._counts[user])
        if count == self._rows.shape[1]:
            kept = self._rows[user, -self._first :].copy()
            self._rows[user, : self._first] = kept
            count = self._first
        self._rows[user, count] = row
        self._counts[user] = count + 1
        fcntl.flock(self._lock, fcntl.LOCK_UN)

    def close(self) -> None:
        """Let go of the lock file."""
        self._lock.close()
