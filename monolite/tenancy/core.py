"""The rules of tenants, keys and tokens."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from monolite.clock import Clock, Identifiers
from monolite.errors import FieldError, Forbidden, Invalid, NotFound
from monolite.names import NAME_PATTERN, is_name
from monolite.tenancy import credentials, scopes
from monolite.tenancy.engine import Also, Key, TenancyEngine, Tenant, Usage
from monolite.tenancy.principal import OPERATOR_TENANT_ID, Principal
from monolite.tenancy.tokens import TTL_S_MAX, TokenSigner

_DELETE_ROW_COUNT = 2000
_NUMBER_UNSET = -1

ACTIVE, IMPORTING, DELETING = "active", "importing", "deleting"


class Tenancy:
    """Tenants, keys and tokens of one installation.

    `changed` is called after every change of a key or tenant, `key_ended` and `tenant_ended` when
    what they opened must close.
    """

    def __init__(
        self,
        engine: TenancyEngine,
        tokens: TokenSigner,
        pepper: bytes,
        clock: Clock,
        identifiers: Identifiers,
        *,
        changed: Callable[[], None],
        key_ended: Callable[[str], None],
        tenant_ended: Callable[[int], None],
        erase: Callable[[int], Awaitable[None]] | None = None,
    ) -> None:
        self._engine = engine
        self._tokens = tokens
        self._pepper = pepper
        self._clock = clock
        self._identifiers = identifiers
        self._changed = changed
        self._key_ended = key_ended
        self._tenant_ended = tenant_ended
        self._erase = erase

    async def create_tenant(
        self,
        name: str,
        *,
        state: str = ACTIVE,
        created_at: int | None = None,
        also: Callable[[str], Also] = lambda _: None,
    ) -> tuple[Tenant, str]:
        """A new tenant and its first key's text, which carries every tenant scope.

        `created_at` (ms) is an imported tenant's own, else now. `also` makes the companion of the
        write from the key's text. Raises Conflict where the name
        is taken.
        """
        if not is_name(name):
            why = f"names match {NAME_PATTERN}"
            raise Invalid(f"#/name: {why}", [FieldError("#/name", why)])
        tenant = Tenant(
            number=_NUMBER_UNSET,
            id=self._identifiers.new(),
            name=name,
            state=state,
            requests_per_minute_max=None,
            own_requests_per_minute_max=None,
            created_at=self._clock.now_ms() if created_at is None else created_at,
        )
        key, text = self._new_key(_NUMBER_UNSET, "first", frozenset(scopes.TENANT_SCOPES))
        stored = await self._engine.create_tenant(tenant, key, also(text))
        self._changed()
        return stored, text

    async def tenant(self, name: str) -> Tenant:
        """The active tenant of that name; NotFound otherwise."""
        tenant = await self._engine.tenant(name) if is_name(name) else None
        if tenant is None:
            raise NotFound("There is no tenant of that name.")
        return tenant

    async def tenant_of(self, principal: Principal) -> Tenant:
        """The caller's own tenant."""
        tenant = await self._engine.tenant_by_number(principal.tenant_id)
        if tenant is None:
            raise NotFound("The operator's key has no tenant.")
        return tenant

    async def tenants(self, after: str | None, limit: int) -> Sequence[Tenant]:
        """Tenants by name, beyond `after`."""
        return await self._engine.tenants(after, limit)

    async def usage(self, tenants: Sequence[Tenant]) -> dict[int, Usage]:
        """What each takes up, by number."""
        return await self._engine.usage([tenant.number for tenant in tenants])

    async def limit(
        self, tenant: Tenant, *, operator: bool, requests_per_minute_max: int | None
    ) -> Tenant:
        """Set the operator's or the tenant's own request limit; the tighter of the two holds."""
        await self._engine.limit_tenant(
            tenant.number, operator=operator, requests_per_minute_max=requests_per_minute_max
        )
        self._changed()
        return await self.tenant(tenant.name)

    async def delete_tenant(self, name: str) -> None:
        """End a tenant's keys and connections at once, then remove all its rows in batches."""
        tenant = await self.tenant(name)
        await self._engine.begin_delete(tenant.number)
        self._changed()
        self._tenant_ended(tenant.number)
        await self._remove(tenant.number)

    async def recover(self) -> int:
        """Finish deletions and undo imports that a crash cut short; returns how many."""
        unfinished = await self._engine.unfinished()
        for number in unfinished:
            await self._remove(number)
        return len(unfinished)

    async def abandon(self, tenant: Tenant) -> None:
        """Remove a tenant whose import failed."""
        await self._engine.begin_delete(tenant.number)
        await self._remove(tenant.number)

    async def activate(self, tenant: Tenant) -> tuple[Tenant, str]:
        """Show an imported tenant; returns it and its first key's text."""
        key, text = self._new_key(tenant.number, "first", frozenset(scopes.TENANT_SCOPES))
        active = await self._engine.activate(tenant.number, key)
        self._changed()
        return active, text

    async def create_key(
        self,
        by: Principal,
        tenant_number: int,
        *,
        name: str,
        wanted: Sequence[str],
        expires_at: int | None = None,
        privacy: str | None = None,
        tier: str | None = None,
        also: Callable[[Key, str], Also] = lambda *_: None,
    ) -> tuple[Key, str]:
        """A key of a tenant, with scopes that its maker has; returns it and its text.

        The operator makes any tenant scope for a tenant, and only `operator` for itself.
        """
        if by.is_token:
            raise Forbidden("A token can't make keys or tokens; use the key itself.")
        chosen = scopes.checked(wanted)
        scopes.require_subset(chosen, grantable(by, tenant_number))
        if expires_at is not None and expires_at <= self._clock.now_ms():
            why = "lies in the past"
            raise Invalid(f"#/expires_at: {why}", [FieldError("#/expires_at", why)])
        key, text = self._new_key(
            tenant_number, name, chosen, expires_at=expires_at, privacy=privacy, tier=tier
        )
        await self._engine.create_key(key, also(key, text))
        self._changed()
        return key, text

    async def keys(self, tenant_number: int, after: str | None, limit: int) -> Sequence[Key]:
        """A tenant's live keys, by id."""
        return await self._engine.keys(tenant_number, after, limit)

    async def revoke_key(self, tenant_number: int, key_id: str) -> None:
        """End a key, its tokens and what they have open; NotFound where there is none."""
        if not await self._engine.revoke_key(tenant_number, key_id, self._clock.now_ms()):
            raise NotFound("There is no such key.")
        self._changed()
        self._key_ended(key_id)

    def mint_token(
        self,
        by: Principal,
        *,
        wanted: Sequence[str],
        subject: str | None,
        resource: str | None,
        ttl_s: int,
    ) -> tuple[str, int]:
        """A token with a subset of the key's scopes; returns it and when it ends (ms)."""
        if by.is_token:
            raise Forbidden("A token can't make keys or tokens; use the key itself.")
        chosen = scopes.checked(wanted)
        scopes.require_subset(chosen, by.scopes)
        expires_at_s = self._clock.now_ms() // 1000 + min(ttl_s, TTL_S_MAX)
        if by.expires_at_ms is not None:
            expires_at_s = min(expires_at_s, by.expires_at_ms // 1000)
        token = self._tokens.mint(
            tenant_id=by.tenant_id,
            key_id=by.key_id,
            scopes=chosen,
            subject=subject,
            resource=resource,
            expires_at_s=expires_at_s,
        )
        return token, expires_at_s * 1000

    async def _remove(self, number: int) -> None:
        if self._erase is not None:
            # What lies in another store goes first: the tenant's row is what remembers it.
            await self._erase(number)
        while not await self._engine.continue_delete(number, _DELETE_ROW_COUNT):  # noqa: ASYNC110
            # Others' writes get their turn between two batches.
            await asyncio.sleep(0)

    def operator_key(self) -> tuple[Key, str]:
        """A new operator's key, not yet stored."""
        return self._new_key(OPERATOR_TENANT_ID, "operator", frozenset({scopes.OPERATOR}))

    def _new_key(
        self,
        tenant_number: int,
        name: str,
        granted: frozenset[str],
        **fields: Any,
    ) -> tuple[Key, str]:
        key_id, text = credentials.new_key()
        key = Key(
            id=key_id,
            tenant_number=tenant_number,
            name=name,
            digest=credentials.digest(self._pepper, text),
            scopes=granted,
            privacy=fields.get("privacy"),
            tier=fields.get("tier"),
            created_at=self._clock.now_ms(),
            expires_at=fields.get("expires_at"),
            revoked_at=None,
        )
        return key, text


def grantable(by: Principal, tenant_number: int) -> frozenset[str]:
    """The scopes that a caller may put into a key of a tenant."""
    if by.is_operator and tenant_number != OPERATOR_TENANT_ID:
        return frozenset(scopes.TENANT_SCOPES)
    return by.scopes
