"""What is not there unless it was installed with an extra, and how to say so."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import ParamSpec, TypeVar

TRAINING = frozenset({"torch", "onnx", "onnxscript"})
"""What the extra `train` brings."""

P = ParamSpec("P")
R = TypeVar("R")


def remedy(name: str | None) -> str | None:
    """Return what to do about a module that is missing, None if no extra brings it.

    >>> remedy("torch"), remedy("numpy")
    ("this needs torch: pip install 'ouzel[train]'", None)
    """
    return f"this needs {name}: pip install 'ouzel[train]'" if name in TRAINING else None


def told(function: Callable[P, R]) -> Callable[P, R]:
    """Return the function with the remedy in the error where an extra is missing.

    >>> @told
    ... def train():
    ...     raise ModuleNotFoundError("No module named 'torch'", name="torch")
    >>> train()
    Traceback (most recent call last):
    ...
    ModuleNotFoundError: this needs torch: pip install 'ouzel[train]'
    """

    @functools.wraps(function)
    def telling(*arguments: P.args, **named: P.kwargs) -> R:
        try:
            return function(*arguments, **named)
        except ModuleNotFoundError as error:
            if (text := remedy(error.name)) is None:
                raise
            missing = error.name
        raise ModuleNotFoundError(text, name=missing)

    return telling
