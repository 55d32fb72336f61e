from __future__ import annotations

from collections.abc import Iterator

import httpx
import pytest

from ouzel.serving.app import build_app
from ouzel.serving.engine import Engine
from ouzel.serving.security import Access
from tests.serving.doubles import make_engine
from tests.serving.running import running


@pytest.fixture
def engine(tmp_path) -> Engine:
    return make_engine(tmp_path)


@pytest.fixture
def client(engine) -> Iterator[httpx.Client]:
    with running(build_app(engine, Access("127.0.0.1", None))) as client:
        yield client
