"""A home: everything of one recommender in one folder.

DIR/events.db           the log: items, users and all that happened
DIR/bundles/<digest>/   what was trained
DIR/current             which of them is served
DIR/store.db            promotions and roll-backs
DIR/index/<digest>/     what `ouzel index` chose, and lists of large catalogues
DIR/training/           metrics.jsonl of the last training, and its checkpoint while it runs
"""

from __future__ import annotations

from pathlib import Path

from ouzel.bundle.bundle import Bundle, load_bundle
from ouzel.bundle.store import BundleStore
from ouzel.events.log import EventLog


class Home:
    """The folder of one recommender."""

    def __init__(self, root: Path) -> None:
        self.root = root

    @property
    def bundles(self) -> Path:
        """Return the folder of Bundles."""
        return self.root / "bundles"

    @property
    def training(self) -> Path:
        """Return the folder that a training writes to."""
        return self.root / "training"

    def log(self) -> EventLog:
        """Return the open log, made if it is not there yet.

        Raises:
            ValueError: it is missing where there is a model, or cannot be opened.
        """
        self.root.mkdir(parents=True, exist_ok=True)
        path = self.root / "events.db"
        self.store().check_log(path)
        return EventLog.open(path)

    def store(self) -> BundleStore:
        """Return the store that says which Bundle is served."""
        return BundleStore(self.root)

    def current(self) -> Bundle:
        """Return the Bundle that is served, every byte of it checked.

        Raises:
            ValueError: nothing was trained into this folder, or the Bundle is damaged.
        """
        return load_bundle(self.store().current())

    def measured(self) -> Bundle:
        """Return the Bundle whose training left the test part out: `current` or what it is of."""
        bundle = self.current()
        while bundle.manifest.features.get("refit"):
            assert bundle.manifest.parent is not None
            bundle = load_bundle(self.bundles / bundle.manifest.parent[: len(bundle.path.name)])
        return bundle
