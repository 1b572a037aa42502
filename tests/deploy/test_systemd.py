"""The unit, the executable and deploy.sh under a real systemd, hardened as they are on a host."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.deploy.conftest import executable as script
from tests.deploy.machine import Machine, Unbootable, booted
from tests.deploy.test_deploy import tenant_key, write_document
from tests.eventually import eventually
from tests.s3_server import S3Server

Boot = Callable[..., Machine]


@pytest.fixture
def boot(tmp_path: Path) -> Iterator[Boot]:
    """Boots a machine, with lines for its monolite.env."""
    with ExitStack() as stack:

        def one(settings: str = "") -> Machine:
            try:
                return stack.enter_context(booted(tmp_path / "machine", settings))
            except Unbootable as reason:
                pytest.skip(f"systemd can't be booted in a namespace here: {reason}")

        yield one


def serving(machine: Machine) -> str:
    """The server's process, numbered as on its machine: the bootloader's child."""
    main = machine.run("systemctl", "show", "--property=MainPID", "--value", "monolite").strip()
    return machine.run("pgrep", "--parent", main).split()[0]


def restarts(machine: Machine) -> int:
    return int(machine.run("systemctl", "show", "--property=NRestarts", "--value", "monolite"))


def test_installed_server_runs_hardened_and_starts_with_the_machine(
    boot: Boot, built: Path
) -> None:
    machine = boot()
    done = machine.deploy("--binary", str(built))
    assert done.returncode == 0, done.stderr
    assert machine.run("systemctl", "is-active", "monolite") == "active\n"
    assert machine.run("systemctl", "is-enabled", "monolite") == "enabled\n"
    status = machine.run("cat", f"/proc/{serving(machine)}/status")
    facts = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
    assert facts["Seccomp"] == "2"
    assert facts["NoNewPrivs"] == "1"
    assert int(facts["CapEff"], 16) == 0
    assert facts["Uid"].split()[0] == machine.run("id", "-u", "monolite").strip() != "0"
    write_document(machine, tenant_key(machine))


def test_killed_server_is_started_again_with_its_data(boot: Boot, built: Path) -> None:
    machine = boot()
    assert machine.deploy("--binary", str(built)).returncode == 0
    key = tenant_key(machine)
    document = write_document(machine, key)
    machine.run("kill", "-9", serving(machine))
    eventually(lambda: restarts(machine) == 1, "systemd starts it again")
    eventually(lambda: machine.run("systemctl", "is-active", "monolite") == "active\n", "READY")
    assert machine.ask("GET", document, key=key)[0] == 200


def test_server_that_hangs_is_ended_by_the_watchdog(boot: Boot, built: Path) -> None:
    machine = boot()
    sooner = machine.root / "etc/systemd/system/monolite.service.d/watchdog.conf"
    sooner.parent.mkdir()
    sooner.write_text("[Service]\nWatchdogSec=2\n")
    assert machine.deploy("--binary", str(built)).returncode == 0
    machine.run("kill", "-STOP", serving(machine))
    eventually(lambda: restarts(machine) == 1, "the watchdog ends it")
    eventually(lambda: machine.run("systemctl", "is-active", "monolite") == "active\n", "READY")
    assert machine.ask("GET", "/readyz")[0] == 200


def test_release_that_never_serves_is_rolled_back(boot: Boot, built: Path, tmp_path: Path) -> None:
    machine = boot()
    assert machine.deploy("--binary", str(built)).returncode == 0
    serves = machine.current
    key = tenant_key(machine)
    document = write_document(machine, key)
    broken = script(
        tmp_path / "broken",
        '#!/bin/sh\n[ "$1" = version ] || exit 1\n'
        f"exec /opt/monolite/{shlex.quote(serves)} version --json\n",
    )
    done = machine.deploy("--binary", str(broken), "--wait", "2")
    assert done.returncode == 1
    assert "rolled back" in done.stderr
    assert machine.current == serves
    assert machine.ask("GET", document, key=key)[0] == 200


def test_replica_is_written_from_inside_the_sandbox(
    boot: Boot, built: Path, s3_server: S3Server
) -> None:
    machine = boot(
        f"MONOLITE_REPLICA_URL={s3_server.fresh_url()}\n"
        f"MONOLITE_S3_ENDPOINT={s3_server.endpoint}\n"
        f"AWS_ACCESS_KEY_ID={s3_server.access_key_id}\n"
        f"AWS_SECRET_ACCESS_KEY={s3_server.secret_access_key}\n"
    )
    done = machine.deploy("--binary", str(built))
    assert done.returncode == 0, done.stderr
    key = tenant_key(machine)
    status, _ = machine.ask(
        "POST",
        "/v1/collections/notes/documents",
        {"text": "kept"},
        key=key,
        prefer="durability=replicated",
    )
    assert status == 201
