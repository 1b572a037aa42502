from __future__ import annotations

from monolite.replication.lag import NOTED_MAX, LagMeter


def test_the_start_counts_until_a_first_sync() -> None:
    lag = LagMeter(100.0)
    assert lag.lag_ms(101.5) == 1500
    lag.covered(101.0)
    assert lag.lag_ms(101.5) == 0
    assert not lag.pending


def test_a_commit_is_dated_by_the_look_before_it() -> None:
    lag = LagMeter(0.0)
    lag.sample(7, 0.0)
    lag.covered(0.0)
    lag.sample(7, 1.0)
    lag.sample(8, 1.1)
    assert lag.lag_ms(1.1) == 100


def test_a_commit_after_the_question_is_not_in_its_answer() -> None:
    lag = LagMeter(0.0)
    lag.sample(7, 0.0)
    lag.sample(8, 1.0)
    lag.sample(9, 2.0)
    lag.covered(1.5)
    assert lag.lag_ms(3.0) == 2000
    lag.covered(2.0)
    assert not lag.pending


def test_a_long_outage_keeps_the_oldest_and_stays_small() -> None:
    lag = LagMeter(0.0)
    for second in range(10 * NOTED_MAX):
        lag.sample(second, float(second))
    assert lag.lag_ms(10.0 * NOTED_MAX) == 10_000 * NOTED_MAX
    lag.covered(10.0 * NOTED_MAX - 2)
    assert lag.pending
    lag.covered(10.0 * NOTED_MAX)
    assert not lag.pending
