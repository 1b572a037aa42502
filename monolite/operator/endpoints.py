"""Health, metrics, the OpenAPI document, and the operator's status over HTTP."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, Literal

import msgspec

from monolite.kernels import Description
from monolite.operator.health import Readiness
from monolite.operator.metrics import Metrics
from monolite.operator.triggers import NEVER, Trigger
from monolite.tenancy.scopes import OPERATOR
from monolite.web.answer import Answer, Stream, json_answer
from monolite.web.call import Call
from monolite.web.operation import LOOPBACK, PUBLIC, Operation
from monolite.web.sse import event_stream, frame

_LIVE_S = 1.0


class Health(msgspec.Struct):
    """The process serves."""

    status: str


class Ready(msgspec.Struct, omit_defaults=True):
    """Whether traffic should come; `checks` for the operator and from loopback."""

    status: str
    checks: dict[str, Any] | None = None


class Triggers(msgspec.Struct):
    """Every migration trigger, and what no threshold can say."""

    data: list[Trigger]
    never: str


class TriggersQuery(msgspec.Struct):
    """`?live=sse` sends them again whenever one changes its state."""

    live: Literal["sse"] | None = None


class Status(msgspec.Struct):
    """The machine at a glance. `headroom` is what is left of it, of 1; `budget` is null while no
    cloud provider is configured.
    """

    version: str
    uptime_s: float
    engine: dict[str, Any]
    replication: dict[str, Any]
    kernels: Description
    headroom: float
    triggers: list[Trigger]
    budget: dict[str, Any] | None


def operations(
    *,
    readiness: Readiness,
    metrics: Metrics,
    status: Callable[[], Awaitable[Status]],
    triggers: Callable[[], list[Trigger]],
    openapi: Callable[[], bytes],
    drill: Callable[[], Any],
    is_trusted: Callable[[Call], Any],
) -> list[Operation]:
    """The route table."""
    e = _Endpoints(readiness, metrics, status, triggers, openapi, drill, is_trusted)
    return [
        Operation(
            "health.live",
            "GET",
            "/healthz",
            PUBLIC,
            "Whether the process serves",
            e.health,
            {200: Health},
            hot=True,
        ),
        Operation(
            "health.ready",
            "GET",
            "/readyz",
            PUBLIC,
            "Whether everything is in order",
            e.ready,
            {200: Ready, 503: Ready},
        ),
        Operation(
            "health.metrics",
            "GET",
            "/metrics",
            LOOPBACK,
            "Prometheus' text",
            e.metrics_text,
            {200: None},
            produces="text/plain",
        ),
        Operation(
            "openapi.get", "GET", "/openapi.json", PUBLIC, "This document", e.document, {200: None}
        ),
        Operation(
            "operator.status",
            "GET",
            "/v1/operator/status",
            OPERATOR,
            "The machine at a glance",
            e.read_status,
            {200: Status},
        ),
        Operation(
            "operator.triggers",
            "GET",
            "/v1/operator/triggers",
            OPERATOR,
            "When to move to a larger home",
            e.read_triggers,
            {200: Triggers},
            query=TriggersQuery,
        ),
        Operation(
            "operator.drill",
            "POST",
            "/v1/operator/drill",
            OPERATOR,
            "Restore the replica into a scratch directory and verify it",
            e.run_drill,
            {200: dict[str, Any]},
            writes=False,
        ),
    ]


class _Endpoints:
    def __init__(
        self,
        readiness: Readiness,
        metrics: Metrics,
        status: Callable[[], Awaitable[Status]],
        triggers: Callable[[], list[Trigger]],
        openapi: Callable[[], bytes],
        drill: Callable[[], Any],
        is_trusted: Callable[[Call], Any],
    ) -> None:
        self._readiness = readiness
        self._metrics = metrics
        self._status = status
        self._triggers = triggers
        self._openapi = openapi
        self._drill = drill
        self._is_trusted = is_trusted

    async def health(self, call: Call) -> Answer:
        return Answer(200, b'{"status":"ok"}', [(b"content-type", b"application/json")])

    async def ready(self, call: Call) -> Answer:
        checks = self._readiness.read()
        ok = all(check.ok for check in checks.values())
        shown = checks if await self._is_trusted(call) else None
        return json_answer(Ready("ready" if ok else "not ready", shown), 200 if ok else 503)

    async def metrics_text(self, call: Call) -> Answer:
        text = await asyncio.to_thread(self._metrics.text)
        return Answer(200, text, [(b"content-type", b"text/plain; version=0.0.4; charset=utf-8")])

    async def document(self, call: Call) -> Answer:
        return Answer(200, self._openapi(), [(b"content-type", b"application/json")])

    async def read_status(self, call: Call) -> Answer:
        return json_answer(await self._status())

    async def read_triggers(self, call: Call) -> Answer | Stream:
        if call.query.live is not None:
            return event_stream(self._changes())
        return json_answer(Triggers(self._triggers(), NEVER))

    async def run_drill(self, call: Call) -> Answer:
        return json_answer(await self._drill())

    async def _changes(self) -> AsyncIterator[bytes]:
        states: list[object] = []
        while True:
            triggers = self._triggers()
            now: list[object] = [trigger.state for trigger in triggers]
            if now != states:
                states = now
                yield frame(msgspec.json.encode(Triggers(triggers, NEVER)), event="triggers")
            await asyncio.sleep(_LIVE_S)
