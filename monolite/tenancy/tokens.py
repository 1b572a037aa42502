"""Short-lived signed tokens: JWTs (RFC 7519, HS256) minted by a key for a phone or a browser.

    {"iss":"monolite","tid":12,"key":"…","sub":"user-9","scp":"sync:read","res":"sync/doc-7",
     "iat":…,"exp":…,"jti":"…"}      kid: the signing period

The signing key of a period of thirty days is drawn from the root secret, so it rotates by `kid`
with nothing to store; the period before is still accepted, since a token lives a day at most.
"""

from __future__ import annotations

from typing import Any

import msgspec

from monolite.clock import Clock, Identifiers
from monolite.errors import Unauthenticated
from monolite.tenancy.secret import RootSecret

TTL_S_MAX = 24 * 3600
_PERIOD_S = 30 * 24 * 3600
_ALGORITHM = "HS256"
_ISSUER = "monolite"


class Claims(msgspec.Struct, frozen=True):
    """What a token states. Times are seconds since 1970, as RFC 7519 has them."""

    iss: str
    tid: int
    key: str
    scp: str
    iat: int
    exp: int
    jti: str
    sub: str | None = None
    res: str | None = None

    @property
    def scopes(self) -> frozenset[str]:
        """Its scopes as a set."""
        return frozenset(self.scp.split())

    @property
    def resource(self) -> tuple[str, ...] | None:
        """Its narrowing as path segments."""
        return tuple(self.res.split("/")) if self.res is not None else None


class TokenSigner:
    """Mints and verifies tokens with the keys of one root secret."""

    def __init__(self, secret: RootSecret, clock: Clock, identifiers: Identifiers) -> None:
        self._secret = secret
        self._clock = clock
        self._identifiers = identifiers

    def mint(
        self,
        *,
        tenant_id: int,
        key_id: str,
        scopes: frozenset[str],
        subject: str | None,
        resource: str | None,
        expires_at_s: int,
    ) -> str:
        """A signed token that is good until `expires_at_s`."""
        import jwt

        now_s = self._clock.now_ms() // 1000
        claims = Claims(
            iss=_ISSUER,
            tid=tenant_id,
            key=key_id,
            scp=" ".join(sorted(scopes)),
            iat=now_s,
            exp=expires_at_s,
            jti=self._identifiers.new(),
            sub=subject,
            res=resource,
        )
        stated = {k: v for k, v in msgspec.to_builtins(claims).items() if v is not None}
        period = now_s // _PERIOD_S
        return jwt.encode(
            stated, self._key(period), algorithm=_ALGORITHM, headers={"kid": str(period)}
        )

    def verify(self, token: str) -> Claims:
        """The claims of a token that was signed here and has not expired.

        Raises:
            Unauthenticated: anything else.
        """
        import jwt

        now_s = self._clock.now_ms() // 1000
        try:
            period = int(jwt.get_unverified_header(token).get("kid", ""))
            if period not in (now_s // _PERIOD_S, now_s // _PERIOD_S - 1):
                raise Unauthenticated("The token's signing key is no longer in use.")
            stated: dict[str, Any] = jwt.decode(
                token,
                self._key(period),
                algorithms=[_ALGORITHM],
                issuer=_ISSUER,
                # The clock is passed in: expiry is checked below, against it.
                options={"verify_exp": False, "verify_iat": False, "require": ["exp", "iat"]},
            )
            claims = msgspec.convert(stated, Claims)
        except (jwt.PyJWTError, msgspec.ValidationError, ValueError):
            raise Unauthenticated("The token is not one of this server's.") from None
        if claims.exp <= now_s:
            raise Unauthenticated("The token has expired; mint a new one.")
        return claims

    def _key(self, period: int) -> bytes:
        return self._secret.draw(f"token-signing:{period}")
