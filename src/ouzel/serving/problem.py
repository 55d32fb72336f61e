"""Errors as RFC 9457 problem documents that name the field, the fault and the remedy."""

from __future__ import annotations

import re
from http import HTTPStatus

import msgspec

from ouzel.serving.expected import remedy_for_field, remedy_for_value

CONTENT_TYPE = b"application/problem+json"

_AT = re.compile(r" - at `(?:key in )?\$\.?(?P<path>.*)`$")
_FIELD = re.compile(r"(?P<what>unknown|required) field `(?P<name>.*?)`")


class FieldError(msgspec.Struct, frozen=True):
    """What is wrong with one field: `loc` is its path, such as `items[]` or `[3].user_id`."""

    loc: str
    code: str
    detail: str


class ProblemBody(msgspec.Struct, frozen=True, kw_only=True):
    """The body of every error answer (`application/problem+json`)."""

    type: str = "about:blank"
    title: str
    status: int
    detail: str
    errors: list[FieldError] = []


class ProblemError(Exception):
    """An error answer on its way out: status, one sentence, and the fields at fault."""

    def __init__(
        self,
        status: int,
        detail: str,
        *,
        errors: list[FieldError] | None = None,
        headers: list[tuple[bytes, bytes]] | None = None,
    ) -> None:
        super().__init__(detail)
        self.status = status
        self.detail = detail
        self.errors = errors or []
        self.headers = headers or []

    def encode(self) -> bytes:
        """Return the problem document as JSON.

        >>> msgspec.json.decode(ProblemError(404, "no such page").encode())["title"]
        'Not Found'
        """
        body = ProblemBody(
            title=HTTPStatus(self.status).phrase,
            status=self.status,
            detail=self.detail,
            errors=self.errors,
        )
        return msgspec.json.encode(body)


def invalid(errors: list[FieldError]) -> ProblemError:
    """Return the 422 problem of fields that cannot be accepted.

    >>> invalid([FieldError("n", "invalid", "n is 501: at most 500")]).detail
    'n: n is 501: at most 500'
    """
    first = errors[0]
    return ProblemError(422, f"{first.loc}: {first.detail}", errors=errors)


def field_error(
    error: msgspec.ValidationError, wanted: type[msgspec.Struct] | None = None
) -> FieldError:
    """Return where and what, from the decoder's message.

    For an unknown field or a value that is none of a few, the remedy names what `wanted` has there.

    >>> class Ask(msgspec.Struct, forbid_unknown_fields=True):
    ...     n: int
    >>> try:
    ...     msgspec.json.decode(b'{"n": "ten"}', type=Ask)
    ... except msgspec.ValidationError as error:
    ...     field_error(error)
    FieldError(loc='n', code='invalid', detail='Expected `int`, got `str`')
    >>> try:
    ...     msgspec.json.decode(b'{"nn": 10}', type=Ask)
    ... except msgspec.ValidationError as error:
    ...     field_error(error, Ask).detail
    'Object contains unknown field `nn`: did you mean `n`?'
    """
    text = str(error)
    place = _AT.search(text)
    loc = place["path"].replace("[...]", "[]") if place else ""
    detail = text[: place.start()] if place else text
    named = _FIELD.search(detail)
    if named is None:
        if wanted is not None and detail.startswith("Invalid enum value"):
            detail += remedy_for_value(loc, wanted)
        return FieldError(loc or "body", "invalid", detail)
    path = f"{loc}.{named['name']}" if loc else named["name"]
    if named["what"] != "unknown":
        return FieldError(path, "missing", detail)
    remedy = "" if wanted is None else remedy_for_field(named["name"], loc, wanted)
    return FieldError(path, "unknown_field", detail + remedy)


def undecodable(error: Exception, wanted: type[msgspec.Struct] | None = None) -> ProblemError:
    """Return the problem of a body that the JSON decoder refused, 422 if only a field is wrong.

    `wanted` is what the body was to be.

    >>> undecodable(RecursionError()).status
    400
    """
    if isinstance(error, msgspec.ValidationError):
        return invalid([field_error(error, wanted)])
    if isinstance(error, RecursionError):
        return ProblemError(400, "the JSON is nested too deeply: flatten it")
    if isinstance(error, UnicodeDecodeError):
        return ProblemError(400, "the body is not UTF-8: encode it as UTF-8")
    return ProblemError(400, f"the body is not JSON: {error}")


DECODE_ERRORS = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
"""What decoding an untrusted body may raise."""
