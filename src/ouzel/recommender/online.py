"""Online learning of a home: its model learns what came into the log after its data, and serves.

The log is a stream and the Bundle says up to which offset it was read: learning goes on from there
in mini-batches, and ends with a Bundle that says where it stopped.

Shape legend: E = events, U = users, D = dim.
"""

from __future__ import annotations

from dataclasses import replace

import msgspec
import numpy as np
import torch
from numpy.typing import NDArray

from ouzel.bundle.bundle import Bundle
from ouzel.bundle.manifest import DataRange
from ouzel.events.log import EventLog
from ouzel.features.matrix import matrix_of_pairs
from ouzel.models.online import OnlineEncoder
from ouzel.models.registry import MODELS, model_named
from ouzel.recommender.by_history import Fitted, write_fitted
from ouzel.recommender.home import Home
from ouzel.recommender.publish import Provenance

BATCH_EVENTS = 65_536
"""Events that are read and learned at once."""


def learn_from_log(home: Home) -> Bundle:
    """Return the Bundle of the model of `home` after it learned what is new in the log; it serves.

    Raises:
        ValueError: nothing was trained, or the model learns from all events at once.

    >>> from pathlib import Path
    >>> learn_from_log(Home(Path("no-such-home")))
    Traceback (most recent call last):
    ...
    ValueError: no-such-home has no model yet: run `ouzel train --data PATH --out no-such-home`
    """
    bundle = home.current()
    with home.log() as log:
        stream = _Stream(bundle, log)
        offset = stream.learn(log)
        if offset == bundle.manifest.features["until_offset"]:
            return bundle
        learned = _published(home, log, stream, bundle, offset)
    home.store().promote(learned.digest)
    return learned


def online_model(bundle: Bundle) -> type[OnlineEncoder]:
    """Return the model of a Bundle, which can learn one event at a time.

    Raises:
        ValueError: it cannot; the message says which can.

    >>> from types import SimpleNamespace
    >>> online_model(SimpleNamespace(manifest=SimpleNamespace(model="ease")))
    Traceback (most recent call last):
    ...
    ValueError: ease learns from all events at once: call fit, or fit one of eals, bpr, isgd first
    """
    model = model_named(bundle.manifest.model)
    if issubclass(model, OnlineEncoder):
        return model
    able = ", ".join(known.name for known in MODELS if issubclass(known, OnlineEncoder))
    raise ValueError(
        f"{model.name} learns from all events at once: call fit, or fit one of {able} first"
    )


class _Stream:
    """A model as a Bundle holds it, and which user of the log is at which place of its table."""

    def __init__(self, bundle: Bundle, log: EventLog) -> None:
        kind, manifest = online_model(bundle), bundle.manifest
        config = msgspec.convert(manifest.config, type(kind.presets["S"]))
        held, vectors_ND = bundle.tensors("learning"), bundle.tensors("items")["vectors"]
        self.model = kind.build(config, num_users=len(held["users"]), num_rows=len(vectors_ND))
        weights = {"users.weight": held["users"], "items.weight": vectors_ND}
        self.model.load_state_dict(
            {name: torch.from_numpy(array.copy()) for name, array in weights.items()}
        )
        self._place_of = {user: place for place, user in enumerate(held["user_rows"].tolist())}
        self._offset = int(manifest.features["until_offset"])
        torch.manual_seed(manifest.seed + self._offset)
        self._remember(log)

    def _remember(self, log: EventLog) -> None:
        before = log.interactions(until_offset=self._offset)
        places_E = np.repeat(self.places(before.users_U), before.lengths_U())
        self.model.admit(places_E, before.rows_E)
        users, items = self.model.users.num_embeddings, self.model.items.num_embeddings
        matrix = matrix_of_pairs(places_E, before.rows_E, num_users=users, num_rows=items)
        self.model.remember(matrix)

    def places(self, users_E: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the place (E,) of each user of the log; who has none gets the next."""
        places = self._place_of
        found = [places.setdefault(user, len(places)) for user in users_E.tolist()]
        return np.array(found, np.int64)

    def learn(self, log: EventLog) -> int:
        """Return the offset of the last event after learning all there are."""
        while len(found := log.entries(after=self._offset, limit=BATCH_EVENTS)):
            self.model.partial_fit(self.places(found.users_E), found.rows_E)
            self._offset = int(found.offsets_E[-1])
        return self._offset


def _published(home: Home, log: EventLog, stream: _Stream, parent: Bundle, offset: int) -> Bundle:
    manifest, model = parent.manifest, stream.model
    interactions = log.interactions(until_offset=offset)
    # A user who was deleted from the log is in none of its Bundles from now on.
    kept_U = stream.places(interactions.users_U)
    tensors = model.tensors()
    tensors["learning"]["users"] = tensors["learning"]["users"][kept_U]
    interactions = replace(interactions, num_rows=model.items.num_embeddings)
    provenance = Provenance(
        features={**manifest.features, "until_offset": offset, "refit": True},
        catalogue_digest=log.catalog.digest(interactions.num_rows),
        data=DataRange(
            digest=log.digest(until_offset=offset),
            cut_off_ms=None,
            num_events=len(interactions),
            num_users=interactions.num_users,
        ),
        metrics=manifest.metrics,
        seed=manifest.seed,
        parent=parent.digest,
    )
    fitted = Fitted(model.name, "encoder", model.config, tensors)
    return write_fitted(home, fitted, interactions, provenance)
