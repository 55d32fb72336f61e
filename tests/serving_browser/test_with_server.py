"""The live page on the real application; only the model behind it is arithmetic."""

from __future__ import annotations

from collections.abc import Iterator
from urllib.parse import urlsplit

import pytest

from ouzel.serving.app import build_app
from ouzel.serving.engine import Engine
from ouzel.serving.security import Access
from tests.serving.doubles import HOSTILE, make_engine
from tests.serving.running import running
from tests.serving_browser.chrome import Page

TITLES = "[...document.querySelectorAll('#list .title')].map((node) => node.textContent)"
ANSWERED = "document.querySelector('#summary').textContent.includes('after the click')"


@pytest.fixture
def engine(tmp_path) -> Engine:
    return make_engine(tmp_path)


@pytest.fixture
def opened(page: Page, engine: Engine) -> Iterator[Page]:
    with running(build_app(engine, Access("127.0.0.1", None))) as client:
        base = str(client.base_url).rstrip("/")
        page.goto(f"{base}/dashboard")
        page.wait_for(f"document.readyState === 'complete' && {TITLES}.length > 0")
        yield page
        assert page.complaints() == []
        assert {urlsplit(url).netloc for url in page.requests()} == {urlsplit(base).netloc}


def test_a_click_is_logged_and_changes_the_list(opened: Page, engine: Engine) -> None:
    before = opened.evaluate(TITLES)
    assert before[0] == "Film number 13"  # ada has seen 10, 11, 12
    opened.evaluate("document.querySelectorAll('#list button')[4].click()")
    opened.wait_for(ANSWERED)
    after = opened.evaluate(TITLES)
    assert after != before
    clicked = before[4]
    assert clicked not in after
    assert opened.evaluate("document.querySelector('#history li').textContent") == clicked
    user = engine.log.user_row(user_id="ada")
    assert user is not None
    row = int(clicked.rpartition(" ")[2])
    assert engine.log.history(user).rows.tolist() == [10, 11, 12, row]


def test_the_parts_of_the_time_come_from_the_server(opened: Page) -> None:
    widths = "[...document.querySelectorAll('#bar rect')].map((part) => part.width.baseVal.value)"
    drawn = opened.evaluate(widths)
    assert sum(drawn) == pytest.approx(100)
    assert min(drawn) > 0
    legend = opened.evaluate("document.querySelector('#legend').textContent")
    assert "decode" in legend
    assert "search" in legend


def test_a_visitor_finds_a_hostile_title_and_clicks_it(opened: Page, engine: Engine) -> None:
    opened.evaluate("document.getElementById('visitor').click()")
    opened.wait_for("document.querySelector('#who').textContent === 'for a new visitor'")
    opened.evaluate("document.getElementById('query').focus()")
    opened.type("onerror")
    opened.wait_for("document.querySelectorAll('#found button').length === 1")
    assert opened.evaluate("document.querySelector('#found .title').textContent") == HOSTILE
    opened.evaluate("document.querySelector('#found button').click()")
    opened.wait_for(ANSWERED)
    assert opened.evaluate("document.querySelector('#history li').textContent") == HOSTILE
    assert opened.evaluate("document.querySelectorAll('img').length") == 1  # the page's own mark
    assert opened.evaluate(TITLES)[0] == "Film number 4"


def test_the_stream_is_drawn(opened: Page) -> None:
    number = "document.querySelector('#tile-queue .number').textContent"
    opened.wait_for("document.getElementById('live').dataset.state === 'live'")
    opened.wait_for(f"{number} === '0'")
    opened.wait_for("document.querySelectorAll('#tile-rate .line').length >= 2")


def test_users_are_offered(opened: Page) -> None:
    users = "[...document.querySelectorAll('#users option')].map((option) => option.value)"
    assert opened.evaluate(users) == ["ada", "bo"]
