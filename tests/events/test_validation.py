"""What may enter the log, and how a refusal reads."""

from __future__ import annotations

import math

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ouzel.events.types import Impression, Interaction, ItemUpdate, UserUpdate
from ouzel.events.validation import (
    MAX_COLUMN_BYTES,
    MAX_TIMESTAMP_MS,
    check_columns,
    check_event,
    check_id,
    check_timestamp_ms,
    check_value,
)
from ouzel.events.verbs import VERBS, canonical_verb, check_verb, enters_history

CLICK = Interaction(event_id="e", timestamp_ms=1, user_id="u", item_id="a", event="click")
SHOWN = Impression(
    event_id="e", timestamp_ms=1, request_id="r", item_ids=("a",), model_version="m+0"
)


@pytest.mark.parametrize("text", ["a", "x" * 256, "ü" * 128, "日本語/ü ?#", " ", "\u00a0", "😀"])
def test_ids_may_be_any_unicode(text: str) -> None:
    assert check_id(text) == text


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "is empty"),
        ("x" * 257, "257 bytes"),
        ("ü" * 129, "258 bytes"),
        ("a\nb", "control character"),
        ("a\x7f", "control character"),
        ("a\x85", "control character"),
        ("\0", "control character"),
        ("\ud800", "not valid Unicode"),
    ],
)
def test_refused_ids_say_why(text: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        check_id(text)


@given(st.text())
def test_an_id_is_kept_as_it_is_or_refused(text: str) -> None:
    try:
        assert check_id(text).encode().decode() == text
    except ValueError:
        return


@pytest.mark.parametrize("time_ms", [-1, MAX_TIMESTAMP_MS + 1, 2**63])
def test_times_out_of_range_are_refused(time_ms: int) -> None:
    with pytest.raises(ValueError, match="out of range"):
        check_timestamp_ms(time_ms)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 1e39, -1e39])
def test_values_must_be_finite(value: float) -> None:
    with pytest.raises(ValueError, match="not finite"):
        check_value(value)


@pytest.mark.parametrize(
    "columns", [{"ti tle": "x"}, {"": "x"}, {"t": "\ud800"}, {"t": "x" * (MAX_COLUMN_BYTES + 1)}]
)
def test_columns_need_plain_names_and_short_texts(columns: dict[str, str]) -> None:
    with pytest.raises(ValueError, match="column"):
        check_columns(columns)


@pytest.mark.parametrize("name", ["Click", "", "1st", "a b", "é", "a" * 65])
def test_names_that_are_no_verbs(name: str) -> None:
    with pytest.raises(ValueError, match="no verb"):
        check_verb(name)


def test_names_of_other_systems_become_verbs() -> None:
    assert canonical_verb("detail-page-view") == "view"
    assert canonical_verb("Order Completed") == "purchase"
    assert all(canonical_verb(verb) == verb for verb in VERBS)


def test_which_verbs_are_history() -> None:
    history = {verb for verb in VERBS if enters_history(verb)}
    assert history == {
        *("view", "click", "add_to_cart", "purchase", "like", "rate", "save", "share", "play")
    }
    assert enters_history("subscribe")


@pytest.mark.parametrize(
    ("event", "change"),
    [
        (CLICK, {"event_id": ""}),
        (CLICK, {"event_id": "x" * 129}),
        (CLICK, {"timestamp_ms": -5}),
        (CLICK, {"user_id": None}),
        (CLICK, {"user_id": ""}),
        (CLICK, {"session_id": "a\n"}),
        (CLICK, {"item_id": ""}),
        (CLICK, {"event": "BUY"}),
        (CLICK, {"value": math.nan}),
        (CLICK, {"request_id": ""}),
        (SHOWN, {"request_id": "\0"}),
        (SHOWN, {"item_ids": ("a", "")}),
        (SHOWN, {"user_id": ""}),
        (ItemUpdate(event_id="e", timestamp_ms=1, item_id="a", columns={}), {"item_id": ""}),
        (UserUpdate(event_id="e", timestamp_ms=1, user_id="u", columns={}), {"columns": {"": ""}}),
    ],
)
def test_every_field_of_an_event_is_checked(event: msgspec.Struct, change: dict) -> None:
    assert check_event(event) is event  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r".+: .+"):
        check_event(msgspec.structs.replace(event, **change))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("propensities", "said"),
    [((), "0 numbers for 1 items"), ((0.0,), "above 0"), ((1.5,), "1.5"), ((float("nan"),), "nan")],
)
def test_propensities_are_probabilities_one_for_each_item(propensities, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        check_event(msgspec.structs.replace(SHOWN, propensities=propensities))
    assert check_event(msgspec.structs.replace(SHOWN, propensities=(0.25,)))
