"""A small language that says which items may be shown: `category in ["shoes"] and price < 50`.

The grammar is that of Python's expressions, read by Python's own parser and never evaluated: names
of fields, texts, numbers and lists of them, `== != < <= > >= in`, `and or not`, brackets.

- `price < 50` compares numbers; it does not hold where the field is no number. So does
  `10 <= price < 50`.
- `brand == "Acme"` compares whole texts; a field that is absent is the text "".
- `category in ["shoes", "boots"]`: the whole text is one of these.
- `"Drama" in genres`: one of the parts of the text, which `|` separates, is this.

A field whose name is a word of Python's own, such as `class`, cannot be named.
"""

from __future__ import annotations

import ast
import math
import operator
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import reduce
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

MOST_COMPARISONS = 16

LONGEST = 1000
"""Longest condition in characters."""

EXAMPLE = 'write it like category in ["shoes"] and price < 50'

Value = str | float
Truth = TypeVar("Truth")


@dataclass(frozen=True)
class Comparison:
    """A condition on the text of one field.

    `of_numbers` says the same of many texts at once by the numbers (n,) that they are, NaN where
    they are none; None where it cannot.
    """

    field: str
    holds: Callable[[str], bool]
    of_numbers: Callable[[NDArray[np.float64]], NDArray[np.bool_]] | None = None


@dataclass(frozen=True)
class Combined:
    """Parts under `ast.And` or `ast.Or`, or one part under `ast.Not`."""

    kind: type[ast.boolop | ast.unaryop]
    parts: tuple[Condition, ...]


Condition = Comparison | Combined


def parse(text: str) -> Condition:
    """Return the condition that a text describes.

    Raises:
        ValueError: it is none; the message says what is wrong and how to write one.

    >>> condition = parse('"Drama" in genres and 1990 <= year < 2000')
    >>> sorted(fields(condition))
    ['genres', 'year']
    >>> holds(condition, {"genres": "Crime|Drama", "year": "1995"}.get)
    True
    """
    if len(text) > LONGEST:
        raise ValueError(f"the filter has {len(text)} characters: {LONGEST} at most")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # on strange but valid Python
            tree = ast.parse(text.strip(), mode="eval")
        condition = _condition(tree.body)
    except (SyntaxError, UnicodeEncodeError, MemoryError, RecursionError, SystemError):
        # The last is what CPython 3.11 makes of some nesting that is too deep.
        raise ValueError(f"the filter {text[:80]!r} cannot be read: {EXAMPLE}") from None
    compared = combine(condition, lambda one: 1, lambda count: count, operator.add)
    if compared > MOST_COMPARISONS:
        raise ValueError(
            f"the filter has {compared} comparisons: {MOST_COMPARISONS} at most; "
            'many texts make one: category in ["shoes", "boots"]'
        )
    return condition


def fields(condition: Condition) -> set[str]:
    """Return the names of the fields that decide.

    >>> fields(parse("not price > 5"))
    {'price'}
    """
    if isinstance(condition, Comparison):
        return {condition.field}
    return {name for part in condition.parts for name in fields(part)}


def holds(condition: Condition, text_of: Callable[[str], str | None]) -> bool:
    """Return whether a condition holds for an item whose field of a name has the text `text_of`.

    >>> holds(parse('brand != "Acme" or price < 5'), {"brand": "Acme", "price": "4.99"}.get)
    True
    """

    def compare(one: Comparison) -> bool:
        return one.holds(text_of(one.field) or "")

    return combine(condition, compare, operator.not_)


def combine(
    condition: Condition,
    compare: Callable[[Comparison], Truth],
    negate: Callable[[Truth], Truth],
    together: Callable[[Truth, Truth], Truth] | None = None,
) -> Truth:
    """Return what `compare` gives, put together as the condition says: with `&`, `|`, `negate`.

    With `together` that takes the place of `&` and `|`.

    >>> condition = parse("a == 1 or not b == 2")
    >>> sorted(combine(condition, lambda one: {one.field}, lambda it: it | {"not"}))
    ['a', 'b', 'not']
    """
    if isinstance(condition, Comparison):
        return compare(condition)
    parts = [combine(part, compare, negate, together) for part in condition.parts]
    if condition.kind is ast.Not:
        return negate(parts[0])
    by_kind = operator.and_ if condition.kind is ast.And else operator.or_
    return reduce(together or by_kind, parts)


def _condition(node: ast.expr) -> Condition:
    match node:
        case ast.BoolOp():
            return Combined(type(node.op), tuple(_condition(part) for part in node.values))
        case ast.UnaryOp(op=ast.Not()):
            return Combined(ast.Not, (_condition(node.operand),))
        case ast.Compare():
            sides = [node.left, *node.comparators]
            tests = tuple(map(_test, sides, node.ops, sides[1:]))
            return tests[0] if len(tests) == 1 else Combined(ast.And, tests)
    raise ValueError(f"{_shown(node)} is no condition: {EXAMPLE}")


_ORDER: dict[type[ast.cmpop], Callable[[Any, float], Any]] = {
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
}
_TURNED: dict[type[ast.cmpop], type[ast.cmpop]] = {
    ast.Lt: ast.Gt,
    ast.LtE: ast.GtE,
    ast.Gt: ast.Lt,
    ast.GtE: ast.LtE,
    ast.Eq: ast.Eq,
    ast.NotEq: ast.NotEq,
}


def _test(left: ast.expr, op: ast.cmpop, right: ast.expr) -> Comparison:
    kind = type(op)
    if isinstance(left, ast.Name) and kind in (ast.In, ast.NotIn):
        return _one_of(left.id, _values(right), inside=kind is ast.In)
    if isinstance(right, ast.Name) and kind in (ast.In, ast.NotIn):
        return _part_of(right.id, _text(left), inside=kind is ast.In)
    if isinstance(left, ast.Name) and kind in _ORDER:
        return _compared(left.id, kind, _value(right))
    if isinstance(right, ast.Name) and kind in _ORDER:
        return _compared(right.id, _TURNED[kind], _value(left))
    raise ValueError(f"{_shown(left)} and {_shown(right)} cannot be compared: {EXAMPLE}")


def _compared(field: str, kind: type[ast.cmpop], value: Value) -> Comparison:
    compare = _ORDER[kind]
    if isinstance(value, str):
        if kind not in (ast.Eq, ast.NotEq):
            raise ValueError(f"{field} is compared with the text {value!r}: use == or != or in")
        return Comparison(field, lambda text: (text == value) == (kind is ast.Eq))

    def holds(text: str) -> bool:
        found = number(text)
        return bool(compare(found, value)) and not math.isnan(found)

    def of_numbers(numbers: NDArray[np.float64]) -> NDArray[np.bool_]:
        return np.asarray(compare(numbers, value) & ~np.isnan(numbers), np.bool_)

    return Comparison(field, holds, of_numbers)


def _one_of(field: str, values: tuple[Value, ...], *, inside: bool) -> Comparison:
    texts = {value for value in values if isinstance(value, str)}
    numbers = {value for value in values if not isinstance(value, str)}
    return Comparison(field, lambda text: (text in texts or number(text) in numbers) == inside)


def _part_of(field: str, value: str, *, inside: bool) -> Comparison:
    return Comparison(field, lambda text: (value in text.split("|")) == inside)


def _text(node: ast.expr) -> str:
    value = _value(node)
    if not isinstance(value, str):
        raise ValueError(f'{_shown(node)} is no text: write it like "Drama" in genres')
    return value


def _values(node: ast.expr) -> tuple[Value, ...]:
    if isinstance(node, ast.List | ast.Tuple | ast.Set):
        return tuple(_value(one) for one in node.elts)
    raise ValueError(f"{_shown(node)} is no list: {EXAMPLE}")


def _value(node: ast.expr) -> Value:
    match node:
        case ast.UnaryOp(op=ast.USub()):
            value = _value(node.operand)
            if not isinstance(value, str):
                return -value
        case ast.Constant(value=str() as text):
            return text
        case ast.Constant(value=bool()):
            pass
        case ast.Constant(value=int() | float() as given) if abs(given) < 1e300:
            return float(given)
    raise ValueError(f"{_shown(node)} is neither a text nor a number: {EXAMPLE}")


def number(text: str) -> float:
    """Return the number that a text is, NaN if it is none.

    >>> number("12.5"), number("cheap"), number("1_000")
    (12.5, nan, nan)
    """
    if "_" in text or not text.isascii():
        return math.nan
    try:
        return float(text)
    except ValueError:
        return math.nan


def _shown(node: ast.expr) -> str:
    return ast.unparse(node)[:80]
