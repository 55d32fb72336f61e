"""What a model says about itself: the lines of `ouzel models`."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class About:
    """One line each, for who has to choose a model."""

    paper: str
    """Who proposed it, where and when."""
    cost: str
    """What training costs, and a request."""
    use: str
    """When it is the one to take."""
