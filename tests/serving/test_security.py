from __future__ import annotations

import logging

import httpx
import pytest

from ouzel.serving.app import build_app
from ouzel.serving.security import Access, check_binding
from tests.serving.running import running

KEY = "canary-secret-key"


@pytest.fixture
def locked(engine):
    with running(build_app(engine, Access("0.0.0.0", KEY))) as client:
        yield client


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.5", "example.org", ""])
def test_other_machines_only_with_a_key(host):
    with pytest.raises(ValueError, match="OUZEL_API_KEY"):
        check_binding(host, None)
    check_binding(host, KEY)


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "::1", "127.3.4.5"])
def test_this_machine_without_a_key(host):
    check_binding(host, None)


def test_an_empty_key_is_no_key():
    with pytest.raises(ValueError, match="empty"):
        Access("0.0.0.0", " ")


PATHS = [
    ("GET", "/v1/recommend", {}),
    ("POST", "/v1/recommend", {"json": {}}),
    ("POST", "/v1/events", {"json": {"event": "click", "user_id": "u", "item_id": "i1"}}),
    ("GET", "/v1/popular", {}),
    ("GET", "/v1/items", {}),
    ("GET", "/v1/users", {}),
    ("GET", "/metrics", {}),
    ("GET", "/openapi.json", {}),
    ("GET", "/v1/nothing", {}),
]


@pytest.mark.parametrize(("method", "path", "more"), PATHS)
def test_each_route_wants_the_key(locked, caplog, method, path, more):
    caplog.set_level(logging.DEBUG)
    wrong = [
        {},
        {"authorization": "Bearer wrong"},
        {"authorization": f"Basic {KEY}"},
        {"authorization": KEY},
        {"x-api-key": KEY + "x"},
        {"x-api-key": ""},
    ]
    for headers in wrong:
        reply = locked.request(method, path, headers=headers, **more)
        assert reply.status_code == 401
        assert reply.headers["www-authenticate"] == "Bearer"
        assert KEY not in reply.text
    for headers in ({"authorization": f"bearer {KEY}"}, {"x-api-key": KEY}):
        reply = locked.request(method, path, headers=headers, **more)
        assert reply.status_code == (404 if path == "/v1/nothing" else 200)
    assert KEY not in caplog.text


@pytest.mark.parametrize("path", ["/health/live", "/health/ready", "/dashboard"])
def test_probes_and_the_page_are_open(locked, path):
    assert locked.get(path).status_code == 200


def test_foreign_names_cannot_be_pointed_at_loopback(client):
    for host in ("evil.example", "127.0.0.1.evil.example", "localhost.evil:80", ""):
        assert client.get("/health/live", headers={"host": host}).status_code == 421
    for host in ("localhost", "LOCALHOST:1234", "127.0.0.1", "[::1]:8000"):
        assert client.get("/health/live", headers={"host": host}).status_code == 200


def test_pages_of_other_sites_cannot_call(client):
    foreign = [
        {"origin": "https://evil.example"},
        {"origin": "null"},
        {"origin": "http://[broken"},
        {"sec-fetch-site": "cross-site"},
        {"sec-fetch-site": "same-site"},
    ]
    for headers in foreign:
        assert client.post("/v1/recommend", json={}, headers=headers).status_code == 403
    own = f"http://{client.base_url.host}:{client.base_url.port}"
    for headers in ({"origin": own}, {"sec-fetch-site": "same-origin"}):
        assert client.post("/v1/recommend", json={}, headers=headers).status_code == 200


def test_the_page_is_kept_to_itself(client):
    page = client.get("/dashboard")
    assert page.headers["content-security-policy"] == "default-src 'self'; frame-ancestors 'none'"
    assert page.headers["x-content-type-options"] == "nosniff"
    assert page.headers["content-type"].startswith("text/html")
    script = client.get("/dashboard/app.js")
    assert script.headers["content-type"].startswith("text/javascript")
    assert isinstance(page, httpx.Response)
