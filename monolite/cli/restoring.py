"""Restore, drill and backup on the command line."""

from __future__ import annotations

import getpass
import logging
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from monolite.settings import BadSetting, Settings
from monolite.storage.data_directory import DataDirectory, write_private

if TYPE_CHECKING:
    from monolite.replication.settings import ReplicaSettings


async def restore_database(
    settings: Settings,
    *,
    timestamp: str | None,
    rotate_secret: bool,
    accept_differences: bool,
) -> int:
    """Restore into a data directory without a database, and settle its root secret."""
    from monolite.assembly import Installation
    from monolite.replication.restore import restore
    from monolite.tenancy.installation import find_secret
    from monolite.tenancy.secret import RootSecret

    logging.basicConfig(format="%(message)s", stream=sys.stderr)
    directory = DataDirectory(settings.data)
    directory.prepare()
    with directory.lock():
        report = restore(
            _replica(settings),
            directory.database,
            timestamp=timestamp,
            progress=_say,
            accept_differences=accept_differences,
        )
    if report is None:
        raise BadSetting(f"{settings.replica_url} holds no replica; check the bucket and prefix.")
    secret = find_secret(directory, settings.root_secret)
    if secret is None and not rotate_secret and sys.stdin.isatty():
        typed = getpass.getpass("The root secret (mrs_..., empty to give up all old keys): ")
        if typed.strip():
            secret = RootSecret.parse(typed)
    if secret is not None:
        write_private(directory.root_secret, secret.text().encode() + b"\n")
    installation = await Installation.open(settings, may_rotate_secret=True)
    await installation.close()
    print(f"Restored into {directory.path}. Start it with: monolite serve --data {directory.path}")
    return 0


async def drill(settings: Settings) -> int:
    """Drill a restore through the server where one runs, else from here."""
    from monolite.cli.client import connected

    _replica(settings)
    async with connected(settings) as client:
        report = await client.call("POST", "/v1/operator/drill")
    for name, value in report.items():
        print(f"{name}: {value}")
    return 0 if report.get("ok") else 1


def back_up(settings: Settings, output: Path) -> int:
    """Copy the database as of now; the writer is never held."""
    from monolite.storage.sqlite.backup import backup

    shown = sys.stderr.isatty()

    def progress(done: int, whole: int) -> None:
        if shown:
            print(f"\r{done} of about {whole} bytes", end="", file=sys.stderr, flush=True)

    report = backup(DataDirectory(settings.data).database, output, progress=progress)
    print(f"{report.path}: {report.size_bytes} bytes, integrity_check is ok")
    return 0


def _replica(settings: Settings) -> ReplicaSettings:
    if settings.replica_url is None:
        raise BadSetting("No replica is configured; set MONOLITE_REPLICA_URL=s3://bucket/prefix.")
    return settings.replica()


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
