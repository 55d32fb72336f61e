"""What holds for all tests."""

from __future__ import annotations

import logging
import os

import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.fixture(autouse=True)
def _no_tracing_of_torch() -> None:
    """Keep torch's internal trace out of pytest's log capture: it makes an export far slower."""
    logging.getLogger("torch.__trace").disabled = True
