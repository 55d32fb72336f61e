"""The live page does what it promises, in a real browser, against a stand-in server."""

from __future__ import annotations

import re
from urllib.parse import urlsplit

from tests.serving_browser.chrome import Page
from tests.serving_browser.fake_server import HOSTILE, PAGE, Fake

Server = tuple[str, Fake]

SIZE_LIMIT_BYTES = 60 * 1024
TITLES = "[...document.querySelectorAll('#list .title')].map((node) => node.textContent)"
MOVES = "[...document.querySelectorAll('#list li')].map((row) => row.dataset.move)"
CLICK_THIRD = "document.querySelectorAll('#list button')[2].click()"
PROBLEM = (
    "(() => { const p = document.getElementById('problem'); return !p.hidden && p.textContent })()"
)


def text(selector: str) -> str:
    return f"document.querySelector({selector!r}).textContent"


def opened(page: Page, base: str) -> None:
    page.goto(f"{base}/dashboard")
    page.wait_for(f"document.readyState === 'complete' && {TITLES}.length > 0")


def assert_well_behaved(page: Page, base: str) -> None:
    assert page.complaints() == []
    strangers = [url for url in page.requests() if urlsplit(url).netloc != urlsplit(base).netloc]
    assert strangers == []


def test_a_click_changes_the_list_at_once(page: Page, server: Server) -> None:
    base, fake = server
    opened(page, base)
    before = page.evaluate(TITLES)
    page.evaluate(CLICK_THIRD)
    page.wait_for(f"{text('#summary')}.includes('after the click')")
    after = page.evaluate(TITLES)

    assert after != before
    assert before[2] not in after
    moves = page.evaluate(MOVES)
    assert "up" in moves or "new" in moves
    (event,) = fake.bodies("/v1/events")
    first_list, second_list = fake.bodies("/v1/recommend")
    assert event["event"] == "click"
    assert event["item_id"] == "i2"
    assert event["request_id"].startswith("req-")
    assert len(event["event_id"]) == 32
    assert event["user_id"] == first_list["user_id"] == second_list["user_id"] == "ada"
    assert page.evaluate(text("#history li")) == before[2]
    assert_well_behaved(page, base)


def test_what_moved_is_marked_and_spoken(page: Page, server: Server) -> None:
    base, _ = server
    opened(page, base)
    assert set(page.evaluate(MOVES)) == {"same"}
    before = page.evaluate(TITLES)
    page.evaluate(CLICK_THIRD)
    page.wait_for(f"{text('#summary')}.includes('after the click')")
    after, moves = page.evaluate(TITLES), page.evaluate(MOVES)
    for place, (title, move) in enumerate(zip(after, moves, strict=True)):
        if title not in before:
            assert move == "new"
        else:
            was = before.index(title)
            assert move == ("up" if place < was else "down" if place > was else "same")
    gone = len(set(before) - set(after))
    assert f"{moves.count('new')} new" in page.evaluate(text("#summary"))
    assert f"{gone} gone" in page.evaluate(text("#summary"))
    labels = page.evaluate("[...document.querySelectorAll('#list .move')].map(m => m.ariaLabel)")
    assert any(re.fullmatch(r"up \d+", label or "") for label in labels)


def test_a_hostile_title_stays_text(page: Page, server: Server) -> None:
    base, fake = server
    opened(page, base)
    assert HOSTILE in page.evaluate(TITLES)
    page.evaluate(f"document.querySelectorAll('#list button')[{7}].click()")
    page.wait_for(f"{text('#summary')}.includes('after the click')")
    assert page.evaluate(text("#history li")) == HOSTILE
    page.evaluate("document.getElementById('query').focus()")
    page.type("onerror")
    page.wait_for("document.querySelectorAll('#found button').length === 1")
    assert page.evaluate(text("#found .title")) == HOSTILE
    page.evaluate("document.getElementById('user').focus()")
    page.evaluate("document.getElementById('user').value = '<b>eve</b>'")
    page.evaluate("document.querySelector('#user-form button').click()")
    page.wait_for(f"{text('#who')} === 'for user <b>eve</b>' && {TITLES}.length > 0")
    assert page.evaluate("document.querySelectorAll('img, b').length") == 1  # the page's own mark
    assert page.evaluate("document.title") != "owned"
    assert fake.bodies("/v1/recommend")[-1]["user_id"] == "<b>eve</b>"
    assert_well_behaved(page, base)


def test_the_watch_on_hostile_titles_can_fail(page: Page, server: Server) -> None:
    """A page that used innerHTML would be caught: the planted image is made, and refused."""
    base, _ = server
    opened(page, base)
    page.evaluate(f"document.getElementById('who').innerHTML = {HOSTILE!r}")
    page.wait_for("document.querySelectorAll('img').length === 2")
    page.wait_for("performance.getEntriesByName(new URL('/x', location)).length > 0")
    assert any("Content Security Policy" in said for said in page.complaints())


def test_parts_of_the_time_are_drawn_from_the_header(page: Page, server: Server) -> None:
    base, _ = server
    opened(page, base)
    page.wait_for("document.querySelectorAll('#bar rect').length === 3")
    widths = page.evaluate(
        "[...document.querySelectorAll('#bar rect')].map((part) => part.width.baseVal.value)"
    )
    assert [round(width, 1) for width in widths] == [14.8, 29.5, 55.7]
    assert page.evaluate(text("#server-ms")) == "2.10"
    assert page.evaluate("document.querySelectorAll('#legend dt').length") == 3
    assert "search 0.70 · filter 0.17 · select 0.30" in page.evaluate(text("#legend"))
    assert "decode 0.11 ms" in page.evaluate(text('#bar rect[data-part="T"] title'))
    assert page.evaluate(text("#strip-count")) == "1"


def test_the_strip_keeps_sixty_answers(page: Page, server: Server) -> None:
    base, _ = server
    opened(page, base)
    page.evaluate(
        "for (let i = 0; i < 64; i++) document.querySelector('#user-form button').click()"
    )
    page.wait_for(f"{text('#strip-count')} === '60'")
    page.wait_for("document.querySelectorAll('#strip g').length === 60")
    assert_well_behaved(page, base)


def test_a_visitor_is_a_session_and_clicks_a_found_item(page: Page, server: Server) -> None:
    base, fake = server
    opened(page, base)
    page.evaluate("document.getElementById('visitor').click()")
    page.wait_for(f"{text('#who')} === 'for a new visitor'")
    page.evaluate("document.getElementById('query').focus()")
    page.type("lantern")
    page.wait_for("document.querySelectorAll('#found button').length === 1")
    page.evaluate("document.querySelector('#found button').click()")
    page.wait_for(f"{text('#summary')}.includes('after the click')")
    (event,) = fake.bodies("/v1/events")
    assert event["session_id"].startswith("visitor-")
    assert "user_id" not in event
    assert "request_id" not in event  # it came from a search, not from a list
    assert fake.bodies("/v1/recommend")[-1]["session_id"] == event["session_id"]
    assert "Nine Lanterns (2004)" not in page.evaluate(TITLES)
    assert_well_behaved(page, base)


def test_popular_items_are_offered_until_something_is_searched(page: Page, server: Server) -> None:
    base, _ = server
    opened(page, base)
    page.wait_for(f"{text('#search-note')} === 'Popular here'")
    assert page.evaluate("document.querySelectorAll('#found button').length") == 16
    page.evaluate("document.getElementById('query').focus()")
    page.type("no such title")
    page.wait_for(f"{text('#search-note')} === 'Nothing by that title'")
    assert page.evaluate("document.querySelectorAll('#found button').length") == 0


def test_the_keyboard_is_enough(page: Page, server: Server) -> None:
    base, fake = server
    opened(page, base)
    page.evaluate("document.querySelector('#list button').focus()")
    page.press("Tab")
    page.press("Enter")
    page.wait_for(f"{text('#summary')}.includes('after the click')")
    assert fake.bodies("/v1/events")[0]["item_id"] == "i1"
    assert page.evaluate("document.activeElement.closest('#list') !== null")
    unnamed = page.evaluate(
        "[...document.querySelectorAll('input')].filter((field) => !field.labels.length).length"
    )
    assert unnamed == 0


def test_answers_never_overtake_each_other(page: Page, server: Server) -> None:
    base, fake = server
    opened(page, base)
    page.evaluate(
        "[...document.querySelectorAll('#list button')].slice(0, 5).forEach(b => b.click())"
    )
    page.wait_for("document.querySelectorAll('#history li').length === 5")
    page.wait_for(f"{TITLES}.length === 11")
    posted = [path for method, path, _ in fake.asked if method == "POST"]
    assert posted == ["/v1/recommend"] + ["/v1/events", "/v1/recommend"] * 5


def test_degraded_and_refused_are_said(page: Page, server: Server) -> None:
    base, fake = server
    fake.degraded = "popular"
    opened(page, base)
    page.wait_for(f"{text('#state')} === 'degraded: popular'")
    fake.refuse_with = 422
    page.evaluate(CLICK_THIRD)
    assert "planted by the test" in page.wait_for(PROBLEM)
    fake.refuse_with, fake.degraded = None, None
    page.evaluate(CLICK_THIRD)
    page.wait_for(f"{text('#state')} === 'live'")
    assert not page.evaluate(PROBLEM)


def test_a_key_is_asked_for_and_used(page: Page, server: Server) -> None:
    base, fake = server
    fake.key = "open sesame"
    page.goto(f"{base}/dashboard")
    page.wait_for(
        "document.readyState === 'complete' && !document.getElementById('key-form').hidden"
    )
    page.evaluate("document.getElementById('key').focus()")
    page.type("open sesame")
    page.press("Enter")
    page.wait_for(f"{TITLES}.length > 0")
    page.wait_for(f"{text('#state')} === 'live'")


def test_motion_is_spared_for_those_who_ask(page: Page, server: Server) -> None:
    base, _ = server
    moving = "document.getAnimations().length"
    summary = "document.getElementById('summary')"
    answered = f"""new Promise((done) => new MutationObserver((_, watch) => {{
        watch.disconnect(); done({moving});
    }}).observe({summary}, {{childList: true}}))"""
    clicked = f"{CLICK_THIRD}; {answered}"
    opened(page, base)
    assert page.evaluate(clicked) > 0
    page.emulate(prefers_reduced_motion="reduce")
    assert page.evaluate("matchMedia('(prefers-reduced-motion: reduce)').matches")
    page.wait_for(f"{moving} === 0")
    assert page.evaluate(clicked) == 0


def test_the_page_is_light_and_needs_nothing_from_elsewhere() -> None:
    files = sorted(PAGE.iterdir())
    scripts = {"app", "chart", "dom", "list", "live", "search", "server", "timing", "visitor"}
    scripts = {f"{name}.js" for name in scripts}
    assert {file.name for file in files} == {"index.html", "style.css", "ouzel.svg"} | scripts
    assert sum(file.stat().st_size for file in files) <= SIZE_LIMIT_BYTES
    for file in files:
        source = file.read_text(encoding="utf-8").replace("http://www.w3.org/2000/svg", "")
        assert not re.search(r"https?://|innerHTML|outerHTML|insertAdjacent|\beval\b", source), file
    html = (PAGE / "index.html").read_text(encoding="utf-8")
    assert not re.search(r"<style|\sstyle=|\son\w+=|<script(?![^>]*\ssrc=)", html)
