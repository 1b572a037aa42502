"""A machine with a systemd of its own: namespaces of this one, with empty /opt, /run, /var/lib,
/var/cache and an /etc whose changes go nowhere. Its network is this machine's.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from tests.deploy.conftest import SCP, Host, executable, free_port
from tests.eventually import eventually

SYSTEMD = Path("/usr/lib/systemd/systemd")

# Every target that systemd or the unit names, and nothing of this machine's.
TARGETS = ("basic", "default", "multi-user", "network-online", "shutdown", "sysinit", "umount")

BOOT = """#!/usr/bin/env bash
set -euo pipefail
mount --make-rprivate /
for directory in /run /opt /var/lib /var/cache; do mount -t tmpfs tmpfs "$directory"; done
mkdir "$1/etc" "$1/work"
mount -t overlay overlay -o "lowerdir=/etc,upperdir=$1/etc,workdir=$1/work" /etc
rm -rf /etc/systemd/system
mkdir -p /etc/systemd/system/default.target.wants /etc/monolite
cp "$1"/units/* /etc/systemd/system/
cp "$1/monolite.env" /etc/monolite/
mkdir -p "$2"
echo $$ >"$2/cgroup.procs"
export container=test SYSTEMD_UNIT_PATH=/etc/systemd/system
exec unshare --cgroup --pid --mount --mount-proc --fork --kill-child \\
    /usr/lib/systemd/systemd --system --log-target=console --show-status=no
"""
SSH = """#!/usr/bin/env bash
while [[ "$1" == -* ]]; do shift 2; done
shift
exec nsenter --target "$(cat '{pid}')" --mount --pid --cgroup --uts --ipc -- bash -c "$*"
"""


class Unbootable(Exception):
    """systemd can't be started here; the message says why."""


class Machine(Host):
    """A host whose systemctl, accounts and unit are real; `root` shows its files."""

    def run(self, *command: str) -> str:
        """Run a command on it; returns what it printed."""
        done = subprocess.run(
            ["ssh", "machine", *command],
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        return done.stdout


@contextmanager
def booted(scratch: Path, settings: str = "") -> Iterator[Machine]:
    """A machine that has booted; raises Unbootable where this one doesn't allow it."""
    for reason, missing in (
        ("not root", os.getuid() != 0),
        ("systemd is not installed", not SYSTEMD.is_file()),
        ("no unshare or nsenter", not (shutil.which("unshare") and shutil.which("nsenter"))),
    ):
        if missing:
            raise Unbootable(reason)
    hierarchy = Path("/sys/fs/cgroup/systemd")
    cgroup = (hierarchy if hierarchy.is_dir() else hierarchy.parent) / f"monolite-{os.getpid()}"
    units = scratch / "units"
    units.mkdir(parents=True)
    for name in TARGETS:
        (units / f"{name}.target").write_text("[Unit]\nDefaultDependencies=no\n")
    port = free_port()
    (scratch / "monolite.env").write_text(f"MONOLITE_LISTEN=127.0.0.1:{port}\n{settings}")
    boot = executable(scratch / "boot", BOOT)
    log = (scratch / "log").open("w")
    booting = subprocess.Popen(
        ["unshare", "--mount", "--uts", "--ipc", str(boot), str(scratch), str(cgroup)],
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=log,
    )
    pid = scratch / "pid"
    executable(scratch / "bin" / "ssh", SSH.format(pid=pid))
    executable(scratch / "bin" / "scp", SCP)
    environment = {**os.environ, "PATH": f"{scratch / 'bin'}:{os.environ['PATH']}"}
    machine = Machine(Path("/"), port, environment)

    def running() -> bool:
        if booting.poll() is not None:
            raise Unbootable((scratch / "log").read_text()[-500:].strip())
        children = Path(f"/proc/{booting.pid}/task/{booting.pid}/children").read_text().split()
        if not children:
            return False
        pid.write_text(children[0])
        machine.root = Path(f"/proc/{children[0]}/root")
        return machine.run("systemctl", "is-system-running").strip() in ("running", "degraded")

    try:
        eventually(running, "systemd boots", seconds_max=15)
        yield machine
    finally:
        booting.kill()
        booting.wait()
        log.close()
        with suppress(FileNotFoundError):
            eventually(lambda: not (cgroup / "cgroup.procs").read_text(), "its processes end")
            for folder, _, _ in os.walk(cgroup, topdown=False):
                os.rmdir(folder)
