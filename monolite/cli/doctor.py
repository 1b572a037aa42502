"""`monolite doctor`: what is wrong, and what to do."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import msgspec

from monolite.cli import secrets
from monolite.cli.client import Refused, connected
from monolite.settings import Settings
from monolite.storage.capacity import measure_write_capacity
from monolite.storage.data_directory import DataDirectory, write_private
from monolite.storage.disk import disk_space
from monolite.storage.sqlite import integrity

Finding = tuple[bool, str]


async def examine(settings: Settings) -> int:
    """Print a line for each thing examined; returns 1 where one is wrong."""
    directory = DataDirectory(settings.data)
    directory.prepare()
    looks: list[tuple[str, Callable[[Settings, DataDirectory], Awaitable[Finding]]]] = [
        ("disk", _disk),
        ("database", _database),
        ("root secret", _secret),
        ("replica", _replica),
        ("server", _server),
        ("cloud", _cloud),
        ("write capacity", _capacity),
    ]
    wrong = 0
    for name, look in looks:
        try:
            ok, text = await look(settings, directory)
        except Exception as error:
            ok, text = False, str(error)
        wrong += not ok
        print(f"{'ok  ' if ok else 'FAIL'}  {name}: {text}", flush=True)
    print("Nothing is wrong." if not wrong else f"{wrong} to put right, from the top.")
    return 1 if wrong else 0


async def _disk(settings: Settings, directory: DataDirectory) -> Finding:
    free = disk_space(directory.path).free_bytes
    return free >= settings.disk_bytes_min, f"{free / 1e9:.1f} GB free"


async def _database(settings: Settings, directory: DataDirectory) -> Finding:
    if not directory.database.exists():
        return True, "none yet; `monolite serve` makes it"
    await asyncio.to_thread(integrity.check, directory.database)
    return True, f"{directory.database.stat().st_size / 1e6:.1f} MB, integrity_check is ok"


async def _secret(settings: Settings, directory: DataDirectory) -> Finding:
    if not directory.root_secret.exists() and settings.root_secret is None:
        return True, "none yet; the first start makes it"
    if not secrets.was_exported(settings):
        return False, (
            "never exported. Without it no key works after a restore: run `monolite secret "
            "export` and keep what it prints outside this machine"
        )
    return True, "exported"


async def _replica(settings: Settings, directory: DataDirectory) -> Finding:
    if settings.replica_url is None:
        return False, (
            "none: when this disk goes, all is lost. Set MONOLITE_REPLICA_URL=s3://bucket/prefix, "
            "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
        )
    settings.replica()
    from monolite.replication.process import dies_with_us

    if not dies_with_us():
        return False, (
            "setpriv is missing, so a killed server leaves Litestream running; install util-linux"
        )
    return True, settings.replica_url


async def _server(settings: Settings, directory: DataDirectory) -> Finding:
    if not directory.server_info.exists():
        return True, "not running"
    try:
        async with connected(settings) as client:
            status = await client.call("GET", "/v1/operator/status")
    except Refused as error:
        return False, str(error)
    over = [t["name"] for t in status["triggers"] if t["state"] == "over"]
    if over:
        return False, f"over its migration triggers: {', '.join(over)}; see /v1/operator/triggers"
    return True, f"up for {status['uptime_s']:.0f} s, no migration trigger is over"


async def _cloud(settings: Settings, directory: DataDirectory) -> Finding:
    if settings.cloud_provider is None:
        return True, "none; nothing that a model is asked leaves this machine"
    from monolite.assembly_cloud import check_cloud
    from monolite.inference.routing.provider import ProviderError

    try:
        return True, await check_cloud(settings, settings.cloud_provider)
    except ProviderError as error:
        advice = "put the right one in MONOLITE_CLOUD_KEY" if error.code == "key_refused" else ""
        return False, error.detail + (f": {advice}" if advice else "")


async def _capacity(settings: Settings, directory: DataDirectory) -> Finding:
    measured = await measure_write_capacity(directory.path, synchronous=settings.synchronous)
    write_private(directory.capacity, msgspec.json.encode(measured))
    return True, (
        f"{measured.writes_per_s:,.0f} writes/s at synchronous={measured.synchronous}; the trigger "
        f"is 60 % of it, sustained ten minutes"
    )
