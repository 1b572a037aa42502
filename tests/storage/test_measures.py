from __future__ import annotations

from monolite.storage.measures import Latencies, PerSecond


class Hand:
    """A clock moved by hand."""

    now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


def test_a_rate_is_sustained_only_when_every_minute_of_ten_reached_it() -> None:
    clock = Hand()
    rate = PerSecond(clock)
    for second in range(620):
        rate.add(100 if second != 400 else 10_000)
        assert rate.sustained() == 0.0 or second >= 600
        clock.now_s += 1
    assert rate.sustained() == 100.0
    for _ in range(60):
        rate.add(40)
        clock.now_s += 1
    assert rate.sustained() == 40.0
    assert rate.mean(60) == 40.0
    clock.now_s += 700
    assert rate.sustained() == 0.0
    assert rate.mean(600) == 0.0


def test_a_quantile_is_the_upper_bound_of_its_bucket() -> None:
    latencies = Latencies()
    assert latencies.snapshot().quantile_s(0.99) == 0.0
    for _ in range(99):
        latencies.add(0.0007)
    latencies.add(3.0)
    assert latencies.snapshot().quantile_s(0.99) == 0.001
    assert latencies.snapshot().quantile_s(1.0) == 5.0
    latencies.add(99.0)
    assert latencies.snapshot().quantile_s(1.0) == 20.0
