"""Whatever is sent: a 4xx that names the field, never a 500, and the server lives on."""

from __future__ import annotations

import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.serving.running import raw

GOOD = {"event": "click", "user_id": "u", "item_id": "i1"}
LONG = "é" * 129  # 258 bytes in 129 characters


def deep(levels):
    return json.loads("[" * levels + "]" * levels)


BAD_FIELDS = [
    ("/v1/recommend", {"n": 501}, "n"),
    ("/v1/recommend", {"n": 0}, "n"),
    ("/v1/recommend", {"n": "ten"}, "n"),
    ("/v1/recommend", {"n": 2.5}, "n"),
    ("/v1/recommend", {"n": True}, "n"),
    ("/v1/recommend", {"user_id": 5}, "user_id"),
    ("/v1/recommend", {"user_id": ""}, "user_id"),
    ("/v1/recommend", {"user_id": LONG}, "user_id"),
    ("/v1/recommend", {"user_id": "x" * 257}, "user_id"),
    ("/v1/recommend", {"user_id": "a\u0000b"}, "user_id"),
    ("/v1/recommend", {"session_id": "a\nb"}, "session_id"),
    ("/v1/recommend", {"items": ["ok", "a\u009fb"]}, "items[1]"),
    ("/v1/recommend", {"items": "i1"}, "items"),
    ("/v1/recommend", {"items": ["i1"] * 1001}, "items"),
    ("/v1/recommend", {"exclude_items": [LONG]}, "exclude_items[0]"),
    ("/v1/recommend", {"fields": ["password"]}, "fields[0]"),
    ("/v1/recommend", {"unknown": 1}, "unknown"),
    ("/v1/recommend", {"context": [1]}, "context"),
    ("/v1/recommend", {"context": {"a": deep(40)}}, "context"),
    ("/v1/events", {**GOOD, "item_id": None}, "[0].item_id"),
    ("/v1/events", {**GOOD, "user_id": None}, "[0].user_id"),
    ("/v1/events", {**GOOD, "item_id": LONG}, "[0].item_id"),
    ("/v1/events", {**GOOD, "session_id": "\u007f"}, "[0].session_id"),
    ("/v1/events", {**GOOD, "event": "Click"}, "[0].event"),
    ("/v1/events", {**GOOD, "event": "x" * 65}, "[0].event"),
    ("/v1/events", {**GOOD, "event": None}, "[0].event"),
    ("/v1/events", {"user_id": "u"}, "[0].event"),
    ("/v1/events", {**GOOD, "event_id": "x" * 129}, "[0].event_id"),
    ("/v1/events", {**GOOD, "event_id": "\t"}, "[0].event_id"),
    ("/v1/events", {**GOOD, "value": "5"}, "[0].value"),
    ("/v1/events", {**GOOD, "value": True}, "[0].value"),
    ("/v1/events", {**GOOD, "timestamp": -1}, "[0].timestamp"),
    ("/v1/events", {**GOOD, "timestamp": 1e300}, "[0].timestamp"),
    ("/v1/events", {**GOOD, "timestamp": 10**30}, "[0].timestamp"),
    ("/v1/events", {**GOOD, "timestamp": "yesterday"}, "[0].timestamp"),
    ("/v1/events", {**GOOD, "timestamp": "2020-01-01T00:00:00"}, "[0].timestamp"),
    ("/v1/events", {**GOOD, "timestamp": "0001-01-01T00:00:00+23:00"}, "[0].timestamp"),
    ("/v1/events", {**GOOD, "timestamp": "2999-01-01T00:00:00Z"}, "[0].timestamp"),
    ("/v1/events", {**GOOD, "items": ["i1"]}, "[0].items"),
    ("/v1/events", {**GOOD, "event": "impression"}, "[0].request_id"),
    ("/v1/events", {**GOOD, "unknown": 1}, "[0].unknown"),
    ("/v1/events", {**GOOD, "properties": {"a": deep(40)}}, "[0].properties"),
    ("/v1/events", [GOOD] * 1001, "body"),
    ("/v1/events", [], "body"),
]


@pytest.mark.parametrize(("path", "body", "loc"), BAD_FIELDS)
def test_a_wrong_field_is_named(client, path, body, loc):
    reply = client.post(path, content=json.dumps(body))
    assert reply.status_code == 422, reply.text
    assert reply.headers["content-type"] == "application/problem+json"
    problem = reply.json()
    assert problem["status"] == 422
    assert problem["errors"][0]["loc"] == loc
    assert client.get("/health/live").status_code == 200


@pytest.mark.parametrize(
    ("body", "remedy"),
    [
        ({"diversity": {"method": "mnr", "weight": 0.3}}, "give one of calibrated, dpp, mmr"),
        ({"diversity": {"metod": "mmr", "weight": 0.3}}, "did you mean `method`?"),
        ({"boosts": [{"factr": 2.0}]}, "did you mean `factor`?"),
    ],
)
def test_what_is_wrong_inside_a_field_is_told_with_what_may_be_there(client, body, remedy):
    reply = client.post("/v1/recommend", content=json.dumps({"user_id": "u"} | body))
    assert reply.status_code == 422
    assert remedy in reply.json()["errors"][0]["detail"]


@pytest.mark.parametrize(
    "query",
    [
        "n=501",
        "n=ten",
        "user_id=",
        "user_id=%00",
        "user_id=%FF",
        "user_id=a&user_id=b",
        "what=1",
        "exclude_seen=perhaps",
        "context=1",
        "fields=password",
        "items=" + "x" * 257,
        "&".join(f"items=i{n}" for n in range(2100)),
    ],
)
def test_a_wrong_parameter_is_refused(client, query):
    for path in ("/v1/recommend", "/v1/popular", "/v1/items", "/v1/users"):
        reply = client.get(f"{path}?{query}")
        assert reply.status_code == 422, reply.text
        assert reply.json()["errors"]


MALFORMED = [
    b"",
    b"{",
    b"nonsense",
    b'{"event": "click"',
    b'\xef\xbb\xbf{"n": 1}',
    b'{"user_id": "\xff"}',
    b'{"user_id": "\\ud800"}',
    b'{"value": NaN, "n": NaN}',
    b'{"value": Infinity, "n": Infinity}',
    b'{"context": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    b"[" * 100_000,
]


@pytest.mark.parametrize("body", MALFORMED)
@pytest.mark.parametrize("path", ["/v1/recommend", "/v1/events"])
def test_what_is_no_json_is_refused(client, path, body):
    reply = client.post(path, content=body)
    # Some of these show a wrong field before they stop being JSON.
    assert reply.status_code in (400, 422), reply.text
    assert reply.json()["detail"]


def test_numbers_out_of_range_are_refused(client):
    for body in (b'{"context": {"a": 1e999}}', b'{"n": 1e999}', b'{"n": 9' + b"9" * 400 + b"}"):
        assert client.post("/v1/recommend", content=body).status_code == 422
    sent = b'{"event": "rate", "user_id": "u", "item_id": "i1", "value": 1e999}'
    assert client.post("/v1/events", content=sent).status_code == 422


def test_a_line_of_nonsense_does_not_spoil_the_others(client):
    lines = [json.dumps({**GOOD, "event_id": "n1"}).encode(), b"nonsense", b'{"a": NaN}']
    reply = client.post(
        "/v1/events", content=b"\n".join(lines), headers={"content-type": "application/x-ndjson"}
    )
    assert reply.status_code == 200
    assert [rejected["index"] for rejected in reply.json()["rejected"]] == [1, 2]


def test_bodies_over_the_limit(client):
    limits = {"/v1/recommend": 1 << 20, "/v1/events": 16 << 20}
    for path, limit in limits.items():
        reply = client.post(path, content=b" " * (limit + 1))
        assert reply.status_code == 413
        assert reply.json()["status"] == 413
        assert client.post(path, content=b" " * (limit - 2) + b"{}").status_code != 413


def test_a_chunked_body_is_counted_as_it_comes(client):
    def endless():
        for _ in range(40):
            yield b" " * (64 << 10)

    assert client.post("/v1/recommend", content=endless()).status_code == 413
    assert client.post("/v1/recommend", content=iter([b'{"n"', b": 3}"])).status_code == 200


def test_a_content_length_that_lies(client):
    head = b"POST /v1/recommend HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n"
    huge = raw(client, head + b"content-length: 99999999999\r\n\r\n{}", finish=False)
    assert huge.startswith(b"HTTP/1.1 413")
    assert b"connection: close" in huge.lower()
    # Shorter than announced and then gone: nobody is left to answer to.
    assert b" 500 " not in raw(client, head + b"content-length: 100\r\n\r\n{}")
    # Longer than announced: the rest is no HTTP.
    assert b" 500 " not in raw(client, head + b'content-length: 2\r\n\r\n{}{"n": 1}')
    for nonsense in (b"-5", b"abc", b"1e3"):
        reply = raw(client, head + b"content-length: " + nonsense + b"\r\n\r\n{}")
        assert b" 500 " not in reply
    assert client.get("/health/live").status_code == 200


def test_compressed_bodies_are_refused(client):
    reply = client.post("/v1/events", content=b"x", headers={"content-encoding": "gzip"})
    assert reply.status_code == 415


def test_the_router_speaks_problem_json_too(client):
    for method, path, status in (
        ("GET", "/v1/nothing", 404),
        ("GET", "/v1/events", 405),
        ("DELETE", "/v1/recommend", 405),
        ("GET", "/dashboard/../server.py", 404),
        ("GET", "/dashboard/..%2fserver.py", 404),
        ("GET", "/dashboard/app.py", 404),
    ):
        reply = client.request(method, path)
        assert reply.status_code == status, path
        assert reply.headers["content-type"] == "application/problem+json"
        assert ("allow" in reply.headers) == (status == 405)
    assert client.head("/health/live").status_code == 200


def test_header_names_are_sent_in_lower_case(client):
    reply = raw(client, b"DELETE /v1/recommend HTTP/1.1\r\nhost: localhost\r\n\r\n")
    assert b"\r\nallow: " in reply


def test_of_two_headers_of_one_name_the_first_counts(client):
    ask = b"GET /health/live HTTP/1.1\r\nhost: %s\r\nhost: %s\r\n\r\n"
    assert b" 421 " in raw(client, ask % (b"evil.example", b"localhost")).partition(b"\r\n")[0]


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=12), inner),
    max_leaves=10,
)
NAMES = (
    "event event_id user_id session_id item_id items timestamp value n request_id context "
    "properties exclude_seen exclude_items fields"
)
fields = st.sampled_from(NAMES.split())


@settings(
    max_examples=150,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(body=json_values | st.dictionaries(fields, json_values) | st.lists(st.dictionaries(fields, json_values), max_size=3))  # fmt: skip  # noqa: E501
def test_no_json_makes_it_fail(client, body):
    for path in ("/v1/recommend", "/v1/events"):
        assert client.post(path, content=json.dumps(body)).status_code in (200, 400, 422)


@settings(
    max_examples=100,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(body=st.binary(max_size=200))
def test_no_bytes_make_it_fail(client, body):
    for path in ("/v1/recommend", "/v1/events"):
        assert client.post(path, content=body).status_code in (200, 400, 422)
