"""What the stream tells is drawn as it comes; the page says when the server is gone and back."""

from __future__ import annotations

from urllib.parse import urlsplit

import pytest

from tests.serving_browser import fake_server
from tests.serving_browser.chrome import Page
from tests.serving_browser.fake_server import Fake, tick

Server = tuple[str, Fake]

NOTHING = "\u2013"
STATE = "document.getElementById('live').dataset.state"
TITLES = "[...document.querySelectorAll('#list .title')].map((node) => node.textContent)"
PROBLEM = "(p => !p.hidden && p.textContent)(document.getElementById('problem'))"


def number(tile: str) -> str:
    return f"document.querySelector('#tile-{tile} .number').textContent"


def says(tile: str) -> str:
    return f"document.querySelector('#tile-{tile} .said').textContent"


def opened(page: Page, base: str) -> None:
    page.goto(f"{base}/dashboard")
    page.wait_for(f"document.readyState === 'complete' && {TITLES}.length > 0")


def assert_well_behaved(page: Page, base: str) -> None:
    assert page.complaints() == []
    assert {urlsplit(url).netloc for url in page.requests()} == {urlsplit(base).netloc}


def test_a_tick_is_drawn(page: Page, server: Server) -> None:
    base, fake = server
    opened(page, base)
    fake.ticks.put(tick(0))
    page.wait_for(f"{STATE} === 'live'")
    shown = {
        tile: (page.evaluate(number(tile)), page.evaluate(says(tile)))
        for tile in ("latency", "rate", "queue", "pool", "cache", "audit")
    }
    assert shown == {
        "latency": ("2.25", "p50 0.61 ms"),
        "rate": ("1,234", "56 events/s"),
        "queue": ("2", "7 events for the disk"),
        "pool": ("75.0 %", "1,500 of 20,000 · 300.0 MiB"),
        "cache": ("75.0 %", f"lists 75.0 % · items {NOTHING}"),
        "audit": ("3.1e-7", "12 audited · 0 off"),
    }
    label = "document.querySelector('#tile-latency svg').getAttribute('aria-label')"
    assert page.evaluate(label) == "Answers in the server, lately, now 2.25 ms p99"
    assert_well_behaved(page, base)


def test_lines_grow_and_break_where_nothing_was_answered(page: Page, server: Server) -> None:
    base, fake = server
    opened(page, base)
    for second in range(6):
        fake.ticks.put(tick(second, lists=None) if second == 3 else tick(second))
    parts = "document.querySelectorAll('#tile-latency .line.second').length"
    page.wait_for(f"{parts} === 2")
    first = "document.querySelector('#tile-latency .line.second').getAttribute('d')"
    assert page.evaluate(first).count("L") == 2
    assert page.evaluate("document.querySelectorAll('#tile-rate .line.first').length") == 1
    fake.ticks.put(tick(9))  # after a silence
    page.wait_for(f"{parts} === 3")


def test_only_two_minutes_are_kept(page: Page, server: Server) -> None:
    base, fake = server
    opened(page, base)
    for second in range(200):
        fake.ticks.put(tick(second, requests=float(second)))
    page.wait_for(f"{number('rate')} === '199'")
    line = "document.querySelector('#tile-rate .line.first').getAttribute('d')"
    assert page.evaluate(line).count("L") == 119


def test_stages_are_told_with_both_quantiles(page: Page, server: Server) -> None:
    base, fake = server
    opened(page, base)
    assert page.evaluate("document.getElementById('stage-part').hidden")
    fake.ticks.put(tick(0))
    page.wait_for("document.querySelectorAll('#stages li').length === 2")
    label = "document.querySelector('#stages li:nth-child(2) svg').getAttribute('aria-label')"
    told = page.evaluate(label)
    assert told == "search: half within 0.20 ms, 99 of 100 within 4.50 ms"
    width = "document.querySelector('#stages li .p99').getAttribute('width')"
    assert float(page.evaluate(width)) == 50.0


def test_failures_are_said(page: Page, server: Server) -> None:
    base, fake = server
    opened(page, base)
    fake.ticks.put(tick(0, failed=3.0, degraded=12.0))
    page.wait_for(f"{says('rate')} === '56 events/s · 3.0/s failed · 12/s degraded'")
    assert page.evaluate("document.querySelector('#tile-rate .says').classList.contains('bad')")


def test_what_a_pointer_is_on_is_told(page: Page, server: Server) -> None:
    base, fake = server
    opened(page, base)
    for second in range(31):
        fake.ticks.put(tick(second, requests=100.0 + second))
    page.wait_for(f"{number('rate')} === '130'")
    move = """((host, place) => { const box = host.getBoundingClientRect();
        host.dispatchEvent(new PointerEvent('pointermove', {
            clientX: box.left + place * box.width })) })"""
    page.evaluate(f"{move}(document.querySelector('#tile-pool .chart'), 1 / 3)")
    assert page.evaluate(number("rate")) == "110"
    assert page.evaluate(says("rate")).startswith("20 s ago")
    assert page.evaluate("document.querySelectorAll('.mark').length") == 6
    page.evaluate(
        "document.querySelector('#tile-pool .chart').dispatchEvent(new Event('pointerleave'))"
    )
    assert page.evaluate(number("rate")) == "130"


def test_a_server_that_is_gone_is_said_and_one_that_is_back_is_used(page: Page) -> None:
    with fake_server.running() as (base, fake):
        opened(page, base)
        fake.ticks.put(tick(0))
        page.wait_for(f"{STATE} === 'live'")
    page.wait_for(f"{STATE} === 'gone'")
    assert "does not answer" in page.evaluate(PROBLEM)
    assert page.evaluate("document.getElementById('state').textContent") == "unreachable"
    assert page.evaluate(number("rate")) == "1,234"  # the last that was told
    with fake_server.running(urlsplit(base).port or 0) as (_, fake):
        fake.ticks.put(tick(60, requests=77.0))
        page.wait_for(f"{STATE} === 'live'")
        page.wait_for(f"{PROBLEM} === false")
        page.wait_for("document.getElementById('state').textContent === 'live'")
        assert page.evaluate(number("rate")) == "77"
        assert fake.bodies("/v1/recommend")[-1]["user_id"] == "ada"


def test_a_stream_that_ends_is_taken_up_again_without_alarm(page: Page, server: Server) -> None:
    base, fake = server
    opened(page, base)
    fake.ticks.put(tick(0))
    page.wait_for(f"{STATE} === 'live'")
    fake.ticks.put(None)
    fake.ticks.put(tick(1, requests=5.0))
    page.wait_for(f"{number('rate')} === '5.0'")
    assert not page.evaluate(PROBLEM)
    assert_well_behaved(page, base)


def test_without_a_stream_the_page_does_all_else(page: Page, server: Server) -> None:
    base, fake = server
    fake.stream_status = 404
    opened(page, base)
    page.wait_for("document.getElementById('live').hidden")
    before = page.evaluate(TITLES)
    page.evaluate("document.querySelectorAll('#list button')[2].click()")
    page.wait_for("document.getElementById('summary').textContent.includes('after the click')")
    assert page.evaluate(TITLES) != before
    assert not page.evaluate(PROBLEM)


def test_a_full_stream_says_so_and_the_page_works(page: Page, server: Server) -> None:
    base, fake = server
    fake.stream_status = 503
    opened(page, base)
    page.wait_for("document.getElementById('live-note').textContent.includes('503')")
    assert not page.evaluate(PROBLEM)


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 768, 1360])
def test_nothing_sticks_out_whatever_the_width(
    page: Page, server: Server, scheme: str, width: int
) -> None:
    base, fake = server
    page.emulate(prefers_color_scheme=scheme)
    metrics = {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": width < 700}
    page.command("Emulation.setDeviceMetricsOverride", metrics)
    opened(page, base)
    fake.ticks.put(tick(0))
    page.wait_for(f"{STATE} === 'live'")
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    colour = "getComputedStyle(document.querySelector('#tile-rate .line.first')).stroke"
    assert (
        page.evaluate(colour) == {"light": "rgb(18, 144, 138)", "dark": "rgb(63, 184, 176)"}[scheme]
    )
