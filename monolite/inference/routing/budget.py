"""Days, limits and reservations: values, and what routing needs of a database."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime
from typing import Any, Literal, NamedTuple, Protocol

import msgspec

INSTALLATION = 0
"""The tenant number under which the whole installation's days are kept."""

WARNED_SHARE = 0.8

Also = Callable[[Any, Any], Awaitable[None] | None] | None

Outcome = Literal["answered", "cut_off", "failed", "lost"]

Settle = Callable[[Outcome, int, int], Awaitable[None]]
"""Told once how a call ended, and its tokens: the prompt's, the completion's."""

CALL_S_MAX = 600.0
"""An answer that goes on for longer is cut off."""


class Limits(NamedTuple):
    """Of one day; None where there is none. Money is in millionths of a US dollar."""

    tokens: int | None
    micros: int | None


class Balance(NamedTuple):
    """What a day has seen, and what calls under way may still take."""

    tokens: int = 0
    micros: int = 0
    calls: int = 0
    reserved_tokens: int = 0
    reserved_micros: int = 0

    def left(self, limits: Limits) -> int | None:
        """Tokens that can still be reserved; None where nothing bounds them."""
        if limits.tokens is None:
            return None
        return max(0, limits.tokens - self.tokens - self.reserved_tokens)

    def has_room(self, limits: Limits, tokens: int, micros: int) -> bool:
        """Whether so much more fits."""
        return _fits(self.tokens + self.reserved_tokens + tokens, limits.tokens) and _fits(
            self.micros + self.reserved_micros + micros, limits.micros
        )

    def is_near(self, limits: Limits) -> bool:
        """Whether 80 % of a limit are spent or reserved."""
        return _is_near(self.tokens + self.reserved_tokens, limits.tokens) or _is_near(
            self.micros + self.reserved_micros, limits.micros
        )


def _fits(wanted: int, limit: int | None) -> bool:
    return limit is None or wanted <= limit


def _is_near(spent: int, limit: int | None) -> bool:
    return limit is not None and spent > 0 and spent >= limit * WARNED_SHARE


class CloudCall(msgspec.Struct, frozen=True):
    """One call to a provider: who, what class, what size, what it cost; never its text.

    `day` is the tenant's, `total_day` the installation's, as YYYY-MM-DD. While `outcome` is None
    the reservation holds, until `lease_until` (ms). `prompt_hash` is keyed with the root secret.
    """

    id: str
    at: int
    day: str
    total_day: str
    key_id: str
    subject: str | None
    privacy: str
    tier: str
    reason: str
    provider: str
    model: str
    prompt_hash: bytes
    reserved_tokens: int
    reserved_micros: int
    lease_until: int
    outcome: str | None = None
    prompt_tokens: int = 0
    completion_tokens: int = 0
    micros: int = 0


class Reserved(NamedTuple):
    """A reservation was made; whether with it the tenant's day first came to 80 %."""

    is_warning: bool


class Spent(NamedTuple):
    """There is no room, for the tenant or for the whole installation."""

    of: Literal["tenant", "installation"]


def date_of(at_ms: int) -> str:
    """The day of a moment in UTC, as `CloudCall.day` has it."""
    return datetime.fromtimestamp(at_ms / 1000, UTC).strftime("%Y-%m-%d")


class BudgetEngine(Protocol):
    """Policies, days and calls at rest."""

    async def policy(self, tenant_id: int) -> str | None:
        """A tenant's policy as JSON."""
        ...

    async def put_policy(self, tenant_id: int, policy: str, now_ms: int, also: Also = None) -> None:
        """Store it in place of what was there."""
        ...

    async def balance(self, tenant_id: int, day: str, now_ms: int) -> Balance:
        """What a day has seen, reservations whose lease is over counted as spent."""
        ...

    async def reserve(
        self, tenant_id: int, call: CloudCall, limits: Limits, total: Limits
    ) -> Reserved | Spent:
        """Store the call if both days have room for what it reserves."""
        ...

    async def settle(
        self,
        tenant_id: int,
        id: str,
        outcome: Outcome,
        prompt_tokens: int,
        completion_tokens: int,
        micros: int,
    ) -> None:
        """Put what a call took in place of what it reserved; nothing where that was done."""
        ...

    async def calls(self, tenant_id: int, before: str | None, limit: int) -> Sequence[CloudCall]:
        """A tenant's calls by id, the newest first, below `before`."""
        ...

    async def sweep(self, now_ms: int, kept_ms: int) -> None:
        """Settle as `lost` what a dead server reserved, and drop calls and days of before
        `now_ms - kept_ms`.
        """
        ...
