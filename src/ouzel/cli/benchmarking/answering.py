"""What an answer of a trained model costs: a click and the next list, in this process."""

from __future__ import annotations

import time
from statistics import median

import numpy as np

from ouzel.bundle.index import KeptLists
from ouzel.events import clock
from ouzel.events.interactions import History
from ouzel.inference.audit import audit_tolerance
from ouzel.inference.no_states import NoStates
from ouzel.inference.onnxruntime import Graphs
from ouzel.inference.pool import slot_bytes
from ouzel.inference.states import UserStates
from ouzel.ranking.assembly import Chosen, reads_values, sample_histories, standard_stages
from ouzel.ranking.pipeline import Pipeline
from ouzel.recommender.home import Home
from ouzel.retrieval.types import Query, distinct_rows

MOST_USERS = 200
STATE_BYTES = 256 << 20


def answer_costs(home: Home, *, seed: int = 0) -> dict[str, float]:
    """Return `click_to_list_ms` and `state_bytes` of the model that `home` serves.

    The first is the median over up to `MOST_USERS` users whose states are held: a click is noted
    and a list of 10 made, alone, without HTTP and without the disk.

    Raises:
        ValueError: no model is served.

    >>> import tempfile
    >>> from pathlib import Path
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     answer_costs(Home(Path(folder)))  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    ...
    ValueError: ...
    """
    bundle = home.current()
    graphs = Graphs.of(bundle) if bundle.manifest.kind == "sequence" else None
    rng = np.random.default_rng(seed)
    with home.log() as log:
        states: UserStates | NoStates = NoStates(bundle.version)
        if graphs is not None:
            states = UserStates(
                graphs,
                max_bytes=STATE_BYTES,
                load_history=log.history,
                version=bundle.version,
                tolerance=audit_tolerance(bundle.manifest),
            )
        valued = reads_values(bundle)
        samples = sample_histories(log, valued=valued)
        chosen, kept = Chosen.of(home.root, bundle), KeptLists(home.root, bundle.digest)
        pipeline = Pipeline(standard_stages(bundle, states, samples, chosen, kept), resting=False)
        spent = []
        for user in rng.permutation(log.num_users)[:MOST_USERS].tolist():
            history = log.history(user, valued=valued)
            pipeline.run([_query(user, history)])
            row = int(rng.integers(1, bundle.manifest.num_rows))
            spent.append(_click_ms(pipeline, states, user, history, row))
    size = 0 if graphs is None else slot_bytes(graphs.shape)
    return {"click_to_list_ms": median(spent) if spent else float("nan"), "state_bytes": size}


def _click_ms(
    pipeline: Pipeline, states: UserStates | NoStates, user: int, history: History, row: int
) -> float:
    """Return the milliseconds from a click on `row` to the list that knows of it."""
    now_ms = clock.now_ms()
    clicked = History(np.array([row], np.int32), np.array([now_ms], np.int64))
    began = time.perf_counter()
    states.observe(user, row, now_ms)
    pipeline.run([_query(user, history.followed_by(clicked))])
    return 1000 * (time.perf_counter() - began)


def _query(user: int, history: History) -> Query:
    seen = distinct_rows(history.rows)
    return Query(k=10, now_ms=clock.now_ms(), user=user, history=history, forbidden=seen)
