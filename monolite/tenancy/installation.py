"""The root secret and the operator's key of a data directory: made once, kept in 0600 files."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Protocol

from monolite.storage.data_directory import DataDirectory, write_private
from monolite.tenancy.core import Tenancy
from monolite.tenancy.engine import Key
from monolite.tenancy.secret import RootSecret

log = logging.getLogger("monolite.tenancy")

FINGERPRINT = "secret_fingerprint"


class SecretMismatch(Exception):
    """The root secret at hand is not the one that the keys in the database were made with."""


class InstallationFacts(Protocol):
    """What the database knows of its installation."""

    async def fact(self, name: str) -> str | None:
        """A stored fact."""
        ...

    async def set_fact(self, name: str, value: str) -> None:
        """Store a fact."""
        ...

    async def claim_fact(self, name: str, value: str) -> str:
        """Store a fact unless there is one; returns the one that is there."""
        ...

    async def forget_keys(self) -> int:
        """Drop every key, since none can be verified any more; returns how many."""
        ...

    async def store_operator_key(self, key: Key) -> None:
        """Store the operator's key in place of the former one of this data directory."""
        ...


def find_secret(directory: DataDirectory, given: str | None) -> RootSecret | None:
    """The root secret from the settings, else from the data directory, else None.

    Raises:
        SecretMismatch: what is there can't be read as one, or the two differ.
    """
    kept = _read(directory.root_secret)
    try:
        secret = RootSecret.parse(given) if given is not None else None
        stored = RootSecret.parse(kept) if kept is not None else None
    except ValueError as error:
        raise SecretMismatch(f"The root secret can't be read: {error}.") from None
    if secret and stored and secret.fingerprint() != stored.fingerprint():
        raise SecretMismatch(
            f"MONOLITE_ROOT_SECRET and {directory.root_secret} differ. Keep the one that the keys "
            "were made with and remove the other."
        )
    return secret or stored


async def settle_secret(
    directory: DataDirectory,
    facts: InstallationFacts,
    secret: RootSecret | None,
    *,
    may_rotate: bool,
) -> RootSecret:
    """Make the secret at hand and the database agree, or say why they don't.

    A new installation gets a new secret. A database whose secret is lost (a restore without it)
    gets a new one where `may_rotate`: every key made before stops working, and the log says so.

    Raises:
        SecretMismatch: the database was made with another secret, or it is lost and may not be
            replaced.
    """
    known = await facts.fact(FINGERPRINT)
    if known is not None and secret is not None and known != secret.fingerprint():
        raise SecretMismatch(
            "The database's keys were made with another root secret. Give that one with "
            "MONOLITE_ROOT_SECRET, or give up all keys with `monolite secret rotate`."
        )
    if known is not None and secret is None:
        if not may_rotate:
            raise SecretMismatch(
                f"{directory.root_secret} is missing, and the database's keys were made with it. "
                "Put it back, give it with MONOLITE_ROOT_SECRET, or give up all keys with "
                "`monolite secret rotate`."
            )
        return await rotate_secret(directory, facts)
    was_given = secret is not None
    secret = secret or RootSecret.new()
    if _read(directory.root_secret) is None:
        write_private(directory.root_secret, secret.text().encode() + b"\n")
    if known is None:
        held = await facts.claim_fact(FINGERPRINT, secret.fingerprint())
        if held != secret.fingerprint():
            if not was_given:
                directory.root_secret.unlink()
            raise SecretMismatch(
                "Another server has just made this database's root secret. Give all of them the "
                "same one with MONOLITE_ROOT_SECRET."
            )
    return secret


async def rotate_secret(directory: DataDirectory, facts: InstallationFacts) -> RootSecret:
    """A new root secret; every key and token made before is worth nothing from now on."""
    secret = RootSecret.new()
    # The file first: a crash in between is met by the mismatch above, never by a lost secret.
    write_private(directory.root_secret, secret.text().encode() + b"\n")
    directory.operator_key.unlink(missing_ok=True)
    count = await facts.forget_keys()
    await facts.set_fact(FINGERPRINT, secret.fingerprint())
    log.error(
        "the root secret was not given, so a new one was made: %d keys of tenants no longer work. "
        "Make new ones with `monolite key create --tenant NAME`, or restore again with "
        "MONOLITE_ROOT_SECRET set to the old secret",
        count,
    )
    return secret


async def settle_operator_key(
    directory: DataDirectory, facts: InstallationFacts, tenancy: Tenancy
) -> str:
    """The operator's key's text, made and written to its file where it is not there yet."""
    kept = _read(directory.operator_key)
    if kept is not None:
        return kept.strip()
    key, text = tenancy.operator_key()
    await facts.store_operator_key(key)
    write_private(directory.operator_key, text.encode() + b"\n")
    log.info("the operator's key was written to %s", directory.operator_key)
    return text


def _read(path: Path) -> str | None:
    try:
        return path.read_text()
    except FileNotFoundError:
        return None
