"""End-to-end encryption: the relay carries ciphertext, and the key never leaves the clients.

    +---------+----------+---------------------------------------+
    | version | nonce    | AES-256-GCM of the bytes, with a tag  |
    | 1       | 12 bytes | of 16 bytes                           |
    +---------+----------+---------------------------------------+

The document's name is the additional data, so a blob of one document is none of another's. The
nonce is random: under one key no more than 2^32 blobs (NIST SP 800-38D, 8.3). The TypeScript client
has the same.
"""

from __future__ import annotations

import os
from typing import Any, Protocol

from monolite.crdt.errors import MalformedError

VERSION = 1
KEY_BYTES = 32
_NONCE_BYTES = 12


class Cipher(Protocol):
    """Makes bytes unreadable, and readable again."""

    def seal(self, plain: bytes) -> bytes:
        """Ciphertext of these bytes."""
        ...

    def open(self, sealed: bytes) -> bytes:
        """What was sealed. Raises MalformedError where the key is another or a bit was changed."""
        ...


def new_key() -> bytes:
    """A new key of 32 random bytes."""
    return os.urandom(KEY_BYTES)


class AesGcm:
    """AES-256-GCM by the package `cryptography`, for one document.

    Raises:
        ValueError: the key is not 32 bytes.
        ImportError: `cryptography` is not installed.
    """

    def __init__(self, key: bytes, document: str) -> None:
        if len(key) != KEY_BYTES:
            raise ValueError(f"a key is {KEY_BYTES} bytes")
        # Imported here: who does not encrypt needs no package.
        from cryptography.exceptions import InvalidTag
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM

        self._aead: Any = AESGCM(key)
        self._invalid = InvalidTag
        self._document = document.encode()

    def seal(self, plain: bytes) -> bytes:
        nonce = os.urandom(_NONCE_BYTES)
        sealed: bytes = self._aead.encrypt(nonce, plain, self._document)
        return bytes((VERSION,)) + nonce + sealed

    def open(self, sealed: bytes) -> bytes:
        if sealed[:1] != bytes((VERSION,)) or len(sealed) < 1 + _NONCE_BYTES:
            raise MalformedError("not sealed, or by a later version")
        nonce, rest = sealed[1 : 1 + _NONCE_BYTES], sealed[1 + _NONCE_BYTES :]
        try:
            plain: bytes = self._aead.decrypt(nonce, rest, self._document)
        except self._invalid:
            raise MalformedError("another key, another document, or changed bytes") from None
        return plain
