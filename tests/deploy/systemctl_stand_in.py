"""A systemctl for a machine without systemd: it really starts and stops the unit's program.

Like systemd with Type=notify, `start` comes back when the program has said READY, or fails when it
ended or said nothing. Paths of the unit are looked up under MONOLITE_DEPLOY_ROOT.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(os.environ["MONOLITE_DEPLOY_ROOT"])
UNIT = ROOT / "etc/systemd/system/monolite.service"
PID = ROOT / "run/monolite.pid"
START_S = 20.0


def unit_value(name: str) -> str:
    """The unit's last `name=`."""
    lines = [x for x in UNIT.read_text().splitlines() if x.startswith(f"{name}=")]
    return lines[-1].partition("=")[2]


def environment() -> dict[str, str]:
    """What EnvironmentFile= gives; a unit inherits nothing of its caller's."""
    values = {"PATH": os.environ["PATH"], "TMPDIR": str(ROOT / "tmp")}
    for line in (ROOT / unit_value("EnvironmentFile").lstrip("-/")).read_text().splitlines():
        if line and not line.startswith("#"):
            name, _, value = line.partition("=")
            values[name] = value
    return values


def running() -> int | None:
    """The unit's main process."""
    try:
        pid = int(PID.read_text())
        os.kill(pid, 0)
    except (OSError, ValueError):
        return None
    state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    return None if state == "Z" else pid


def stop() -> int:
    """SIGTERM, and SIGKILL where that is not heard."""
    pid = running()
    if pid is not None:
        os.kill(pid, signal.SIGTERM)
        deadline = time.monotonic() + START_S
        while running() is not None:
            if time.monotonic() > deadline:
                os.killpg(pid, signal.SIGKILL)
            time.sleep(0.005)
    PID.unlink(missing_ok=True)
    return 0


def start() -> int:
    """ExecStart, and wait for READY=1."""
    if running() is not None:
        return 0
    command = [
        str(ROOT / word.lstrip("/")) if word.startswith("/") else word
        for word in unit_value("ExecStart").split()
    ]
    (ROOT / "run").mkdir(exist_ok=True)
    (ROOT / "tmp").mkdir(exist_ok=True)
    address = ROOT / "run" / "notify"
    address.unlink(missing_ok=True)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(str(address))
        listener.settimeout(0.02)
        with (ROOT / "journal").open("a") as journal:
            child = subprocess.Popen(
                command,
                env={**environment(), "NOTIFY_SOCKET": str(address)},
                stdin=subprocess.DEVNULL,
                stdout=journal,
                stderr=journal,
                start_new_session=True,
            )
        PID.write_text(str(child.pid))
        deadline = time.monotonic() + START_S
        while time.monotonic() < deadline and child.poll() is None:
            try:
                if b"READY=1" in listener.recv(4096):
                    os._exit(0)  # the child lives on
            except TimeoutError:
                continue
    stop()
    return 1


def main(words: list[str]) -> int:
    """One systemctl call."""
    with (ROOT / "systemctl.log").open("a") as log:
        log.write(" ".join(words) + "\n")
    verb = next(word for word in words if not word.startswith("-"))
    if verb == "restart":
        stop()
        return start()
    if verb == "stop":
        return stop()
    if verb == "is-active":
        return 0 if running() is not None else 3
    return 0 if verb in ("daemon-reload", "enable") else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
