"""Routing: its router, its ledger, and what the operator sees of them."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec

from monolite.assembly_engines import Streaming
from monolite.clock import Clock, Identifiers
from monolite.errors import DomainError
from monolite.inference import chat_endpoints
from monolite.inference.chat import Chat
from monolite.inference.routing import endpoints
from monolite.inference.routing.budget import BudgetEngine, Limits
from monolite.inference.routing.ledger import Ceiling, Ledger, Warn
from monolite.inference.routing.policy import is_known
from monolite.inference.routing.router import Router
from monolite.settings import Settings
from monolite.storage.errors import StorageError
from monolite.streams.event import NewEvent, piece
from monolite.tenancy.secret import RootSecret
from monolite.web.cursors import Cursors
from monolite.web.operation import Operation

log = logging.getLogger("monolite.inference")

SWEEP_INTERVAL_S = 10.0
NEWS_STREAM = "ai-budget"
"""A tenant's stream that hears when its day's budget comes to 80 %."""


def make_router(
    settings: Settings,
    engine: BudgetEngine,
    chat: Chat,
    secret: RootSecret,
    clock: Clock,
    identifiers: Identifiers,
    headroom: Callable[[], float],
    warn: Warn,
) -> Router:
    """The router of an installation; without a provider everything stays here.

    Raises:
        BadSetting: the provider's URL is private or without TLS, and not allowed.
    """
    ceiling = Ceiling(
        _limits(settings.cloud_tenant_daily_tokens, settings.cloud_tenant_daily_usd),
        _limits(settings.cloud_daily_tokens, settings.cloud_daily_usd),
    )
    ledger = Ledger(engine, ceiling, clock, identifiers, secret.draw("prompt-hashes"), warn)
    answers = None
    if settings.cloud_provider is not None:
        from monolite.assembly_cloud import cloud_answers

        answers = cloud_answers(settings, settings.cloud_provider, ledger)
    return Router(chat, ledger, answers, headroom)


def operations(
    router: Router, chat: Chat, cursors: Cursors, clock: Clock, identifiers: Identifiers
) -> list[Operation]:
    """Chats, and what a tenant says and sees of where they go."""
    has_cloud = router.cloud is not None
    return [
        *chat_endpoints.operations(chat, router, identifiers.new),
        *endpoints.operations(router.ledger, cursors, clock, has_cloud=has_cloud),
    ]


def key_classes(ledger: Ledger) -> Callable[[int, str], Awaitable[bool]]:
    """Whether a tenant's key may carry a `privacy`."""

    async def may(tenant_id: int, privacy: str) -> bool:
        return is_known(await ledger.policy(tenant_id), privacy)

    return may


def cloud_status(router: Router) -> dict[str, Any] | None:
    """The provider for the operator's status."""
    if router.cloud is None:
        return None
    cloud = router.cloud.cloud
    return {
        "provider": cloud.model.provider,
        "model": cloud.model.model,
        "circuit": cloud.circuit,
        "last_error": cloud.last_error,
    }


def budget_news(streams: Streaming | None) -> Warn:
    """Appends to the tenant's stream; a log line where there are no streams."""

    async def warn(tenant_id: int, kind: str, data: dict[str, Any]) -> None:
        log.warning("a tenant's cloud budget of %s comes to its end", data["day"])
        if streams is not None:
            event = NewEvent(piece(kind, msgspec.json.encode(data)))
            try:
                await streams.log.append(tenant_id, NEWS_STREAM, [event])
            except (DomainError, StorageError) as error:
                log.error("the warning of a budget was not appended: %s", error)

    return warn


def sweep(router: Router, settings: Settings) -> Callable[[], Awaitable[None]]:
    """Settles what dead servers reserved, and drops what is old; run it every SWEEP_INTERVAL_S."""
    return lambda: router.ledger.sweep(settings.cloud_audit_retention_s)


async def cloud_budget(router: Router | None) -> dict[str, Any] | None:
    """The installation's day for the operator's status; None without a provider."""
    if router is None or router.cloud is None:
        return None
    balance, limits = await router.ledger.total(), router.ledger.ceiling.installation
    return {
        "daily_cloud_tokens": limits.tokens,
        "cloud_tokens": balance.tokens,
        "cloud_tokens_reserved": balance.reserved_tokens,
        "usd": balance.micros / 1e6,
        "provider": cloud_status(router),
    }


def _limits(tokens: int, usd: float | None) -> Limits:
    return Limits(tokens, None if usd is None else int(usd * 1e6))
