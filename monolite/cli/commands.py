"""What each command does."""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
from collections.abc import Awaitable, Callable
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from monolite import settings as settings_module
from monolite.settings import BadSetting, Settings

if TYPE_CHECKING:
    from monolite.assembly import Installation
    from monolite.cli.client import Client


def settings_of(arguments: argparse.Namespace) -> Settings:
    """The settings in force for a command."""
    flags = {name: getattr(arguments, name, None) for name in ("data", "listen", "synchronous")}
    return settings_module.load(flags)


def serve(arguments: argparse.Namespace) -> int:
    """Serve until SIGTERM or SIGINT."""
    from monolite import logs
    from monolite.serving import serve as serve_until_stopped

    settings = settings_of(arguments)
    logs.configure()
    tasks: list[asyncio.Task[None]] = []

    def ready(installation: Installation, url: str) -> None:
        print(f"Monolite serves {settings.data} on {url}", flush=True)
        if arguments.demo:
            from monolite.cli.demo import show_demo

            tasks.append(asyncio.get_running_loop().create_task(show_demo(installation, url)))

    return asyncio.run(serve_until_stopped(settings, on_ready=ready))


def tenant_create(arguments: argparse.Namespace) -> int:
    """Make a tenant and print its first key."""

    async def work(client: Client) -> None:
        made = await client.call("POST", "/v1/tenants", {"name": arguments.name})
        print(made["key"])

    return _with_client(arguments, work)


def tenant_list(arguments: argparse.Namespace) -> int:
    """Print the tenants as a table."""

    async def work(client: Client) -> None:
        rows = [
            (t["name"], str(t["documents"]), str(t["bytes"]), t["created_at"])
            async for t in client.pages("/v1/tenants")
        ]
        _table(("NAME", "DOCUMENTS", "BYTES", "CREATED"), rows)

    return _with_client(arguments, work)


def tenant_delete(arguments: argparse.Namespace) -> int:
    """Remove a tenant."""
    return _with_client(
        arguments, lambda client: client.call("DELETE", f"/v1/tenants/{arguments.name}")
    )


def tenant_export(arguments: argparse.Namespace) -> int:
    """Write a tenant's records to a file or stdout."""

    async def work(client: Client) -> None:
        path = f"/v1/tenants/{arguments.name}/export"
        if arguments.output is None:
            out = sys.stdout.buffer
            await client.stream("GET", path, None, lambda piece: _discard(out.write(piece)))
            out.flush()
            return
        target = Path(arguments.output)
        partial = target.with_name(target.name + ".partial")
        progress = _Progress("exported")
        try:
            with partial.open("wb") as file:
                await client.stream(
                    "GET", path, None, lambda piece: progress.add(file.write(piece))
                )
                file.flush()
                os.fsync(file.fileno())
            partial.rename(target)
        finally:
            partial.unlink(missing_ok=True)
            progress.end()

    return _with_client(arguments, work)


def tenant_import(arguments: argparse.Namespace) -> int:
    """Make a tenant from a file or stdin and print its key."""

    async def work(client: Client) -> None:
        answer: list[bytes] = []
        with ExitStack() as stack:
            source = (
                sys.stdin.buffer
                if arguments.input is None
                else stack.enter_context(Path(arguments.input).open("rb"))  # noqa: ASYNC230
            )
            await client.stream(
                "POST", f"/v1/tenants/{arguments.name}/import", source, answer.append
            )
        print(json.loads(b"".join(answer))["key"])

    return _with_client(arguments, work)


def key_create(arguments: argparse.Namespace) -> int:
    """Make a key of a tenant and print it."""
    from monolite.tenancy.scopes import TENANT_SCOPES

    async def work(client: Client) -> None:
        scopes = arguments.scopes.split(",") if arguments.scopes else list(TENANT_SCOPES)
        wanted: dict[str, Any] = {"name": arguments.name, "scopes": scopes}
        for member in ("expires_at", "privacy", "tier"):
            if getattr(arguments, member) is not None:
                wanted[member] = getattr(arguments, member)
        made = await client.call("POST", f"/v1/tenants/{arguments.tenant}/keys", wanted)
        print(made["key"])

    return _with_client(arguments, work)


def key_list(arguments: argparse.Namespace) -> int:
    """Print a tenant's keys as a table."""

    async def work(client: Client) -> None:
        rows = [
            (k["id"], k["name"], k["created_at"], k["expires_at"] or "never", ",".join(k["scopes"]))
            async for k in client.pages(f"/v1/tenants/{arguments.tenant}/keys")
        ]
        _table(("ID", "NAME", "CREATED", "EXPIRES", "SCOPES"), rows)

    return _with_client(arguments, work)


def key_revoke(arguments: argparse.Namespace) -> int:
    """End a key."""
    path = f"/v1/tenants/{arguments.tenant}/keys/{arguments.id}"
    return _with_client(arguments, lambda client: client.call("DELETE", path))


def migrate(arguments: argparse.Namespace) -> int:
    """Move the streams to another store, or a tenant to another installation."""
    if arguments.tenant is not None or arguments.to is not None:
        from monolite.cli.moving_tenant import move_tenant

        if arguments.tenant is None or arguments.to is None:
            raise BadSetting("--tenant NAME and --to DIR go together")
        if arguments.streams is not None or arguments.streams_from is not None:
            raise BadSetting("move a tenant, or the streams; not both at once")
        settings, to = settings_of(arguments), Path(arguments.to)
        return asyncio.run(move_tenant(settings, arguments.tenant, to, arguments.to_database))
    from monolite.cli.moving import move_streams

    return asyncio.run(
        move_streams(settings_of(arguments), arguments.streams, arguments.streams_from)
    )


def restore(arguments: argparse.Namespace) -> int:
    """Bring the database back from the replica into a data directory without one."""
    from monolite.cli.restoring import restore_database

    return asyncio.run(
        restore_database(
            settings_of(arguments),
            timestamp=arguments.timestamp,
            rotate_secret=arguments.rotate_secret,
            accept_differences=arguments.accept_differences,
        )
    )


def replica_status(arguments: argparse.Namespace) -> int:
    """Print what the server knows of its replica."""

    async def work(client: Client) -> None:
        status = await client.call("GET", "/v1/operator/status")
        _table(("REPLICA", ""), [(k, _plain(v)) for k, v in status["replication"].items()])

    return _with_client(arguments, work)


def replica_drill(arguments: argparse.Namespace) -> int:
    """Restore into a scratch directory and print what was verified."""
    from monolite.cli.restoring import drill

    return asyncio.run(drill(settings_of(arguments)))


def backup(arguments: argparse.Namespace) -> int:
    """Write a verified copy of the database, while a server runs or not."""
    from monolite.cli.restoring import back_up

    return back_up(settings_of(arguments), Path(arguments.output))


def secret_export(arguments: argparse.Namespace) -> int:
    """Print the root secret, and remember that it was."""
    from monolite.cli.secrets import export_secret

    return export_secret(settings_of(arguments))


def secret_rotate(arguments: argparse.Namespace) -> int:
    """Make a new root secret; every key stops working."""
    from monolite.cli.secrets import rotate

    return asyncio.run(rotate(settings_of(arguments)))


def model_add(arguments: argparse.Namespace) -> int:
    """Make a checkpoint or a model file one of the installed models."""
    from monolite.cli import models

    print(
        models.add(
            settings_of(arguments),
            Path(arguments.source),
            arguments.name,
            arguments.query_prefix,
            arguments.passage_prefix,
            arguments.licence,
            arguments.tier,
        )
    )
    return 0


def model_list(arguments: argparse.Namespace) -> int:
    """Print the installed models as a table."""
    from monolite.cli import models

    head = ("NAME", "DIMENSIONS", "TOKENS", "LICENCE", "MB", "FILE")
    _table(head, list(models.listed(settings_of(arguments))))
    return 0


def model_remove(arguments: argparse.Namespace) -> int:
    """Remove a model's file."""
    from monolite.cli import models

    models.remove(settings_of(arguments), arguments.name)
    return 0


def model_bench(arguments: argparse.Namespace) -> int:
    """Measure a model on this machine."""
    from monolite.cli import models

    head = ("WORK", "THREADS", "MEDIAN MS", "P99 MS", "TOKENS/S")
    _table(head, list(models.bench(settings_of(arguments), arguments.name)))
    return 0


def doctor(arguments: argparse.Namespace) -> int:
    """Look at everything that commonly goes wrong."""
    from monolite.cli.doctor import examine

    return asyncio.run(examine(settings_of(arguments)))


def config_check(arguments: argparse.Namespace) -> int:
    """Print the settings in force."""
    settings = settings_of(arguments)
    _table(("SETTING", "VALUE", "MEANING"), settings.described())
    if settings.replica_url is not None:
        settings.replica()
    return 0


def version(arguments: argparse.Namespace) -> int:
    """Print version and build."""
    from monolite.cli.build import build_facts

    facts = build_facts()
    if arguments.json:
        print(json.dumps(facts))
    else:
        print(f"monolite {facts['version']} ({facts['build']}, schema {facts['schema_version']})")
    return 0


def licenses(arguments: argparse.Namespace) -> int:
    """Print the licence of every bundled part."""
    from monolite.licenses import text

    print(text())
    return 0


def _with_client(arguments: argparse.Namespace, work: Callable[[Client], Awaitable[Any]]) -> int:
    from monolite.cli.client import connected

    async def run() -> None:
        async with connected(settings_of(arguments)) as client:
            await work(client)

    asyncio.run(run())
    return 0


def _table(head: tuple[str, ...], rows: list[Any]) -> None:
    widths = [max(len(str(row[i])) for row in [head, *rows]) for i in range(len(head))]
    for row in [head, *rows]:
        cells = (str(cell).ljust(width) for cell, width in zip(row, widths, strict=True))
        print("  ".join(cells).rstrip())


def _discard(_: object) -> None:
    """A sink returns nothing."""


def _plain(value: Any) -> str:
    return "-" if value is None else str(value)


class _Progress:
    """Bytes so far on stderr, where that is a terminal."""

    def __init__(self, verb: str) -> None:
        self._verb = verb
        self._bytes = 0
        self._shown = sys.stderr.isatty()

    def add(self, count: int) -> None:
        self._bytes += count
        if self._shown:
            print(f"\r{self._bytes} bytes {self._verb}", end="", file=sys.stderr, flush=True)

    def end(self) -> None:
        if self._shown:
            print(file=sys.stderr)
