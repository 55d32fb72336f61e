"""Cores: what the system allows, what a container allows, and systems that say neither."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from ouzel.recommender import cores


def test_a_container_limit_counts(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    limit = tmp_path / "cpu.max"
    monkeypatch.setattr(cores, "_CPU_LIMIT", limit)
    limit.write_text("50000 100000\n")
    assert (cores.usable_cores(), cores.usable_threads()) == (0.5, 1)
    limit.write_text("max 100000\n")
    assert cores.usable_cores() >= 1


@pytest.mark.parametrize(("count", "told"), [(6, 6), (None, 1)])
def test_a_system_without_affinity_tells_its_cores(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, count: int | None, told: int
) -> None:
    monkeypatch.setattr(cores, "_CPU_LIMIT", tmp_path / "absent")
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: count)
    assert (cores.usable_cores(), cores.usable_threads()) == (told, told)
