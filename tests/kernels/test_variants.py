"""Variants of machines that this one is not, and the library under sanitizers.

The NEON variant runs under qemu-user where that and a cross compiler are installed (Debian, Ubuntu:
sudo apt install gcc-aarch64-linux-gnu qemu-user), and is said to be skipped where not.
"""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from monolite.kernels import native

ROOT = Path(__file__).resolve().parents[2]
DRIVER = Path(__file__).with_name("variants_agree.c")
CROSS, EMULATOR = shutil.which("aarch64-linux-gnu-gcc"), shutil.which("qemu-aarch64")


def built(folder: Path, compiler: str, *options: str) -> Path:
    """The driver, linked to a library built by this compiler."""
    library, driver = folder / "libkernels.so", folder / "variants_agree"
    packaging = [sys.executable, str(ROOT / "packaging/kernels.py"), "--output", str(library)]
    run([*packaging, *options], CC=compiler)
    includes = f"-I{ROOT / 'monolite/kernels/native'}"
    sanitizers = ["-fsanitize=address,undefined"] if "--sanitize" in options else []
    own = ["-O1", "-g", "-Wall", "-Wextra", "-Werror", *sanitizers]
    run([compiler, *own, includes, str(DRIVER), "-o", str(driver), str(library), "-lm"])
    return driver


def run(command: list[str], **environment: str) -> str:
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
        env=os.environ | environment,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.skipif(CROSS is None or EMULATOR is None, reason="no aarch64 compiler and qemu-user")
def test_neon_agrees_with_portable_under_qemu(tmp_path: Path) -> None:
    assert CROSS is not None
    assert EMULATOR is not None
    driver = built(tmp_path, CROSS, "--machine", "aarch64")
    libraries = f"LD_LIBRARY_PATH={tmp_path}"
    emulated = [EMULATOR, "-L", "/usr/aarch64-linux-gnu", "-E", libraries, str(driver)]
    assert run([*emulated, "neon", "portable"]) == "neon and portable: 0 differences\n"


def test_variants_touch_nothing_beside_their_arrays(tmp_path: Path) -> None:
    compiler = shutil.which("gcc")
    if compiler is None:
        pytest.skip("no gcc")
    driver = built(tmp_path, compiler, "--sanitize")
    # Blocks that the driver never gives back are no leak of the library's.
    alone = {"LD_LIBRARY_PATH": str(tmp_path), "ASAN_OPTIONS": "detect_leaks=0"}
    for variant in native.load().runnable():
        said = run([str(driver), variant, "portable"], **alone)
        assert said == f"{variant} and portable: 0 differences\n"


@pytest.mark.skipif(platform.machine() != "x86_64", reason="describes x86 variants")
def test_library_has_every_variant_of_its_machine() -> None:
    expected = ["avx512", "avx512vnni", "avxvnni", "avx2", "portable"]
    assert native.load().variants == expected
