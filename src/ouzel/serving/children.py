"""The processes that work for the event loop: one finishes passes, one encodes histories."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

from ouzel.inference.onnxruntime import Graphs
from ouzel.inference.rebuild import encoded_state
from ouzel.ranking.pipeline import Pass, Pipeline, Ranked
from ouzel.serving.child import Child, can_fork, core_numbers
from ouzel.serving.rebuilds import Encoder

Finished = tuple[Ranked, dict[str, int], dict[str, int]]
"""The outcome of a pass, then failures and overruns by stage, as the child has counted them."""


@dataclass(frozen=True, slots=True)
class Children:
    """Both processes. `start` and `close` frame their part in the life of the event loop."""

    ranker: Child[Pass, Finished]
    encoder: Encoder

    def start(self) -> None:
        """Begin to listen; call inside the event loop."""
        self.ranker.start()
        self.encoder.start()

    def close(self) -> None:
        """End both."""
        self.ranker.close()
        self.encoder.close()


def fork_children(pipeline: Pipeline, graphs: Graphs) -> Children | None:
    """Return the processes, where they would help: elsewhere all is done in the loop.

    Call it before this process has a second thread.

    >>> from unittest.mock import patch
    >>> with patch("ouzel.serving.children.can_fork", return_value=False):
    ...     fork_children(None, None) is None
    True
    """
    if not can_fork():
        return None
    cores = set(core_numbers()[1:])
    return Children(
        ranker=Child(partial(finish, pipeline), name="ranking", cores=cores),
        encoder=Child(partial(encoded_state, graphs), name="encoding", cores=cores),
    )


def finish(pipeline: Pipeline, begun: Pass) -> Finished:
    """Return the outcome of a pass: what the ranking process does.

    >>> from unittest.mock import Mock
    >>> finish(Mock(failures={"search": 1}, overruns={}), None)[1:]
    ({'search': 1}, {})
    """
    return pipeline.finish(begun), pipeline.failures, pipeline.overruns
