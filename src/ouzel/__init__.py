"""A real-time recommender built on large models: every event changes the very next answer.

`import ouzel` is light: neither torch nor polars is loaded before it is needed.
"""

from __future__ import annotations

__version__ = "0.1.0"
