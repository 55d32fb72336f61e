"""One home, one writer."""

from __future__ import annotations

from pathlib import Path

import pytest

from ouzel.events.alone import alone


def test_a_home_is_taken_once_and_freed(tmp_path: Path) -> None:
    with alone(tmp_path), pytest.raises(ValueError, match="being served, trained"), alone(tmp_path):
        pass
    with pytest.raises(RuntimeError), alone(tmp_path):
        raise RuntimeError("planted")
    with alone(tmp_path):
        pass


def test_no_folder_is_no_home(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="ouzel train"), alone(tmp_path / "nothing"):
        pass
