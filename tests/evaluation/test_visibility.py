"""The measurement of visibility sees a click that comes late, and one that is lost."""

from __future__ import annotations

import json

import pytest

from ouzel.evaluation.visibility import MOST_ANSWERS, _knows, measure_visibility


class Stale:
    """Answers with five items; a click takes effect `late` answers after the next.

    The clicked item leaves, and every score moves by `move`; an answer after a click says
    `source` and `degraded`. One that is `slow` says so while it is late.
    """

    def __init__(self, written, *, late=0, accepted=1, move=0.02, slow=False, **after):
        self.written, self.late, self.accepted, self.slow = written, late, accepted, slow
        self.move, self.after = move, {"source": "sequence", "degraded": None, **after}
        self.clicked, self.left = set(), 0

    def __call__(self, bodies, transport, number):
        path, body = bodies[number - 1]
        if path == "/v1/events":
            self.pending, self.left = json.loads(body)["item_id"], self.late
            transport.write(self.written(body=json.dumps({"accepted": self.accepted}).encode()))
            return
        if self.left == 0 and getattr(self, "pending", None):
            self.clicked.add(self.pending)
        slow = self.slow and self.left > 0
        self.left -= self.left > 0
        said = self.after if self.clicked else {"source": "sequence", "degraded": None}
        items = [
            {
                "item_id": f"i{row}",
                "score": 9.0 - row + self.move * len(self.clicked) + 1e-6 * number,
                "source": said["source"],
            }
            for row in range(9)
            if f"i{row}" not in self.clicked
        ][:5]
        degraded = "state" if slow else said["degraded"]
        reply = {"request_id": "r", "items": items, "degraded": degraded}
        transport.write(self.written(body=json.dumps(reply).encode()))


@pytest.fixture
def against(planted, reply):
    def measure(users, **fault):
        stale = Stale(reply, **fault)
        seen = []
        with planted(lambda transport, number: stale(seen[0], transport, number)) as (port, bodies):
            seen.append(bodies)
            return measure_visibility(port, users)

    return measure


def test_a_click_that_shows_at_once_took_one_answer(against):
    row = against(["u1", "u2", "u3"])
    assert row["next_answer_share"] == 1.0
    assert row["probes"] == 3
    assert 0 < row["p50_ms"] <= row["p99_ms"] <= row["max_ms"]
    assert row["event_p99_ms"] < row["max_ms"]


def test_a_late_click_is_seen_to_be_late(against):
    row = against(["u1", "u2"], late=2)
    assert row["next_answer_share"] == 0.0
    assert row["degraded"] == 0


def test_an_answer_that_says_it_was_degraded_is_told_from_a_late_click(against):
    row = against(["u1", "u2"], late=1, slow=True)
    assert (row["next_answer_share"], row["degraded"]) == (0.0, 2)


@pytest.mark.parametrize(
    "fault", [{"move": 0.0}, {"source": "popular"}, {"degraded": "state"}], ids=str
)
def test_a_click_that_only_the_seen_filter_knows_is_not_visible(against, fault):
    with pytest.raises(ValueError, match="is not visible after 50"):
        against(["u1"], **fault)


def test_a_server_without_states_is_not_measured(planted, reply):
    body = {"items": [{"item_id": "a", "score": 1.0, "source": "popular"}], "degraded": None}

    def answer(transport, number):
        transport.write(reply(body=json.dumps(body).encode()))

    with planted(answer) as (port, _), pytest.raises(ValueError, match="none of 50 lists"):
        measure_visibility(port, ["u1"])


def test_a_list_of_other_items_comes_from_a_moved_state():
    shown = {"items": [{"item_id": "a", "score": 1.0}]}
    other = {"items": [{"item_id": "b", "score": 1.0, "source": "sequence"}], "degraded": None}
    assert _knows(shown, other, "a")
    assert not _knows(shown, {**other, "items": []}, "a")


@pytest.mark.parametrize(("score", "moved"), [(0.95, True), (0.85, False)])
def test_an_item_above_the_last_one_shown_comes_from_a_moved_state(score, moved):
    scores = {"a": 2.0, "b": 1.0, "c": 0.9}
    shown = {"items": [{"item_id": name, "score": s} for name, s in scores.items()]}
    kept = [{"item_id": "b", "score": 1.0}, {"item_id": "new", "score": score}]
    after = {"items": [{**item, "source": "sequence"} for item in kept], "degraded": None}
    assert _knows(shown, after, "a") is moved


def test_a_lost_click_is_an_error(against):
    with pytest.raises(ValueError, match="is not visible after 50"):
        against(["u1"], late=MOST_ANSWERS + 5)


def test_a_click_that_was_not_taken_is_an_error(against):
    with pytest.raises(ValueError, match="was not accepted"):
        against(["u1"], accepted=0)


def test_a_refusal_is_told(planted, reply):
    def refuse(transport, number):
        transport.write(reply(status=503, body=b'{"title":"busy"}'))

    with planted(refuse) as (port, _), pytest.raises(ValueError, match="answered 503"):
        measure_visibility(port, ["u1"])
