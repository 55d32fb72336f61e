"""What only the FAISS engine refuses; its promises are in `test_approximate.py`."""

from __future__ import annotations

import numpy as np
import pytest

from ouzel.retrieval.faiss import FaissIndex


def test_odd_dimensions_are_refused() -> None:
    with pytest.raises(ValueError, match="even"):
        FaissIndex(np.zeros((10, 3), np.float32))
