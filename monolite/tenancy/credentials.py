"""What keys are made of, and how a secret is stored.

    mk_<id>_<secret><crc>
       │     │       └ 6 characters of base 62: CRC-32 of all before it
       │     └ 32 characters of base 62, 190 bits
       └ 16 characters of base 62: public, names the key in lists and logs

The checksum tells a mistyped key from a wrong one without a look at the database, and lets
scanners find leaked keys.
"""

from __future__ import annotations

import hmac
import secrets
import string
import zlib

_ALPHABET = string.digits + string.ascii_letters
_ID_LENGTH, _SECRET_LENGTH, _CRC_LENGTH = 16, 32, 6
PREFIX = "mk_"


def new_key() -> tuple[str, str]:
    """A new key as (id, whole text)."""
    key_id = _random(_ID_LENGTH)
    body = f"{PREFIX}{key_id}_{_random(_SECRET_LENGTH)}"
    return key_id, body + _checksum(body)


def key_id_of(text: str) -> str | None:
    """The id of a well-formed key, or None: wrong shape or checksum."""
    if len(text) != len(PREFIX) + _ID_LENGTH + 1 + _SECRET_LENGTH + _CRC_LENGTH:
        return None
    body, checksum = text[:-_CRC_LENGTH], text[-_CRC_LENGTH:]
    if not text.startswith(PREFIX) or not text.isascii() or _checksum(body) != checksum:
        return None
    key_id, separator, _ = body[len(PREFIX) :].partition("_")
    return key_id if separator and len(key_id) == _ID_LENGTH else None


def digest(pepper: bytes, text: str) -> bytes:
    """What the database holds of a key: HMAC-SHA-256 under the installation's pepper."""
    return hmac.digest(pepper, text.encode(), "sha256")


def _random(length: int) -> str:
    return "".join(secrets.choice(_ALPHABET) for _ in range(length))


def _checksum(body: str) -> str:
    number = zlib.crc32(body.encode())
    digits = []
    for _ in range(_CRC_LENGTH):
        number, digit = divmod(number, 62)
        digits.append(_ALPHABET[digit])
    return "".join(reversed(digits))
