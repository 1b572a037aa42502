"""Operator, tenants, keys and tokens over HTTP."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Annotated, Any

import msgspec

from monolite.errors import FieldError, Invalid
from monolite.names import NAME_PATTERN
from monolite.tenancy import scopes
from monolite.tenancy.core import Tenancy
from monolite.tenancy.engine import Key, Tenant, Usage
from monolite.tenancy.portability import Portability
from monolite.tenancy.tokens import TTL_S_MAX
from monolite.web.answer import Answer, Stream, json_answer, page_answer
from monolite.web.call import Call
from monolite.web.cursors import Cursors
from monolite.web.operation import Chunks, Operation
from monolite.web.pages import Page, PageQuery
from monolite.web.timestamps import parse_rfc3339, rfc3339

NDJSON = "application/x-ndjson"
_KEY_ID = r"[0-9A-Za-z]{16}"
_IMPORT_BYTES_MAX = 64 << 30

Name = Annotated[str, msgspec.Meta(pattern=f"^{NAME_PATTERN}$", description="A resource's name.")]
Label = Annotated[str, msgspec.Meta(min_length=1, max_length=128)]
Quota = Annotated[int, msgspec.Meta(ge=1, le=1_000_000_000)] | None


class NewTenant(msgspec.Struct, forbid_unknown_fields=True):
    """The tenant to make."""

    name: Name


class TenantMade(msgspec.Struct):
    """A new tenant and its first key, shown this once; null in an idempotent replay."""

    id: str
    name: str
    key: str | None


class TenantShown(msgspec.Struct):
    """A tenant, its limits and what it takes up."""

    id: str
    name: str
    created_at: str
    requests_per_minute_max: int | None
    own_requests_per_minute_max: int | None
    documents: int
    bytes: int
    sync_documents: int
    sync_bytes: int


class Limits(msgspec.Struct, forbid_unknown_fields=True):
    """Limits of a tenant; null lifts one."""

    requests_per_minute_max: Quota


class NewKey(msgspec.Struct, forbid_unknown_fields=True):
    """The key to make; its scopes are a subset of its maker's."""

    name: Label
    scopes: Annotated[list[str], msgspec.Meta(min_length=1, max_length=32)]
    expires_at: str | None = None
    privacy: Annotated[str, msgspec.Meta(pattern=f"^{NAME_PATTERN}$")] | None = None
    tier: Annotated[str, msgspec.Meta(pattern="^(basic|standard|advanced)$")] | None = None


class KeyShown(msgspec.Struct):
    """A key without its secret."""

    id: str
    name: str
    scopes: list[str]
    created_at: str
    expires_at: str | None
    privacy: str | None
    tier: str | None


class KeyMade(KeyShown):
    """A new key with its text, shown this once; null in an idempotent replay."""

    key: str | None


class NewToken(msgspec.Struct, forbid_unknown_fields=True):
    """The token to mint; `resource` narrows it by whole path segments."""

    scopes: Annotated[list[str], msgspec.Meta(min_length=1, max_length=32)]
    ttl_s: Annotated[int, msgspec.Meta(ge=1, le=TTL_S_MAX)]
    subject: Label | None = None
    resource: (
        Annotated[
            str,
            msgspec.Meta(
                pattern=r"^[A-Za-z0-9][A-Za-z0-9._:-]*(/[A-Za-z0-9][A-Za-z0-9._:-]*)*$",
                max_length=1024,
            ),
        ]
        | None
    ) = None


class TokenMade(msgspec.Struct):
    """A signed token and when it ends."""

    token: str
    expires_at: str


def operations(
    tenancy: Tenancy,
    portability: Portability,
    cursors: Cursors,
    is_privacy: Callable[[int, str], Awaitable[bool]],
) -> list[Operation]:
    """The route table. `is_privacy` says whether a tenant's key may carry a `privacy`."""
    e = _Endpoints(tenancy, portability, cursors, is_privacy)
    tenant, key = "/v1/tenants/{name}", {"id": _KEY_ID}
    return [
        Operation(
            "tenants.create",
            "POST",
            "/v1/tenants",
            scopes.OPERATOR,
            "Make a tenant",
            e.create,
            {201: TenantMade},
            body=NewTenant,
            creates=True,
            example={"name": "acme"},
        ),
        Operation(
            "tenants.list",
            "GET",
            "/v1/tenants",
            scopes.OPERATOR,
            "List tenants with their usage",
            e.list,
            {200: Page[TenantShown]},
            query=PageQuery,
        ),
        Operation(
            "tenants.get", "GET", tenant, scopes.OPERATOR, "One tenant", e.get, {200: TenantShown}
        ),
        Operation(
            "tenants.limit",
            "PATCH",
            tenant,
            scopes.OPERATOR,
            "Set a tenant's limits",
            e.limit,
            {200: TenantShown},
            body=Limits,
            example={"requests_per_minute_max": 6000},
            consumes=("application/json", "application/merge-patch+json"),
        ),
        Operation(
            "tenants.delete",
            "DELETE",
            tenant,
            scopes.OPERATOR,
            "Remove a tenant and all its data",
            e.delete,
            {204: None},
        ),
        Operation(
            "tenants.export",
            "GET",
            f"{tenant}/export",
            scopes.OPERATOR,
            "All of a tenant's data as NDJSON",
            e.export,
            {200: None},
            produces=NDJSON,
        ),
        Operation(
            "tenants.import",
            "POST",
            f"{tenant}/import",
            scopes.OPERATOR,
            "Make a tenant from an export",
            e.import_,
            {201: TenantMade},
            body=Chunks,
            consumes=(NDJSON,),
            body_bytes_max=_IMPORT_BYTES_MAX,
            description="The tenant must not exist. It appears when the whole stream has been "
            "verified, and not at all otherwise. Keys are not exported: the answer has a new one.",
        ),
        Operation(
            "tenants.create_key",
            "POST",
            f"{tenant}/keys",
            scopes.OPERATOR,
            "Make a key for a tenant",
            e.create_tenant_key,
            {201: KeyMade},
            body=NewKey,
            creates=True,
            example={"name": "ci", "scopes": ["documents:read"]},
        ),
        Operation(
            "tenants.list_keys",
            "GET",
            f"{tenant}/keys",
            scopes.OPERATOR,
            "A tenant's keys",
            e.list_tenant_keys,
            {200: Page[KeyShown]},
            query=PageQuery,
        ),
        Operation(
            "tenants.revoke_key",
            "DELETE",
            f"{tenant}/keys/{{id}}",
            scopes.OPERATOR,
            "End a tenant's key",
            e.revoke_tenant_key,
            {204: None},
            names=key,
        ),
        Operation(
            "keys.create",
            "POST",
            "/v1/keys",
            scopes.ADMIN,
            "Make a key",
            e.create_key,
            {201: KeyMade},
            body=NewKey,
            creates=True,
            example={"name": "web", "scopes": ["documents:read", "documents:write"]},
        ),
        Operation(
            "keys.list",
            "GET",
            "/v1/keys",
            scopes.ADMIN,
            "List the tenant's keys",
            e.list_keys,
            {200: Page[KeyShown]},
            query=PageQuery,
        ),
        Operation(
            "keys.revoke",
            "DELETE",
            "/v1/keys/{id}",
            scopes.ADMIN,
            "End a key, its tokens and what they have open",
            e.revoke_key,
            {204: None},
            names=key,
        ),
        Operation(
            "tokens.mint",
            "POST",
            "/v1/tokens",
            scopes.ANY,
            "Mint a short-lived token",
            e.mint,
            {201: TokenMade},
            body=NewToken,
            example={"scopes": ["sync:read"], "resource": "sync/doc-7", "ttl_s": 3600},
            description="Nothing is stored, so an Idempotency-Key has nothing to replay here.",
        ),
        Operation(
            "tenants.get_settings",
            "GET",
            "/v1/settings",
            scopes.ADMIN,
            "The limits of the caller's tenant",
            e.settings,
            {200: TenantShown},
        ),
        Operation(
            "tenants.tighten",
            "PUT",
            "/v1/settings",
            scopes.ADMIN,
            "Tighten the caller's own limits",
            e.tighten,
            {200: TenantShown},
            body=Limits,
            example={"requests_per_minute_max": 600},
            description="The operator's limit holds where it is lower.",
        ),
    ]


class _Endpoints:
    def __init__(
        self,
        tenancy: Tenancy,
        portability: Portability,
        cursors: Cursors,
        is_privacy: Callable[[int, str], Awaitable[bool]],
    ) -> None:
        self._tenancy = tenancy
        self._portability = portability
        self._cursors = cursors
        self._is_privacy = is_privacy

    async def create(self, call: Call) -> Answer:
        tenant, key = await self._tenancy.create_tenant(
            call.body.name, also=lambda text: call.companion(lambda made: _made(made, text))
        )
        return _made(tenant, key)

    async def list(self, call: Call) -> Answer:
        after = self._cursors.after(call, call.query.cursor)
        limit = call.query.limit
        found = await self._tenancy.tenants(after, limit + 1)
        usage = await self._tenancy.usage(found[:limit])
        shown = [_shown(tenant, usage[tenant.number]) for tenant in found[:limit]]
        return page_answer(shown, self._next(call, found, limit, lambda t: t.name))

    async def get(self, call: Call) -> Answer:
        return await self._show(await self._tenancy.tenant(call.params["name"]))

    async def limit(self, call: Call) -> Answer:
        tenant = await self._tenancy.tenant(call.params["name"])
        maximum = call.body.requests_per_minute_max
        return await self._show(
            await self._tenancy.limit(tenant, operator=True, requests_per_minute_max=maximum)
        )

    async def delete(self, call: Call) -> Answer:
        await self._tenancy.delete_tenant(call.params["name"])
        return Answer(204)

    async def export(self, call: Call) -> Stream:
        tenant = await self._tenancy.tenant(call.params["name"])
        return Stream(
            200,
            self._portability.export(tenant),
            [
                (b"content-type", NDJSON.encode()),
                (
                    b"content-disposition",
                    b'attachment; filename="%s.ndjson"' % tenant.name.encode(),
                ),
            ],
        )

    async def import_(self, call: Call) -> Answer:
        lines: AsyncIterator[bytes] = call.chunks()
        tenant, key = await self._portability.import_(call.params["name"], lines)
        return _made(tenant, key)

    async def create_tenant_key(self, call: Call) -> Answer:
        tenant = await self._tenancy.tenant(call.params["name"])
        return await self._create_key(call, tenant.number)

    async def list_tenant_keys(self, call: Call) -> Answer:
        tenant = await self._tenancy.tenant(call.params["name"])
        return await self._list_keys(call, tenant.number)

    async def revoke_tenant_key(self, call: Call) -> Answer:
        tenant = await self._tenancy.tenant(call.params["name"])
        await self._tenancy.revoke_key(tenant.number, call.params["id"])
        return Answer(204)

    async def create_key(self, call: Call) -> Answer:
        return await self._create_key(call, call.tenant_id)

    async def list_keys(self, call: Call) -> Answer:
        return await self._list_keys(call, call.tenant_id)

    async def revoke_key(self, call: Call) -> Answer:
        await self._tenancy.revoke_key(call.tenant_id, call.params["id"])
        return Answer(204)

    async def mint(self, call: Call) -> Answer:
        body: NewToken = call.body
        token, expires_at = self._tenancy.mint_token(
            call.principal,
            wanted=body.scopes,
            subject=body.subject,
            resource=body.resource,
            ttl_s=body.ttl_s,
        )
        return json_answer(TokenMade(token, rfc3339(expires_at)), 201)

    async def settings(self, call: Call) -> Answer:
        return await self._show(await self._tenancy.tenant_of(call.principal))

    async def tighten(self, call: Call) -> Answer:
        tenant = await self._tenancy.tenant_of(call.principal)
        maximum = call.body.requests_per_minute_max
        return await self._show(
            await self._tenancy.limit(tenant, operator=False, requests_per_minute_max=maximum)
        )

    async def _create_key(self, call: Call, tenant_number: int) -> Answer:
        body: NewKey = call.body
        if body.privacy is not None and not await self._is_privacy(tenant_number, body.privacy):
            why = (
                f"{body.privacy!r} is none of private, public and the tenant's data classes"
                " (PUT /v1/ai/policy)"
            )
            raise Invalid(f"privacy: {why}.", [FieldError("#/privacy", why)])
        key, text = await self._tenancy.create_key(
            call.principal,
            tenant_number,
            name=body.name,
            wanted=body.scopes,
            expires_at=_moment(body.expires_at),
            privacy=body.privacy,
            tier=body.tier,
            also=lambda key, text: call.companion(lambda _: _key_made(key, text)),
        )
        return _key_made(key, text)

    async def _list_keys(self, call: Call, tenant_number: int) -> Answer:
        after = self._cursors.after(call, call.query.cursor)
        limit = call.query.limit
        found = await self._tenancy.keys(tenant_number, after, limit + 1)
        shown = [KeyShown(**_key_fields(key)) for key in found[:limit]]
        return page_answer(shown, self._next(call, found, limit, lambda key: key.id))

    async def _show(self, tenant: Tenant) -> Answer:
        usage = await self._tenancy.usage([tenant])
        return json_answer(_shown(tenant, usage[tenant.number]))

    def _next(
        self, call: Call, found: Any, limit: int, position: Callable[[Any], str]
    ) -> str | None:
        if len(found) <= limit:
            return None
        return self._cursors.encode(call, [position(found[limit - 1])])


def _made(tenant: Tenant, key: str) -> Answer:
    answer = json_answer(TenantMade(tenant.id, tenant.name, key), 201, [_location(tenant)])
    answer.stored_body = msgspec.json.encode(TenantMade(tenant.id, tenant.name, None))
    return answer


def _location(tenant: Tenant) -> tuple[bytes, bytes]:
    return (b"location", f"/v1/tenants/{tenant.name}".encode())


def _shown(tenant: Tenant, usage: Usage) -> TenantShown:
    return TenantShown(
        id=tenant.id,
        name=tenant.name,
        created_at=rfc3339(tenant.created_at),
        requests_per_minute_max=tenant.requests_per_minute_max,
        own_requests_per_minute_max=tenant.own_requests_per_minute_max,
        documents=usage.documents,
        bytes=usage.bytes,
        sync_documents=usage.sync_documents,
        sync_bytes=usage.sync_bytes,
    )


def _key_fields(key: Key) -> dict[str, Any]:
    return {
        "id": key.id,
        "name": key.name,
        "scopes": sorted(key.scopes),
        "created_at": rfc3339(key.created_at),
        "expires_at": None if key.expires_at is None else rfc3339(key.expires_at),
        "privacy": key.privacy,
        "tier": key.tier,
    }


def _key_made(key: Key, text: str) -> Answer:
    fields = _key_fields(key)
    answer = json_answer(KeyMade(key=text, **fields), 201)
    answer.stored_body = msgspec.json.encode(KeyMade(key=None, **fields))
    return answer


def _moment(text: str | None) -> int | None:
    if text is None:
        return None
    try:
        return parse_rfc3339(text)
    except (ValueError, OverflowError):
        why = "not an RFC 3339 time, such as 2027-01-31T12:00:00Z"
        raise Invalid(f"#/expires_at: {why}", [FieldError("#/expires_at", why)]) from None
