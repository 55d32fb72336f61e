"""Steps of stochastic gradient descent over factor tables, one event after the other.

A compiled kernel (`steps.cpp`) takes about 0.1 microseconds for an event of 64 factors. It is built
when Ouzel is installed, if there is a compiler. Without it NumPy steps: events that share no vector
cannot tell in which order they came, so they are learned in one turn (`turns`), with the same
result up to rounding and at 2 microseconds an event in random order, 15 in the order of visits.

References:
    Gemulla, Nijkamp, Haas and Sismanis, "Large-Scale Matrix Factorization with Distributed
    Stochastic Gradient Descent", KDD 2011, on steps that may change places.

Shape legend: E = events, U = users, N = catalogue rows, D = dim, T = events of a turn.
"""

from __future__ import annotations

import ctypes
import importlib.util
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Rows = NDArray[Any]


@dataclass(frozen=True)
class Tables:
    """The vectors of users (U, D) and items (N, D) that are changed, and how far a step goes.

    `rate` is what a gradient is multiplied by, `l2` the weight of the ridge on each vector touched.
    """

    users_UD: Floats
    items_ND: Floats
    rate: float
    l2: float


def squared_steps(tables: Tables, users_E: Rows, rows_E: Rows, targets_E: Floats) -> Floats:
    """Return the score (E,) of each event before its step towards its target.

    A step goes down the gradient of (target - score)^2 / 2.

    >>> tables = Tables(np.ones((1, 2), np.float32), np.ones((2, 2), np.float32), 0.1, 0.0)
    >>> twice = np.zeros(2, np.int64), np.array([1, 1]), np.full(2, 3, np.float32)
    >>> squared_steps(tables, *twice).astype(float).round(2).tolist()
    [2.0, 2.42]
    """
    scores_E = np.empty(len(users_E), np.float32)
    if (kernel := _kernel()) is not None:
        given = _columns(users_E, rows_E)
        targets = np.ascontiguousarray(targets_E, np.float32)
        kernel.ouzel_steps_squared(*_arguments(tables, *given, targets, scores_E))
        return scores_E
    rate, keep = np.float32(tables.rate), np.float32(1 - tables.rate * tables.l2)
    for turn in turns(users_E, rows_E):
        users, rows = users_E[turn], rows_E[turn]
        user_TD, item_TD = tables.users_UD[users], tables.items_ND[rows]
        scores_E[turn] = scores_T = np.einsum("td,td->t", user_TD, item_TD)
        step_T1 = (rate * (targets_E[turn] - scores_T))[:, None]
        tables.users_UD[users] = keep * user_TD + step_T1 * item_TD
        tables.items_ND[rows] = keep * item_TD + step_T1 * user_TD
    return scores_E


def ranked_steps(
    tables: Tables, users_E: Rows, rows_E: Rows, others_E: Rows
) -> tuple[Floats, Floats]:
    """Return the score (E,) of each event, and of its other row, before its step.

    A step goes down the gradient of -log sigmoid(score - other score). An event's rows differ.

    >>> items_ND = np.array([[0, 0], [1, 0], [0, 1]], np.float32)
    >>> tables = Tables(np.ones((1, 2), np.float32), items_ND, 1.0, 0.0)
    >>> twice = np.zeros(2, np.int64), np.array([1, 1]), np.array([2, 2])
    >>> [scores.round(2).tolist() for scores in ranked_steps(tables, *twice)]
    [[1.0, 2.5], [1.0, -0.5]]
    """
    scores_E = np.empty(len(users_E), np.float32)
    other_scores_E = np.empty(len(users_E), np.float32)
    if (kernel := _kernel()) is not None:
        given = _columns(users_E, rows_E, others_E)
        kernel.ouzel_steps_ranked(*_arguments(tables, *given, scores_E, other_scores_E))
        return scores_E, other_scores_E
    rate, keep = np.float32(tables.rate), np.float32(1 - tables.rate * tables.l2)
    users_UD, items_ND = tables.users_UD, tables.items_ND
    for turn in turns(users_E, rows_E, others_E):
        users, rows, others = users_E[turn], rows_E[turn], others_E[turn]
        user_TD, item_TD, other_TD = users_UD[users], items_ND[rows], items_ND[others]
        scores_E[turn] = scores_T = np.einsum("td,td->t", user_TD, item_TD)
        other_scores_E[turn] = other_scores_T = np.einsum("td,td->t", user_TD, other_TD)
        step_T1 = (rate / (1 + np.exp(scores_T - other_scores_T)))[:, None]
        users_UD[users] = keep * user_TD + step_T1 * (item_TD - other_TD)
        items_ND[rows] = keep * item_TD + step_T1 * user_TD
        items_ND[others] = keep * other_TD - step_T1 * user_TD
    return scores_E, other_scores_E


def turns(users_E: Rows, *rows_E: Rows) -> Iterator[NDArray[np.int64]]:
    """Yield the places (T,) of events that can be learned at once as if one after the other.

    An event comes in a later turn than all before it that share its user or one of its rows.

    >>> [turn.tolist() for turn in turns(np.array([0, 1, 0, 2]), np.array([1, 2, 2, 3]))]
    [[0, 1, 3], [2]]
    """
    if not len(users_E):
        return
    turn_E = np.array(_turns(users_E.tolist(), [column.tolist() for column in rows_E]))
    order = np.argsort(turn_E, kind="stable")
    yield from np.split(order, np.cumsum(np.bincount(turn_E)[1:-1]))


def _turns(users: list[int], columns: list[list[int]]) -> list[int]:
    """Return the turn of each event, from 1 on."""
    of_user: dict[int, int] = {}
    of_row: dict[int, int] = {}
    found = []
    for user, *rows in zip(users, *columns, strict=True):
        turn = 1 + max(of_user.get(user, 0), *(of_row.get(row, 0) for row in rows))
        of_user[user] = turn
        for row in rows:
            of_row[row] = turn
        found.append(turn)
    return found


class _Tables(ctypes.Structure):
    _fields_ = (
        ("users", ctypes.c_void_p),
        ("items", ctypes.c_void_p),
        ("dim", ctypes.c_int64),
        ("rate", ctypes.c_float),
        ("l2", ctypes.c_float),
    )


def _columns(*columns: Rows) -> tuple[NDArray[np.int64], ...]:
    return tuple(np.ascontiguousarray(column, np.int64) for column in columns)


def _arguments(tables: Tables, *columns: NDArray[Any]) -> tuple[Any, ...]:
    """Return what a function of the kernel takes; the columns must outlive the call."""
    for table in (tables.users_UD, tables.items_ND):
        assert table.flags.c_contiguous and table.dtype == np.float32
    told = _Tables(
        tables.users_UD.ctypes.data,
        tables.items_ND.ctypes.data,
        tables.users_UD.shape[1],
        tables.rate,
        tables.l2,
    )
    addresses = (ctypes.c_void_p(column.ctypes.data) for column in columns)
    return ctypes.byref(told), ctypes.c_int64(len(columns[0])), *addresses


@cache
def _kernel() -> ctypes.CDLL | None:
    found = importlib.util.find_spec("ouzel.models._steps")
    if found is None or found.origin is None:
        return None
    kernel = ctypes.CDLL(found.origin)
    kernel.ouzel_steps_bytes.restype = ctypes.c_int64
    return kernel if kernel.ouzel_steps_bytes() == ctypes.sizeof(_Tables) else None
