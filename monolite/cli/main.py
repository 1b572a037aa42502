"""Arguments to commands, and failures to one line on stderr."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import NoReturn, TypeAlias

from monolite import __version__
from monolite.cli import commands as c

EXIT_FAILED, EXIT_USAGE = 1, 2

Command = Callable[[argparse.Namespace], int]
Commands: TypeAlias = "argparse._SubParsersAction[Parser]"


class Parser(argparse.ArgumentParser):
    """Says what is wrong with a call in one line; argparse would print the usage before it."""

    def error(self, message: str) -> NoReturn:
        """Exit with 2."""
        self.exit(EXIT_USAGE, f"monolite: {message}; see `{self.prog} --help`\n")


def main(arguments: Sequence[str]) -> int:
    """Run one command; returns the exit code. A failure prints one line on stderr."""
    if list(arguments) == ["_template"]:  # template_child.COMMAND
        from monolite.inference import template_child

        return template_child.serve(sys.stdin.buffer, sys.stdout.buffer)
    parser = build_parser(arguments[0] if arguments else None)
    chosen = parser.parse_args(arguments)
    command: Command | None = getattr(chosen, "command", None)
    if command is None:
        incomplete: Parser = getattr(chosen, "incomplete", parser)
        incomplete.error("name a command")
    try:
        return command(chosen)
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        return EXIT_FAILED
    except Exception as error:
        if not _is_foreseen(error):
            raise
        print(f"monolite: {error}", file=sys.stderr)
        return EXIT_FAILED


def build_parser(only: str | None = None) -> Parser:
    """Every command with its help and an example; `only` one where the caller knows which.

    All of them take 5 ms to build, which a start of the server need not pay.
    """
    parser = Parser(
        prog="monolite",
        description="A SaaS's whole backend in one executable.",
        epilog="Start here: monolite serve --data ./data --demo",
    )
    parser.add_argument("--version", action="version", version=f"monolite {__version__}")
    top = parser.add_subparsers(metavar="COMMAND")
    for name, build in _COMMANDS.items():
        if only not in _COMMANDS or name == only:
            build(top)
    return parser


def _serve(top: Commands) -> None:
    serve = _add(
        top,
        "serve",
        "serve until SIGTERM, then drain",
        c.serve,
        "monolite serve --data /var/lib/monolite --listen 127.0.0.1:8080",
    )
    serve.add_argument("--listen", metavar="HOST:PORT", help="default 127.0.0.1:8080")
    serve.add_argument(
        "--synchronous",
        choices=("normal", "full"),
        help="normal: a killed process loses nothing; full: nor does a power cut",
    )
    serve.add_argument(
        "--demo",
        action="store_true",
        help="make a tenant named demo and print a curl line that works",
    )


def _tenant(top: Commands) -> None:
    tenant = _group(top, "tenant", "make, list, delete, export and import tenants")
    one = _add(
        tenant,
        "create",
        "make a tenant; its first key alone on stdout",
        c.tenant_create,
        "KEY=$(monolite tenant create acme --data ./data)",
    )
    one.add_argument("name")
    _add(
        tenant,
        "list",
        "list tenants with their usage",
        c.tenant_list,
        "monolite tenant list --data ./data",
    )
    one = _add(
        tenant,
        "delete",
        "remove a tenant and all its data",
        c.tenant_delete,
        "monolite tenant delete acme --data ./data",
    )
    one.add_argument("name")
    one = _add(
        tenant,
        "export",
        "write all of a tenant's data as NDJSON",
        c.tenant_export,
        "monolite tenant export acme --output acme.ndjson --data ./data",
    )
    one.add_argument("name")
    one.add_argument("--output", "-o", metavar="FILE", help="default stdout")
    one = _add(
        tenant,
        "import",
        "make a tenant from an export; its key on stdout",
        c.tenant_import,
        "monolite tenant import acme --input acme.ndjson --data ./data",
    )
    one.add_argument("name")
    one.add_argument("--input", "-i", metavar="FILE", help="default stdin")


def _key(top: Commands) -> None:
    key = _group(top, "key", "make, list and revoke a tenant's keys")
    one = _add(
        key,
        "create",
        "make a key; the key alone on stdout",
        c.key_create,
        "monolite key create --tenant acme --scopes documents:read,documents:write",
    )
    one.add_argument("name", nargs="?", default="cli")
    one.add_argument("--tenant", required=True, metavar="NAME")
    one.add_argument("--scopes", metavar="A,B", help="default: every scope of a tenant")
    one.add_argument("--expires-at", metavar="TIME", help="RFC 3339, e.g. 2027-01-31T00:00:00Z")
    one.add_argument("--privacy", choices=("private", "public"))
    one.add_argument("--tier", choices=("basic", "standard", "advanced"))
    one = _add(key, "list", "list a tenant's keys", c.key_list, "monolite key list --tenant acme")
    one.add_argument("--tenant", required=True, metavar="NAME")
    one = _add(
        key,
        "revoke",
        "end a key",
        c.key_revoke,
        "monolite key revoke --tenant acme 4Fz8Q2mLk0aB9xYc",
    )
    one.add_argument("id")
    one.add_argument("--tenant", required=True, metavar="NAME")


def _migrate(top: Commands) -> None:
    one = _add(
        top,
        "migrate",
        "move a tenant with its live queues to another database, or the event streams to Redis or"
        " back, with the server stopped",
        c.migrate,
        "monolite migrate --tenant acme --to ./data-of-the-other --data ./data",
    )
    one.add_argument("--tenant", metavar="NAME", help="which; its key there alone on stdout")
    one.add_argument("--to", metavar="DIR", help="the other's data directory; it may be serving")
    one.add_argument("--to-database", metavar="URL", help="its PostgreSQL, where it is not serving")
    one.add_argument("--streams", metavar="URL", help="the streams: where to")
    one.add_argument("--streams-from", metavar="URL", help="back from there into the database")


def _restore(top: Commands) -> None:
    one = _add(
        top,
        "restore",
        "bring the database back from the replica",
        c.restore,
        "monolite restore --data ./data --timestamp 2026-11-23T08:00:00Z",
    )
    one.add_argument("--timestamp", metavar="T", help="RFC 3339; default: the newest state")
    one.add_argument(
        "--rotate-secret",
        action="store_true",
        help="give up all old keys instead of asking for the root secret",
    )
    one.add_argument(
        "--accept-differences",
        action="store_true",
        help="take a copy whose row counts differ from the recorded ones",
    )


def _replica(top: Commands) -> None:
    replica = _group(top, "replica", "look at the replica, and drill a restore")
    _add(
        replica,
        "status",
        "how far behind it is, and its last drill",
        c.replica_status,
        "monolite replica status --data ./data",
    )
    _add(
        replica,
        "drill",
        "restore into a scratch directory and verify",
        c.replica_drill,
        "monolite replica drill --data ./data",
    )


def _backup(top: Commands) -> None:
    one = _add(
        top,
        "backup",
        "write a verified copy of the database",
        c.backup,
        "monolite backup --data ./data --output monolite-backup.db",
    )
    one.add_argument("--output", "-o", required=True, metavar="FILE")


def _secret(top: Commands) -> None:
    secret = _group(top, "secret", "the root secret that keys and tokens rest on")
    _add(
        secret,
        "export",
        "print it, to keep outside this machine",
        c.secret_export,
        "monolite secret export --data ./data",
    )
    _add(
        secret,
        "rotate",
        "make a new one: every key stops working",
        c.secret_rotate,
        "monolite secret rotate --data ./data",
    )


def _model(top: Commands) -> None:
    model = _group(top, "model", "add, list, remove and measure models")
    one = _add(
        model,
        "add",
        "quantize a checkpoint into the models' directory",
        c.model_add,
        "monolite model add ./multilingual-e5-small --data ./data",
    )
    one.add_argument(
        "source", metavar="FILE|DIR", help="a checkpoint's directory, or a .model file"
    )
    one.add_argument("--name", help="default: the source's name")
    one.add_argument("--query-prefix", metavar="TEXT", help="default: the checkpoint's, or E5's")
    one.add_argument("--passage-prefix", metavar="TEXT", help="default: the checkpoint's, or E5's")
    one.add_argument("--licence", default="", help="default: what the model's card says")
    one.add_argument(
        "--tier",
        default="basic",
        choices=("basic", "standard", "advanced"),
        help="of a language model: requests up to this tier stay on the machine",
    )
    _add(
        model,
        "list",
        "list the models installed",
        c.model_list,
        "monolite model list --data ./data",
    )
    one = _add(
        model,
        "remove",
        "remove a model; indexes of its vectors need it",
        c.model_remove,
        "monolite model remove multilingual-e5-small --data ./data",
    )
    one.add_argument("name")
    one = _add(
        model,
        "bench",
        "measure a model on this machine, on all cores and on one",
        c.model_bench,
        "monolite model bench default",
    )
    one.add_argument("name", nargs="?", default="default")


def _doctor(top: Commands) -> None:
    _add(
        top, "doctor", "say what is wrong and what to do", c.doctor, "monolite doctor --data ./data"
    )


def _config(top: Commands) -> None:
    config = _group(top, "config", "the settings")
    _add(
        config,
        "check",
        "print the settings in force, secrets redacted",
        c.config_check,
        "monolite config check --data ./data",
    )


def _version(top: Commands) -> None:
    one = _add(
        top, "version", "print version and build", c.version, "monolite version --json", data=False
    )
    one.add_argument("--json", action="store_true")


def _licenses(top: Commands) -> None:
    _add(
        top,
        "licenses",
        "print the licence of every bundled part",
        c.licenses,
        "monolite licenses | less",
        data=False,
    )


_COMMANDS: Mapping[str, Callable[[Commands], None]] = {
    "serve": _serve,
    "tenant": _tenant,
    "key": _key,
    "migrate": _migrate,
    "restore": _restore,
    "replica": _replica,
    "backup": _backup,
    "secret": _secret,
    "model": _model,
    "doctor": _doctor,
    "config": _config,
    "version": _version,
    "licenses": _licenses,
}


def _add(
    commands: Commands,
    name: str,
    summary: str,
    command: Command,
    example: str,
    *,
    data: bool = True,
) -> Parser:
    parser = commands.add_parser(
        name,
        help=summary,
        description=f"{summary[0].upper()}{summary[1:]}.",
        epilog=f"Example: {example}",
    )
    parser.set_defaults(command=command)
    if data:
        parser.add_argument("--data", metavar="DIR", help="the data directory; default ./data")
    return parser


def _group(commands: Commands, name: str, summary: str) -> Commands:
    parser = commands.add_parser(name, help=summary, description=f"{summary}.".capitalize())
    parser.set_defaults(incomplete=parser)
    return parser.add_subparsers(metavar="COMMAND")


def _is_foreseen(error: Exception) -> bool:
    """Whether its message is meant for the user; anything else is ours to see whole."""
    from monolite.cli.client import Refused
    from monolite.errors import DomainError
    from monolite.settings import BadSetting
    from monolite.storage.errors import StorageError
    from monolite.tenancy.installation import SecretMismatch

    foreseen = [BadSetting, DomainError, OSError, Refused, SecretMismatch, StorageError]
    replication = sys.modules.get("monolite.replication.errors")
    if replication is not None:
        foreseen += [
            replication.ReplicationMisconfigured,
            replication.ReplicaUnreachable,
            replication.ReplicaUnverified,
            replication.TargetExists,
        ]
    return isinstance(error, tuple(foreseen))
