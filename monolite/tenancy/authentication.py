"""From the `Authorization` header to a principal."""

from __future__ import annotations

import hmac

from monolite.clock import Clock
from monolite.errors import Unauthenticated
from monolite.tenancy import credentials
from monolite.tenancy.engine import Key, TenancyEngine
from monolite.tenancy.principal import OPERATOR_TENANT_ID, Principal
from monolite.tenancy.quotas import RateWindow, tightest
from monolite.tenancy.tokens import TokenSigner

_REMEMBERED_COUNT_MAX = 10_000
_NOT_GOOD = "The key is not known here, was revoked, or has expired."


class Authenticator:
    """Verifies credentials, and remembers the good ones until anything about keys changes."""

    def __init__(
        self,
        engine: TenancyEngine,
        pepper: bytes,
        tokens: TokenSigner,
        clock: Clock,
        requests_per_minute_max: int | None,
    ) -> None:
        self._engine = engine
        self._pepper = pepper
        self._tokens = tokens
        self._clock = clock
        self._requests_per_minute_max = requests_per_minute_max
        # Keyed by the header: Python compares bytes only where their keyed 64-bit hashes are
        # equal, so the look-up's time tells nothing of a secret.
        self._remembered: dict[bytes, Principal] = {}
        self._changes_count = 0
        self._windows: dict[str, RateWindow] = {}

    def remembered(self, authorization: bytes | None) -> Principal | None:
        """The principal of a header that was verified before and is still good."""
        principal = self._remembered.get(authorization)  # type: ignore[arg-type]  # None is absent
        if (
            principal is not None
            and principal.expires_at_ms is not None
            and principal.expires_at_ms <= self._clock.now_ms()
        ):
            return None
        return principal

    def forget(self) -> None:
        """Something about a key or tenant changed: verify everything anew."""
        self._changes_count += 1
        self._remembered.clear()

    async def authenticate(self, authorization: bytes | None) -> Principal:
        """Verify a header (RFC 6750, 2.1).

        Raises:
            Unauthenticated: there is none, or it is not good.
        """
        if authorization is None:
            raise Unauthenticated("Send the key: Authorization: Bearer mk_...")
        scheme, _, text = authorization.decode("latin-1").partition(" ")
        text = text.strip()
        if scheme.lower() != "bearer" or not text:
            raise Unauthenticated("The scheme is Bearer: Authorization: Bearer mk_...")
        changes_count = self._changes_count
        if text.startswith(credentials.PREFIX):
            principal = await self._by_key(text)
        else:
            principal = await self._by_token(text)
        if changes_count != self._changes_count:
            # What was read may be older than the change: good for this request alone.
            return principal
        if len(self._remembered) >= _REMEMBERED_COUNT_MAX:
            self._remembered.clear()
        self._remembered[authorization] = principal
        return principal

    async def _by_key(self, text: str) -> Principal:
        key_id = credentials.key_id_of(text)
        if key_id is None:
            raise Unauthenticated("The key is cut short or mistyped: its checksum is wrong.")
        key = await self._live_key(key_id)
        if not hmac.compare_digest(key.digest, credentials.digest(self._pepper, text)):
            raise Unauthenticated(_NOT_GOOD)
        name, quota = await self._tenant(key)
        return Principal(
            tenant_id=key.tenant_number,
            tenant_name=name,
            key_id=key.id,
            scopes=key.scopes,
            window=self._window(key.id, quota),
            expires_at_ms=key.expires_at,
            privacy=key.privacy,
            tier=key.tier,
        )

    async def _by_token(self, text: str) -> Principal:
        claims = self._tokens.verify(text)
        key = await self._live_key(claims.key)
        if key.tenant_number != claims.tid:
            raise Unauthenticated(_NOT_GOOD)
        name, quota = await self._tenant(key)
        expires_at_ms = claims.exp * 1000
        return Principal(
            tenant_id=key.tenant_number,
            tenant_name=name,
            key_id=key.id,
            # A key that lost nothing keeps this whole; the intersection is for keys to come.
            scopes=claims.scopes & key.scopes,
            window=self._window(key.id, quota),
            expires_at_ms=min(expires_at_ms, key.expires_at or expires_at_ms),
            is_token=True,
            subject=claims.sub,
            resource=claims.resource,
            privacy=key.privacy,
            tier=key.tier,
        )

    async def _live_key(self, key_id: str) -> Key:
        key = await self._engine.key(key_id)
        if (
            key is None
            or key.revoked_at is not None
            or (key.expires_at is not None and key.expires_at <= self._clock.now_ms())
        ):
            raise Unauthenticated(_NOT_GOOD)
        return key

    async def _tenant(self, key: Key) -> tuple[str, int | None]:
        if key.tenant_number == OPERATOR_TENANT_ID:
            return "operator", None
        tenant = await self._engine.tenant_by_number(key.tenant_number)
        if tenant is None:
            raise Unauthenticated(_NOT_GOOD)
        quota = tightest(
            self._requests_per_minute_max,
            tenant.requests_per_minute_max,
            tenant.own_requests_per_minute_max,
        )
        return tenant.name, quota

    def _window(self, key_id: str, quota: int | None) -> RateWindow:
        window = self._windows.get(key_id)
        if window is None or window.quota != quota:
            if len(self._windows) >= _REMEMBERED_COUNT_MAX:
                self._windows.clear()
            window = self._windows[key_id] = RateWindow(quota)
        return window
