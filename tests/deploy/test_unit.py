"""systemd/monolite.service as systemd itself judges it."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

UNIT = Path(__file__).resolve().parents[2] / "systemd" / "monolite.service"

needs_systemd = pytest.mark.skipif(
    shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed"
)


@needs_systemd
def test_exposure_is_two_or_lower() -> None:
    done = subprocess.run(
        ["systemd-analyze", "security", "--offline=yes", "--no-pager", str(UNIT)],
        capture_output=True,
        text=True,
        check=True,
    )
    found = re.search(r"Overall exposure level for \S+: ([0-9.]+)", done.stdout)
    assert found is not None, done.stdout
    assert float(found[1]) <= 2.0


@needs_systemd
def test_unit_verifies_without_a_word(tmp_path: Path) -> None:
    unit = tmp_path / "monolite.service"
    # The executable is put in its place by deploy.sh; any will do for the check.
    unit.write_text(UNIT.read_text().replace("/opt/monolite/monolite ", f"{sys.executable} "))
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", str(unit)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_stop_reaches_the_server_before_its_litestream() -> None:
    # KillMode=control-group would end Litestream while the last writes still wait for it.
    assert "KillMode=mixed" in UNIT.read_text().splitlines()
