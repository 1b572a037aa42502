"""Peers as they run on a CPU without AVX-512 and VNNI, beside MONOLITE_KERNELS=avx2.

Most have no switch for it: they ask the CPU. A copy of such a package is made whose CPUID
instructions are replaced, and older_cpu.c answers in the CPU's place. `use("onnxruntime")` before
its first import is all that a benchmark does. A second CPUID in a library that none replaced would
make a peer faster than it should be, not slower.
"""

from __future__ import annotations

import ctypes
import importlib.util
import re
import shutil
import subprocess
import sys
from pathlib import Path

from bench.minilm import cache

_CPUID, _UD2 = b"\x0f\xa2", b"\x0f\x0b"


def use(package: str) -> None:
    """Import `package` from a copy that believes in an older CPU, from now on in this process."""
    if package in sys.modules:
        raise RuntimeError(f"{package} was imported before")
    _answer_for_the_cpu()
    sys.path.insert(0, str(_copy_of(package)))


def _answer_for_the_cpu() -> None:
    source = Path(__file__).with_suffix(".c")
    library = cache() / "older_cpu.so"
    gcc = shutil.which("gcc") or "gcc"
    command = [gcc, "-O2", "-shared", "-fPIC", "-Wall", str(source), "-o", str(library)]
    subprocess.run(command, check=True)
    ctypes.CDLL(str(library))


def _copy_of(package: str) -> Path:
    found = importlib.util.find_spec(package)
    assert found is not None
    assert found.origin is not None
    is_module = not found.submodule_search_locations
    origin = Path(found.origin) if is_module else Path(found.origin).parent
    stamp = f"{package}-{int(origin.stat().st_mtime)}"
    folder = cache() / "older-cpu" / stamp
    if not folder.exists():
        made = folder.with_suffix(".new")
        shutil.rmtree(made, ignore_errors=True)
        made.mkdir(parents=True)
        if is_module:
            shutil.copy(origin, made)
        else:
            shutil.copytree(origin, made / origin.name)
        libraries = origin.parent / f"{package}.libs"
        if libraries.exists():
            shutil.copytree(libraries, made / libraries.name)
        replaced = sum(_replace_cpuid(file) for file in sorted(made.rglob("*.so*")))
        print(f"{package}: {replaced} CPUID instructions replaced in a copy", file=sys.stderr)
        made.replace(folder)
    return folder


def _replace_cpuid(file: Path) -> int:
    """Where `cpuid` stands as an instruction, and not as two bytes of something else."""
    objdump = shutil.which("objdump") or "objdump"
    code = bytearray(file.read_bytes())
    if code[:4] != b"\x7fELF":
        return 0
    headers = subprocess.run([objdump, "-h", str(file)], check=True, capture_output=True, text=True)
    sections = [
        (int(size, 16), int(address, 16), int(offset, 16))
        for size, address, offset in re.findall(
            r"^ +\d+ \.text\S* +(\w+) +(\w+) +\w+ +(\w+)", headers.stdout, re.MULTILINE
        )
    ]
    command = [objdump, "-d", "--no-show-raw-insn", str(file)]
    count = 0
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as listing:
        assert listing.stdout is not None
        for line in listing.stdout:
            if not line.endswith("\tcpuid\n"):
                continue
            at = int(line.partition(":")[0], 16)
            for size, address, offset in sections:
                place = at - address + offset
                if address <= at < address + size and code[place : place + 2] == _CPUID:
                    code[place : place + 2] = _UD2
                    count += 1
    if count:
        file.write_bytes(code)
    return count
