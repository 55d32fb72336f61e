"""Who may ask: a key off loopback, known host names on loopback, no foreign web pages."""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
from urllib.parse import urlsplit

from starlette.types import Scope

from ouzel.serving.http import header
from ouzel.serving.problem import ProblemError

OPEN_PATHS = ("/health/", "/dashboard")
"""Paths that need no key: probes, and the static page (its data do need the key)."""

_SAME_SITE = (b"same-origin", b"none")


def is_loopback(host: str) -> bool:
    """Return whether only this machine can reach a server bound to `host`.

    >>> is_loopback("127.0.0.1"), is_loopback("::1"), is_loopback("0.0.0.0")
    (True, True, False)
    """
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def check_binding(host: str, api_key: str | None) -> None:
    """Refuse to listen to other machines without a key.

    Raises:
        ValueError: `host` is not loopback and there is no key, or the key is empty.

    >>> check_binding("127.0.0.1", None)
    """
    if api_key is not None and not api_key.strip():
        raise ValueError("the API key is empty: give a long random text or none")
    if api_key is None and not is_loopback(host):
        raise ValueError(
            f"host {host} can be reached from other machines: set OUZEL_API_KEY (or --api-key) "
            "to a long random text, or bind to 127.0.0.1"
        )


class Access:
    """Decides on each request before anything of it is read.

    With a key, everything but `OPEN_PATHS` needs it, as `Authorization: Bearer KEY` or
    `X-API-Key: KEY`; here it is kept as a hash and compared in constant time (heads of requests
    that `ouzel.serving.short` remembers hold it as it was sent). Bound to loopback, the
    Host header must name this machine, so that no foreign name can be pointed here (DNS
    rebinding). A browser may call `/v1/` only from this server's own pages.
    """

    def __init__(self, host: str, api_key: str | None) -> None:
        """Raises: ValueError as `check_binding`."""
        check_binding(host, api_key)
        self._key = None if api_key is None else _hash(api_key.encode())
        self._hosts: frozenset[bytes] | None = None
        if is_loopback(host):
            self._hosts = frozenset({b"localhost", b"127.0.0.1", b"::1", host.encode().lower()})

    def check(self, scope: Scope) -> None:
        """Return if the request may go on.

        Raises:
            ProblemError: 421 for a wrong Host, 403 for another site's page, 401 for a wrong key.
        """
        if self._hosts is not None:
            self._check_host(header(scope, b"host"))
        path: str = scope["path"]
        if path.startswith("/v1/"):
            _check_origin(scope)
        if self._key is not None and not path.startswith(OPEN_PATHS):
            self._check_key(scope)

    def _check_host(self, host: bytes | None) -> None:
        if host is None or self._hosts is None or _name_of(host) not in self._hosts:
            raise ProblemError(
                421, "the Host header names another machine: use 127.0.0.1 or localhost"
            )

    def _check_key(self, scope: Scope) -> None:
        presented = header(scope, b"x-api-key")
        if presented is None:
            scheme, _, token = (header(scope, b"authorization") or b"").partition(b" ")
            presented = token.strip() if scheme.lower() == b"bearer" else b""
        if self._key is None or not hmac.compare_digest(_hash(presented), self._key):
            raise ProblemError(
                401,
                "the API key is missing or wrong: send Authorization: Bearer KEY",
                headers=[(b"www-authenticate", b"Bearer")],
            )


def _check_origin(scope: Scope) -> None:
    site = header(scope, b"sec-fetch-site")
    origin = header(scope, b"origin")
    if site is not None:
        foreign = site not in _SAME_SITE
    else:
        foreign = origin is not None and not _same_origin(origin, header(scope, b"host"))
    if foreign:
        raise ProblemError(
            403, "another site's page may not call this API: call it from your server"
        )


def _same_origin(origin: bytes, host: bytes | None) -> bool:
    try:
        return urlsplit(origin).netloc.lower() == (host or b"").lower()
    except ValueError:
        return False


def _name_of(host: bytes) -> bytes:
    """Return the host name of a Host header, without port and brackets, in lower case."""
    name = host.strip().lower()
    if name.startswith(b"["):
        return name[1:].partition(b"]")[0]
    return name.partition(b":")[0]


def _hash(key: bytes) -> bytes:
    return hashlib.sha256(key).digest()
