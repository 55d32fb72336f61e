"""A real-time recommender built on large models: every event changes the very next answer.

`import ouzel` is light: neither torch nor polars is loaded before it is needed.
"""

from __future__ import annotations

from ouzel.version import __version__ as __version__


def __getattr__(name: str) -> type:
    if name == "Recommender":
        from ouzel.recommender.recommender import Recommender

        return Recommender
    raise AttributeError(f"module 'ouzel' has no attribute {name!r}")
