"""The description is the committed one, and what the server does is what it says."""

from __future__ import annotations

from pathlib import Path

import pytest
import schemathesis
import schemathesis.specs.openapi.checks as checks
from hypothesis import HealthCheck, Phase, settings
from schemathesis.checks import not_a_server_error

from ouzel.serving.app import build_app, routes
from ouzel.serving.openapi import openapi, openapi_json
from ouzel.serving.security import Access
from tests.serving.doubles import make_engine
from tests.serving.running import running

COMMITTED = Path(__file__).parents[2] / "docs" / "openapi.json"

schema = schemathesis.openapi.from_dict(openapi())
CHECKS = [
    not_a_server_error,
    checks.status_code_conformance,
    checks.content_type_conformance,
    checks.response_schema_conformance,
    checks.negative_data_rejection,
    checks.unsupported_method,
]


@schemathesis.serializer("application/x-ndjson")
def lines(context, value):
    return value if isinstance(value, bytes) else str(value).encode("utf-8", "replace")


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    engine = make_engine(tmp_path_factory.mktemp("home"))
    with running(build_app(engine, Access("127.0.0.1", None))) as client:
        yield str(client.base_url)


def test_the_committed_description_is_this_one(client):
    assert COMMITTED.read_bytes() == openapi_json(), (
        "write it anew: python -c 'from ouzel.serving.openapi import openapi_json as o; "
        'open("docs/openapi.json", "wb").write(o())\''
    )
    assert client.get("/openapi.json").content == openapi_json()


def test_every_route_is_described(engine):
    described = {
        (path, method.upper()) for path, item in openapi()["paths"].items() for method in item
    }
    served = {
        (route.path.replace(":path}", "}"), method)
        for route in routes(engine)
        for method in route.methods
        if method != "HEAD"
    }
    assert served == described
    engine.log.close()


@schema.exclude(path="/v1/stream").parametrize()  # which has no end: see test_stream_route
@settings(
    max_examples=25,
    deadline=None,
    derandomize=True,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=list(HealthCheck),
)
def test_schemathesis(case, address):
    case.call_and_validate(base_url=address, checks=CHECKS)
