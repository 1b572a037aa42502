"""Who a request comes from, once its credential is known to be good."""

from __future__ import annotations

from monolite.errors import Forbidden
from monolite.tenancy.quotas import RateWindow
from monolite.tenancy.scopes import ANY

OPERATOR_TENANT_ID = 0
"""The tenant number of the operator's own keys; no tenant has it."""


class Principal:
    """A key, or a token that a key minted.

    `identity` tells apart what must not share an idempotent replay: the key, and for a token also
    its subject and resource. `resource` is the token's narrowing, by whole path segments, or None.
    `expires_at_ms` is None for a key that stays. `window` counts the key's requests, its tokens'
    among them.
    """

    __slots__ = (
        "expires_at_ms",
        "identity",
        "is_token",
        "key_id",
        "privacy",
        "resource",
        "scopes",
        "subject",
        "tenant_id",
        "tenant_name",
        "tier",
        "window",
    )

    def __init__(
        self,
        *,
        tenant_id: int,
        tenant_name: str,
        key_id: str,
        scopes: frozenset[str],
        window: RateWindow,
        expires_at_ms: int | None = None,
        is_token: bool = False,
        subject: str | None = None,
        resource: tuple[str, ...] | None = None,
        privacy: str | None = None,
        tier: str | None = None,
    ) -> None:
        self.tenant_id = tenant_id
        self.tenant_name = tenant_name
        self.key_id = key_id
        self.scopes = scopes
        self.window = window
        self.expires_at_ms = expires_at_ms
        self.is_token = is_token
        self.subject = subject
        self.resource = resource
        self.privacy = privacy
        self.tier = tier
        self.identity = (
            key_id if not is_token else f"{key_id}\x00{subject or ''}\x00{'/'.join(resource or ())}"
        )

    @property
    def is_operator(self) -> bool:
        """Whether it is the machine's, not a tenant's."""
        return self.tenant_id == OPERATOR_TENANT_ID

    def require(self, scope: str, path: str) -> None:
        """Raise Forbidden unless it carries `scope` and `path` lies in its resource."""
        if scope not in self.scopes and scope != ANY:
            raise Forbidden(f"This needs the scope {scope}, which the credential does not have.")
        if self.resource is not None and not covers(self.resource, path):
            raise Forbidden(
                f"The token is narrowed to {'/'.join(self.resource)}, and this lies outside it.",
                code="outside_resource",
            )


def covers(resource: tuple[str, ...], path: str) -> bool:
    """Whether a `/v1/...` path lies in a resource: `sync/doc-7` covers no part of `sync/doc-70`."""
    segments = tuple(path.removeprefix("/v1/").split("/"))
    return segments[: len(resource)] == resource
