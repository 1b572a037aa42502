"""The root secret on the command line."""

from __future__ import annotations

import logging
import sys

from monolite.assembly import Installation
from monolite.settings import Settings
from monolite.storage.data_directory import DataDirectory, write_private
from monolite.tenancy.installation import SecretMismatch, find_secret, rotate_secret

EXPORTED = "root.secret.exported"
"""The file whose presence says that the secret was printed once."""


def export_secret(settings: Settings) -> int:
    """Print the root secret alone on stdout."""
    directory = DataDirectory(settings.data)
    secret = find_secret(directory, settings.root_secret)
    if secret is None:
        raise SecretMismatch(
            f"{directory.root_secret} is not there. It is made by the first `monolite serve`."
        )
    print(secret.text())
    print(
        "Keep it outside this machine and its replica, for example in a password manager. "
        "After a restore, give it with MONOLITE_ROOT_SECRET.",
        file=sys.stderr,
    )
    write_private(directory.path / EXPORTED, secret.fingerprint().encode())
    return 0


def was_exported(settings: Settings) -> bool:
    """Whether the secret in force was printed once."""
    directory = DataDirectory(settings.data)
    secret = find_secret(directory, settings.root_secret)
    try:
        return (
            secret is not None and (directory.path / EXPORTED).read_text() == secret.fingerprint()
        )
    except OSError:
        return False


async def rotate(settings: Settings) -> int:
    """Make a new root secret, with the server stopped; prints the new operator's key's file."""
    logging.basicConfig(format="%(message)s", stream=sys.stderr)
    directory = DataDirectory(settings.data)
    directory.root_secret.unlink(missing_ok=True)
    installation = await Installation.open(settings, may_rotate_secret=True)
    try:
        if settings.root_secret is not None:
            await rotate_secret(directory, installation.facts)
    finally:
        await installation.close()
    print(
        f"A new root secret is in {directory.root_secret}, a new operator's key in "
        f"{directory.operator_key}."
    )
    return 0
