"""What the cloud may cost: limits by day, reservations, what was spent."""

from __future__ import annotations

import hmac
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, NamedTuple
from zoneinfo import ZoneInfo

import msgspec

from monolite.clock import Clock, Identifiers
from monolite.inference.routing.budget import (
    CALL_S_MAX,
    INSTALLATION,
    Balance,
    BudgetEngine,
    CloudCall,
    Limits,
    Outcome,
    Reserved,
    Settle,
    Spent,
)
from monolite.inference.routing.policy import Policy

if TYPE_CHECKING:
    from monolite.inference.routing.provider import CloudModel

LEASE_MS = int(CALL_S_MAX * 1000) + 60_000

Warn = Callable[[int, str, dict[str, Any]], Awaitable[None]]
"""Told (tenant, type of event, its data) when a tenant's day comes to 80 %."""


class Asker(NamedTuple):
    """Who asks: what the credential carries."""

    tenant_id: int
    key_id: str
    subject: str | None
    has_cloud_scope: bool
    privacy: str | None
    tier: str | None


class Ceiling(NamedTuple):
    """The operator's limits: of every tenant, and of the whole installation."""

    tenant: Limits
    installation: Limits


class Ledger:
    """Reserves before a call and settles after it."""

    def __init__(
        self,
        engine: BudgetEngine,
        ceiling: Ceiling,
        clock: Clock,
        identifiers: Identifiers,
        hash_key: bytes,
        warn: Warn,
    ) -> None:
        self.engine = engine
        self.ceiling = ceiling
        self._clock = clock
        self._identifiers = identifiers
        self._hash_key = hash_key
        self._warn = warn

    async def policy(self, tenant_id: int) -> Policy:
        """A tenant's policy, or what holds where it has none."""
        text = await self.engine.policy(tenant_id)
        return Policy() if text is None else msgspec.json.decode(text, type=Policy)

    def limits(self, policy: Policy) -> Limits:
        """What holds for a tenant's day: the tighter of the operator's and its own."""
        usd = policy.cloud.daily_usd
        tenant = self.ceiling.tenant
        return Limits(
            _tighter(policy.daily_cloud_tokens, tenant.tokens),
            _tighter(None if usd is None else int(usd * 1e6), tenant.micros),
        )

    def day(self, policy: Policy) -> str:
        """Today, where the tenant is."""
        return self._now(policy.timezone).strftime("%Y-%m-%d")

    def resets_at_ms(self, policy: Policy) -> int:
        """When the tenant's next day begins."""
        tomorrow = self._now(policy.timezone).date() + timedelta(days=1)
        start = datetime(tomorrow.year, tomorrow.month, tomorrow.day, tzinfo=_zone(policy.timezone))
        return int(start.timestamp() * 1000)

    async def balance(self, tenant_id: int, policy: Policy) -> Balance:
        """Today, of a tenant."""
        return await self.engine.balance(tenant_id, self.day(policy), self._clock.now_ms())

    async def total(self) -> Balance:
        """Today in UTC, of the installation."""
        day = self._now("UTC").strftime("%Y-%m-%d")
        return await self.engine.balance(INSTALLATION, day, self._clock.now_ms())

    async def reserve(
        self,
        asker: Asker,
        policy: Policy,
        model: CloudModel,
        *,
        privacy: str,
        tier: str,
        reason: str,
        prompt: bytes,
        prompt_tokens: int,
        tokens_max: int,
    ) -> Settle | None:
        """Reserve a call; what settles it, or None where a budget has no room for it."""
        now_ms = self._clock.now_ms()
        limits = self.limits(policy)
        call = CloudCall(
            id=self._identifiers.new(),
            at=now_ms,
            day=self.day(policy),
            total_day=self._now("UTC").strftime("%Y-%m-%d"),
            key_id=asker.key_id,
            subject=asker.subject,
            privacy=privacy,
            tier=tier,
            reason=reason,
            provider=model.provider,
            model=model.model,
            prompt_hash=hmac.digest(self._hash_key, prompt, "sha256"),
            reserved_tokens=prompt_tokens + tokens_max,
            reserved_micros=model.micros(prompt_tokens, tokens_max),
            lease_until=now_ms + LEASE_MS,
        )
        made: Reserved | Spent = await self.engine.reserve(
            asker.tenant_id, call, limits, self.ceiling.installation
        )
        if isinstance(made, Spent):
            return None

        async def settle(outcome: Outcome, prompt_tokens: int, completion_tokens: int) -> None:
            micros = model.micros(prompt_tokens, completion_tokens)
            await self.engine.settle(
                asker.tenant_id, call.id, outcome, prompt_tokens, completion_tokens, micros
            )

        if made.is_warning:
            limited = {"daily_cloud_tokens": limits.tokens, "daily_micro_usd": limits.micros}
            data = {"day": call.day, "share": 0.8, **limited}
            await self._warn(asker.tenant_id, "ai.budget_warning", data)
        return settle

    async def sweep(self, kept_s: float) -> None:
        """Settle what dead servers reserved, and drop audit rows older than `kept_s`."""
        await self.engine.sweep(self._clock.now_ms(), int(kept_s * 1000))

    def _now(self, timezone: str) -> datetime:
        return datetime.fromtimestamp(self._clock.now_ms() / 1000, _zone(timezone))


def _zone(name: str) -> Any:
    return UTC if name == "UTC" else ZoneInfo(name)


def _tighter(own: int | None, operators: int | None) -> int | None:
    if own is None or operators is None:
        return operators if own is None else own
    return min(own, operators)
