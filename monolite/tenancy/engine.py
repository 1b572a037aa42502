"""What the rules of tenancy need of a database."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Protocol

import msgspec


class Tenant(msgspec.Struct, frozen=True):
    """A tenant's row. `number` is never used again, `id` is public; times are milliseconds."""

    number: int
    id: str
    name: str
    state: str
    requests_per_minute_max: int | None
    own_requests_per_minute_max: int | None
    created_at: int


class Key(msgspec.Struct, frozen=True):
    """A key's row; `digest` is what its secret is compared with."""

    id: str
    tenant_number: int
    name: str
    digest: bytes
    scopes: frozenset[str]
    privacy: str | None
    tier: str | None
    created_at: int
    expires_at: int | None
    revoked_at: int | None


class Usage(msgspec.Struct, frozen=True):
    """What a tenant takes up: documents, and the relay's documents."""

    documents: int
    bytes: int
    sync_documents: int = 0
    sync_bytes: int = 0


Also = Callable[[Any, Any], Awaitable[None] | None] | None
"""What else to do in the same transaction, given the engine's handle and the verb's result. What it
returns is awaited there, over an engine that awaits; over SQLite it returns None.
"""


class TenancyEngine(Protocol):
    """Tenants and keys at rest. Names are unique among tenants that are not being deleted."""

    async def create_tenant(self, tenant: Tenant, key: Key, also: Also = None) -> Tenant:
        """Store both, with the number given here; Conflict where the name is taken."""
        ...

    async def tenant(self, name: str) -> Tenant | None:
        """The active tenant of that name."""
        ...

    async def tenant_by_number(self, number: int) -> Tenant | None:
        """The active tenant of that number."""
        ...

    async def tenants(self, after: str | None, limit: int) -> Sequence[Tenant]:
        """Active tenants by name, beyond `after`."""
        ...

    async def usage(self, tenant_numbers: Sequence[int]) -> dict[int, Usage]:
        """What each takes up."""
        ...

    async def limit_tenant(
        self, number: int, *, operator: bool, requests_per_minute_max: int | None
    ) -> None:
        """Set the operator's limit for a tenant, or the tenant's own."""
        ...

    async def begin_delete(self, number: int) -> None:
        """Hide the tenant and end its keys, freeing its name."""
        ...

    async def continue_delete(self, number: int, row_count_max: int) -> bool:
        """Remove a batch of its rows; True when nothing is left, the tenant included."""
        ...

    async def unfinished(self) -> Sequence[int]:
        """Tenants whose deletion or import was cut short."""
        ...

    async def activate(self, number: int, key: Key) -> Tenant:
        """Show an imported tenant, with its first key."""
        ...

    async def create_key(self, key: Key, also: Also = None) -> None:
        """Store a key."""
        ...

    async def key(self, key_id: str) -> Key | None:
        """A key, revoked or not."""
        ...

    async def keys(self, tenant_number: int, after: str | None, limit: int) -> Sequence[Key]:
        """A tenant's keys that are not revoked, by id."""
        ...

    async def revoke_key(self, tenant_number: int, key_id: str, now_ms: int) -> bool:
        """End a key; False where the tenant has no such live key."""
        ...
