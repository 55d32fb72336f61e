import json
from collections import Counter

import numpy as np
import pytest

from ouzel.evaluation.load_spec import LoadSpec, make_plan


def spec(**changes):
    given = {
        "rate": 2000.0,
        "duration_s": 5.0,
        "warmup_s": 0.0,
        "users": [f"u{number}" for number in range(50)],
        "items": ["i1", "i2"],
        "cold_users": ["c1", "c2", "c3"],
    }
    return LoadSpec(host="h", port=80, **{**given, **changes})


def bodies(plan):
    return [json.loads(payload.partition(b"\r\n\r\n")[2]) for payload in plan.payloads]


def test_arrivals_are_poisson():
    gaps = np.diff(make_plan(spec()).due_R)
    assert gaps.min() >= 0
    assert gaps.mean() == pytest.approx(1 / 2000, rel=0.05)
    assert gaps.std() == pytest.approx(gaps.mean(), rel=0.1)  # as of an exponential law


def test_shares_and_zipf_are_as_asked():
    plan = make_plan(spec())
    found = bodies(plan)
    assert plan.kinds_R.mean() == pytest.approx(0.1, abs=0.02)
    asked = [body["user_id"] for body in found if "n" in body]
    cold = [user for user in asked if user.startswith("c")]
    assert len(cold) / len(asked) == pytest.approx(0.05, abs=0.015)
    assert cold[:4] == ["c1", "c2", "c3", "c1"]
    counts = Counter(asked)
    assert counts["u0"] / counts["u9"] == pytest.approx(10, rel=0.4)


def test_requests_are_whole_http_requests_with_unique_events():
    found = make_plan(spec(api_key="secret"))
    for payload in found.payloads[:50]:
        head, _, body = payload.partition(b"\r\n\r\n")
        assert f"content-length: {len(body)}".encode() in head.lower()
        assert b"Authorization: Bearer secret" in head
    events = [body for body in bodies(found) if "event_id" in body]
    assert len({event["event_id"] for event in events}) == len(events)
    assert set(events[0]) == {"event_id", "event", "user_id", "item_id"}


def test_same_seed_same_plan_but_event_ids_of_their_own():
    one, other = make_plan(spec()), make_plan(spec())
    assert (one.due_R == other.due_R).all()
    strip = [{**body, "event_id": 0} for body in bodies(one)]
    assert strip == [{**body, "event_id": 0} for body in bodies(other)]
    assert bodies(one) != bodies(other)
    assert len(make_plan(spec(seed=1)).due_R) != len(one.due_R)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"rate": 0.0}, "rate is 0"),
        ({"rate": float("nan")}, "rate is nan"),
        ({"event_share": 1.5}, "event_share is 1.5"),
        ({"users": []}, "users is empty"),
        ({"items": []}, "items is empty"),
        ({"cold_users": []}, "cold_users is empty"),
    ],
)
def test_what_cannot_be_done_is_refused(changes, words):
    with pytest.raises(ValueError, match=words):
        spec(**changes)
