"""A webhook as a row of either database."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from monolite.webhooks.webhook import Definition, Secrets, Webhook

TENANT_TABLES = ("webhook_attempts", "webhooks")

COLUMNS = (
    "tenant_id, stream, name, url, types, order_by, concurrency, rate_per_s, secret,"
    " previous_secret, previous_until, state, reason, failing_since, created_at, updated_at"
)
ATTEMPT_COLUMNS = "event_id, message_id, number, at, duration_ms, status, error, response"


def types_text(definition: Definition) -> str | None:
    """The types as JSON."""
    types = definition.types
    return None if types is None else msgspec.json.encode(types).decode()


def webhook_of(row: Sequence[Any]) -> Webhook:
    """The webhook in a row of COLUMNS."""
    tenant_id, stream, name, url, types, order_by, concurrency, rate_per_s, *rest = row
    secret, previous, previous_until, state, reason, failing_since, created_at, updated_at = rest
    chosen = None if types is None else tuple(msgspec.json.decode(types))
    return Webhook(
        tenant_id,
        stream,
        name,
        Definition(url, chosen, order_by, concurrency, rate_per_s),
        Secrets(secret, previous, previous_until),
        state,
        reason,
        failing_since,
        created_at,
        updated_at,
    )
