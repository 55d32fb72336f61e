import numpy as np
import pytest

from ouzel.evaluation.statistics import bootstrap


def test_interval_of_a_known_proportion():
    values = np.repeat([1.0, 0.0], [300, 700])[:, None]
    interval = bootstrap(values, np.arange(1000))[0]
    spread = 1.96 * np.sqrt(0.3 * 0.7 / 1000)
    assert interval.mean == pytest.approx(0.3)
    assert interval.low == pytest.approx(0.3 - spread, abs=0.004)
    assert interval.high == pytest.approx(0.3 + spread, abs=0.004)


def test_targets_of_one_user_do_not_pass_for_many_users():
    values = np.repeat(np.random.default_rng(0).integers(0, 2, 100), 50).astype(float)[:, None]
    by_user = bootstrap(values, np.repeat(np.arange(100), 50))[0]
    as_if_alone = bootstrap(values, np.arange(5000))[0]
    assert (by_user.high - by_user.low) > 5 * (as_if_alone.high - as_if_alone.low)


def test_same_seed_same_interval_in_blocks_of_any_size(monkeypatch):
    values = np.random.default_rng(1).normal(size=(50, 2))
    whole = bootstrap(values, np.arange(50), seed=7)
    monkeypatch.setattr("ouzel.evaluation.statistics.BLOCK", 120)
    np.testing.assert_allclose(bootstrap(values, np.arange(50), seed=7), whole, rtol=1e-9)
    assert bootstrap(values, np.arange(50), seed=8) != whole


def test_bad_input_is_refused():
    with pytest.raises(ValueError, match="0 values"):
        bootstrap(np.empty((0, 1)), np.empty(0, np.int64))
    with pytest.raises(ValueError, match="2 values of 1"):
        bootstrap(np.ones((2, 1)), np.array([1]))
    with pytest.raises(ValueError, match="level is 95"):
        bootstrap(np.ones((1, 1)), np.array([1]), level=95)
