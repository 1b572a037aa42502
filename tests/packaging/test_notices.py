"""THIRD_PARTY_NOTICES names every part of the executable."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from monolite import licenses

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "packaging"))
import notices  # noqa: E402
from go_modules import go_modules  # noqa: E402

LITESTREAM = Path(sys.executable).parent / "litestream"


def test_notices_are_what_the_installed_parts_make() -> None:
    done = subprocess.run(
        [sys.executable, "packaging/notices.py"], cwd=ROOT, capture_output=True, text=True
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_every_python_part_is_named_with_its_version() -> None:
    text = licenses.text()
    locks = [(ROOT / "requirements" / name).read_text() for name in ("runtime.txt", "bare.txt")]
    pinned = re.findall(r"^([a-z0-9_.-]+)==(\S+)", "\n".join(locks), re.MULTILINE | re.IGNORECASE)
    assert len(pinned) >= 11
    assert [pin for pin in pinned if f"\n{pin[0]} {pin[1]}: " not in text] == []


def test_every_go_module_of_litestream_is_named_with_its_version() -> None:
    text = licenses.text()
    modules = go_modules(LITESTREAM)
    assert "github.com/aws/aws-sdk-go-v2" in modules
    assert [m for m, version in modules.items() if f"  {m} {version}: " not in text] == []


def test_unlisted_go_module_is_refused() -> None:
    with pytest.raises(notices.UnknownLicense, match=r"example\.org/new"):
        notices.go_license("example.org/new")


def test_file_without_go_build_information_is_refused() -> None:
    with pytest.raises(ValueError, match="no build information"):
        go_modules(Path(__file__))


def test_every_system_library_of_the_built_executable_is_named() -> None:
    listing = ROOT / "build" / "monolite" / "PKG-00.toc"
    if not listing.exists():
        pytest.skip("no executable was built in this checkout: make binary")
    bundled = set(re.findall(r"'(lib[a-z_]+)[^/']*\.so[^']*'", listing.read_text()))
    assert {x for x in bundled if x not in notices.SYSTEM_LIBRARIES} == set()
