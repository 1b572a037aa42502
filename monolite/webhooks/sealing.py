"""Webhooks' secrets at rest, so that a copy of the database signs nothing.

    nonce (16) ‖ secret ⊕ HMAC-SHA-256(stream key, nonce ‖ counter)… ‖ tag (16)

    tag = HMAC-SHA-256(tag key, all that is before it)

HMAC-SHA-256 is a pseudorandom function, so with a fresh nonce its outputs over a counter are a
keystream (counter mode), and the tag over nonce and ciphertext is encrypt-then-MAC. Both keys are
drawn from the installation's root secret, which lies outside the database and its replica.
"""

from __future__ import annotations

import hmac
from collections.abc import Callable

_NONCE_BYTES = _TAG_BYTES = 16
_BLOCK_BYTES = 32


class Sealer:
    """Seals and opens short secrets under one key of 32 bytes."""

    def __init__(self, key: bytes, random_bytes: Callable[[int], bytes]) -> None:
        self._stream_key = hmac.digest(key, b"stream", "sha256")
        self._tag_key = hmac.digest(key, b"tag", "sha256")
        self._random_bytes = random_bytes

    def seal(self, secret: bytes) -> bytes:
        """The secret, sealed."""
        nonce = self._random_bytes(_NONCE_BYTES)
        sealed = nonce + self._keyed(nonce, secret)
        return sealed + self._tag(sealed)

    def open(self, sealed: bytes) -> bytes:
        """The secret again; ValueError where it was sealed under another key, or changed."""
        body, tag = sealed[:-_TAG_BYTES], sealed[-_TAG_BYTES:]
        if len(sealed) < _NONCE_BYTES + _TAG_BYTES or not hmac.compare_digest(tag, self._tag(body)):
            raise ValueError("sealed under another root secret, or changed")
        return self._keyed(body[:_NONCE_BYTES], body[_NONCE_BYTES:])

    def _tag(self, sealed: bytes) -> bytes:
        return hmac.digest(self._tag_key, sealed, "sha256")[:_TAG_BYTES]

    def _keyed(self, nonce: bytes, text: bytes) -> bytes:
        blocks = range(-(-len(text) // _BLOCK_BYTES))
        stream = b"".join(
            hmac.digest(self._stream_key, nonce + block.to_bytes(4), "sha256") for block in blocks
        )
        return bytes(one ^ other for one, other in zip(text, stream, strict=False))
