"""A program that trains can follow the training in its log."""

from __future__ import annotations

import logging

import pytest

from ouzel import Recommender
from ouzel.recommender.logged import Logged
from ouzel.training.checkpoint import CHECKPOINT
from tests.recommender.conftest import walks


def test_fit_logs_what_it_read_and_did(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="ouzel"):
        recommender = Recommender(model="item_knn")
        recommender.home.training.mkdir()
        checkpoint = recommender.home.training / CHECKPOINT
        checkpoint.touch()  # of a model that trains in epochs, which may still go on
        recommender.fit(walks(num_users=30), split="leave-one-out")
    assert checkpoint.exists()
    texts = [record.getMessage() for record in caplog.records]
    assert any("30 users" in text for text in texts)
    assert any(text.startswith("Fitted item_knn in") for text in texts)


def test_an_epoch_is_logged_with_its_figures(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="ouzel"):
        Logged().epoch({"epoch": 3, "loss": 0.25})
    assert caplog.messages == ["epoch 3  loss 0.25"]


def test_a_part_of_the_work_is_logged_by_quarters(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="ouzel"):
        told = Logged().step("reading")
        for done in range(101):
            told(done, 100)
    assert [record.getMessage() for record in caplog.records] == [
        f"reading: {done} %" for done in (25, 50, 75, 100)
    ]
