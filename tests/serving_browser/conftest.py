"""The browser fixtures: without Chromium they skip, visibly; with OUZEL_BROWSER=1 they fail."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from tests.serving_browser import fake_server
from tests.serving_browser.chrome import Chromium, Page, find_chromium


@pytest.fixture(scope="session")
def chromium() -> Iterator[Chromium]:
    program = find_chromium()
    if program is None:
        reason = "no Chromium on this machine (Debian: apt-get install chromium)"
        if os.environ.get("OUZEL_BROWSER") == "1":
            pytest.fail(reason)
        pytest.skip(reason)
    with Chromium(program) as browser:
        yield browser


@pytest.fixture
def page(chromium: Chromium) -> Iterator[Page]:
    tab = chromium.page()
    yield tab
    tab.close()


@pytest.fixture
def server() -> Iterator[tuple[str, fake_server.Fake]]:
    with fake_server.running() as running:
        yield running
