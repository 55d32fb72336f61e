"""What a part of a request's body was to be, for an error that names the remedy."""

from __future__ import annotations

import re
from collections.abc import Iterator
from difflib import get_close_matches
from typing import Any

import msgspec
from msgspec import inspect

_STEP = re.compile(r"\[[^\]]*\]|[^.\[\]]+")


def remedy_for_field(name: str, loc: str, wanted: type[msgspec.Struct]) -> str:
    """Return what follows "unknown field `name`" at `loc` of a body that was to be `wanted`.

    >>> class Ask(msgspec.Struct):
    ...     n: int
    >>> remedy_for_field("nn", "", Ask), remedy_for_field("colour", "", Ask)
    (': did you mean `n`?', ': it may have n')
    """
    kinds = [kind for kind in _kinds(loc, wanted) if isinstance(kind, inspect.StructType)]
    known = [field.encode_name for kind in kinds for field in kind.fields]
    if near := get_close_matches(name, known, n=1):
        return f": did you mean `{near[0]}`?"
    return f": it may have {', '.join(known)}" if known else ""


def remedy_for_value(loc: str, wanted: type[msgspec.Struct]) -> str:
    """Return what follows "invalid enum value" at `loc` of a body that was to be `wanted`.

    >>> from ouzel.serving.arranging import DiversityIn
    >>> remedy_for_value("method", DiversityIn)
    ': give one of calibrated, dpp, mmr'
    """
    kinds = [kind for kind in _kinds(loc, wanted) if isinstance(kind, inspect.LiteralType)]
    known = [str(value) for kind in kinds for value in kind.values]
    return f": give one of {', '.join(sorted(known))}" if known else ""


def _kinds(loc: str, wanted: type[msgspec.Struct]) -> list[inspect.Type]:
    kinds = [inspect.type_info(wanted)]
    for step in _STEP.findall(loc):
        kinds = [inner for kind in kinds for inner in _inside(kind, step)]
    return [plain for kind in kinds for plain in _plain(kind)]


def _inside(kind: inspect.Type, step: str) -> Iterator[inspect.Type]:
    for plain in _plain(kind):
        if isinstance(plain, inspect.StructType):
            yield from (field.type for field in plain.fields if field.encode_name == step)
        elif isinstance(plain, inspect.DictType):
            yield plain.value_type
        elif isinstance(plain, inspect.ListType | inspect.VarTupleType):
            yield plain.item_type


def _plain(kind: Any) -> Iterator[inspect.Type]:
    """Yield a type without what is said about it, of a union each."""
    if isinstance(kind, inspect.Metadata):
        yield from _plain(kind.type)
    elif isinstance(kind, inspect.UnionType):
        for one in kind.types:
            yield from _plain(one)
    else:
        yield kind
