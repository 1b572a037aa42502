"""The root secret of an installation, and the keys drawn from it.

It lies outside the database and so outside the replica: whoever takes those has no key's pepper
and can sign no token. Keys are drawn with HMAC-SHA-256 over a label, the expand step of HKDF
(RFC 5869, 2.3) for outputs of one block.
"""

from __future__ import annotations

import hmac
import secrets
from typing import Final

SECRET_BYTES: Final = 32
_PREFIX = "mrs_"


class RootSecret:
    """32 random bytes; `repr` never shows them."""

    __slots__ = ("_raw",)

    def __init__(self, raw: bytes) -> None:
        if len(raw) != SECRET_BYTES:
            raise ValueError(f"a root secret is {SECRET_BYTES} bytes")
        self._raw = raw

    def __repr__(self) -> str:
        return "RootSecret(redacted)"

    @classmethod
    def new(cls) -> RootSecret:
        """A fresh one."""
        return cls(secrets.token_bytes(SECRET_BYTES))

    @classmethod
    def parse(cls, text: str) -> RootSecret:
        """From the text that `monolite secret export` prints.

        Raises:
            ValueError: it is not such a text.
        """
        text = text.strip()
        if not text.startswith(_PREFIX):
            raise ValueError(f"a root secret starts with {_PREFIX}")
        try:
            return cls(bytes.fromhex(text[len(_PREFIX) :]))
        except ValueError:
            raise ValueError(
                f"a root secret is {_PREFIX} and {2 * SECRET_BYTES} hexadecimal digits"
            ) from None

    def text(self) -> str:
        """The form to keep in a password manager."""
        return _PREFIX + self._raw.hex()

    def fingerprint(self) -> str:
        """Tells two secrets apart and gives neither away; stored in the database."""
        return self.draw("fingerprint")[:8].hex()

    def draw(self, label: str) -> bytes:
        """32 bytes for one purpose, named by `label`."""
        return hmac.digest(self._raw, f"monolite:{label}\x01".encode(), "sha256")
