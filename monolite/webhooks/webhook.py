"""A webhook, and what became of its messages."""

from __future__ import annotations

import hashlib
from base64 import b32encode
from typing import NamedTuple

GROUP_PREFIX = "webhook:"
CONCURRENCY = 16

ENABLED, DISABLED = "enabled", "disabled"


class Definition(NamedTuple):
    """What a tenant says of a webhook.

    `types` are the types to deliver, all where it is None; one that ends in `.*` stands for all
    that begin so. `order_by` is a place in the data ($.customer.id) whose equal values are
    delivered in order, one after the other.
    """

    url: str
    types: tuple[str, ...] | None = None
    order_by: str | None = None
    concurrency: int = CONCURRENCY
    rate_per_s: int | None = None


class Secrets(NamedTuple):
    """Sealed secrets: the one in force, and the one before while receivers change over."""

    current: bytes
    previous: bytes | None = None
    previous_until: int | None = None


class Webhook(NamedTuple):
    """A webhook of a stream. `failing_since` is when it last began to fail, None where it works;
    `reason` says why it is disabled. Times are milliseconds.
    """

    tenant_id: int
    stream: str
    name: str
    definition: Definition
    secrets: Secrets
    state: str
    reason: str | None
    failing_since: int | None
    created_at: int
    updated_at: int

    @property
    def key(self) -> tuple[int, str, str]:
        """What it is found by."""
        return self.tenant_id, self.stream, self.name

    @property
    def group(self) -> str:
        """The consumer group that is its own."""
        return GROUP_PREFIX + self.name

    def wants(self, kind: str | None) -> bool:
        """Whether events of a type are delivered to it."""
        types = self.definition.types
        if types is None:
            return True
        return any(
            kind == one or (one.endswith(".*") and (kind or "").startswith(one[:-1]))
            for one in types
        )


class Attempt(NamedTuple):
    """One request: `status` is None where no answer came, and `error` says why; `response` is the
    beginning of the answer's body. `number` counts the attempts of one event.
    """

    id: int
    event_id: str | None
    message_id: str
    number: int
    at: int
    duration_ms: int
    status: int | None
    error: str | None
    response: str | None

    @property
    def succeeded(self) -> bool:
        """Whether the receiver took it."""
        return self.status is not None and 200 <= self.status < 300


def message_id(stream: str, event_id: str) -> str:
    """The `webhook-id` of an event, the same for each attempt and each engine."""
    digest = hashlib.sha256(f"{stream}\0{event_id}".encode()).digest()
    return "msg_" + b32encode(digest[:15]).decode().lower()
