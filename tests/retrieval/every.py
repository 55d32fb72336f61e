"""Every engine of the closed tuple, for `parametrize`; skipped where this machine cannot run it."""

from __future__ import annotations

import pytest

from ouzel.retrieval.engines import ENGINES


def _shown(engine):
    reason = engine.why_not(5000, 16)
    return pytest.param(
        engine, id=engine.name, marks=pytest.mark.skipif(bool(reason), reason=reason)
    )


EVERY = [_shown(engine) for engine in ENGINES]
