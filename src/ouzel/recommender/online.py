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
from ouzel.events.interactions import Interactions
from ouzel.events.log import EventLog
from ouzel.features.matrix import matrix_of_pairs
from ouzel.inference.onnxruntime import CTR
from ouzel.models.online import OnlineEncoder
from ouzel.models.registry import MODELS, model_named
from ouzel.recommender.by_history import Fitted, write_fitted
from ouzel.recommender.evaluate import recorded_split
from ouzel.recommender.home import Home
from ouzel.recommender.publish import Provenance

BATCH_EVENTS = 65_536
"""Events that are read and learned at once."""


def learn_from_log(home: Home) -> Bundle:
    """Return the Bundle of the model of `home` after it learned what is new in the log; it serves.

    What its training held out comes first, then what came into the log after that. An event on an
    item that got its row only later, by an update, is learned by the next training.

    Raises:
        ValueError: nothing was trained, the model learns from all events at once, or the log no
            longer holds what it was trained on.

    >>> from pathlib import Path
    >>> learn_from_log(Home(Path("no-such-home")))
    Traceback (most recent call last):
    ...
    ValueError: no-such-home has no model yet: run `ouzel train --data PATH --out no-such-home`
    """
    bundle = home.current()
    with home.log() as log:
        stream = _Stream(bundle, log, *_learned(home, bundle))
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
    >>> online_model(SimpleNamespace(manifest=SimpleNamespace(model="ease", features={})))
    Traceback (most recent call last):
    ...
    ValueError: ease learns from all events at once: call fit, or fit one of eals, bpr, isgd first
    """
    model = model_named(bundle.manifest.model)
    if issubclass(model, OnlineEncoder):
        if CTR in bundle.manifest.features:
            raise ValueError(
                f"{bundle.manifest.features[CTR]['name']}, which orders what {model.name} finds, "
                "learns from all events at once: fit without ctr first"
            )
        return model
    able = ", ".join(known.name for known in MODELS if issubclass(known, OnlineEncoder))
    raise ValueError(
        f"{model.name} learns from all events at once: call fit, or fit one of {able} first"
    )


Held = tuple[NDArray[np.int64], NDArray[np.int32]]
"""Users of the log and catalogue rows (E,) of events, in the order of time."""


def _learned(home: Home, bundle: Bundle) -> tuple[Interactions, Held]:
    """Return what the model of a Bundle has learned from, and what was held out of that."""
    full, split = recorded_split(home, bundle)
    if bundle.manifest.features["refit"]:
        return full, (np.empty(0, np.int64), np.empty(0, np.int32))
    return split.train, held_out(full, split.train)


def held_out(full: Interactions, train: Interactions) -> Held:
    """Return what `full` has after what `train` has of each user.

    >>> from ouzel.data.split import leave_one_out
    >>> from ouzel.events.interactions import History, from_histories
    >>> visits = [History(np.array([1, 2, 3], np.int32), np.arange(3) + n) for n in (0, 9)]
    >>> split = leave_one_out(from_histories(visits, num_rows=4))
    >>> users_E, rows_E = held_out(split.full, split.train)
    >>> users_E.tolist(), rows_E.tolist()
    ([0, 0, 1, 1], [2, 3, 2, 3])
    """
    known = dict(zip(train.users_U.tolist(), train.lengths_U().tolist(), strict=True))
    lengths_U = np.array([known.get(user, 0) for user in full.users_U.tolist()], np.int64)
    starts_E = np.repeat(full.offsets_U1[:-1] + lengths_U, full.lengths_U())
    users_E = np.repeat(full.users_U, full.lengths_U())
    later = np.flatnonzero(np.arange(len(full)) >= starts_E)
    order = later[np.argsort(full.times_ms_E[later], kind="stable")]
    return users_E[order], full.rows_E[order]


class _Stream:
    """A model as a Bundle holds it, and which user of the log is at which place of its table."""

    def __init__(self, bundle: Bundle, log: EventLog, before: Interactions, held_out: Held) -> None:
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
        self._remember(before)
        users_E, rows_E = held_out
        if len(rows_E):
            self.model.partial_fit(self.places(users_E), rows_E)

    def _remember(self, before: Interactions) -> None:
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
