"""Prometheus' text, made from the server's own counters when it is asked for."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from monolite.web.endpoint import Endpoint
from monolite.web.measures import BOUNDS_S


class Metrics:
    """All counters of one server. No metric has a tenant's name."""

    def __init__(
        self,
        endpoints: Callable[[], Sequence[Endpoint]],
        gauges: Callable[[], dict[str, tuple[str, float]]],
        counters: Callable[[], dict[str, tuple[str, float]]],
        routed: Callable[[], Mapping[tuple[str, str], int]],
    ) -> None:
        self._endpoints = endpoints
        self._gauges = gauges
        self._counters = counters
        self._routed = routed

    def text(self) -> bytes:
        """The exposition format, version 0.0.4."""
        from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest

        registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        registry.register(self)
        return generate_latest(registry)

    def collect(self) -> Iterable[Any]:
        """What prometheus-client asks a collector for."""
        from prometheus_client.core import (
            CounterMetricFamily,
            GaugeMetricFamily,
            HistogramMetricFamily,
        )

        requests = CounterMetricFamily(
            "monolite_requests", "Answers by operation and status.", labels=["operation", "status"]
        )
        seconds = HistogramMetricFamily(
            "monolite_request_seconds", "Time to the end of the answer.", labels=["operation"]
        )
        for endpoint in self._endpoints():
            measure = endpoint.measure
            name = endpoint.operation.id
            for status, count in measure.statuses.items():
                requests.add_metric([name, str(status)], count)
            if not measure.statuses:
                continue
            total, buckets = 0, []
            for bound, count in zip((*BOUNDS_S, None), measure.buckets, strict=True):
                total += count
                buckets.append(("+Inf" if bound is None else str(bound), total))
            seconds.add_metric([name], buckets=buckets, sum_value=measure.sum_s)
        routed = CounterMetricFamily(
            "monolite_inference_routed",
            "Answers by who gave them, and why.",
            labels=["provider", "reason"],
        )
        for (provider, reason), count in sorted(self._routed().items()):
            routed.add_metric([provider, reason], count)
        yield routed
        yield requests
        yield seconds
        for name, (doc, value) in self._gauges().items():
            yield GaugeMetricFamily(f"monolite_{name}", doc, value=value)
        for name, (doc, value) in self._counters().items():
            yield CounterMetricFamily(f"monolite_{name}", doc, value=value)
