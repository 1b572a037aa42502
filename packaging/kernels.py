"""Builds monolite/kernels/libkernels.so from monolite/kernels/native/*.c. Run by `make setup`.

One file for each variant and machine: variant.c is compiled once for each set of instructions, and
dispatch.c chooses at run time. Needs gcc alone, or the compiler that CC names. Without one the
build says so and ends well: numpy computes instead.

    python packaging/kernels.py [--sanitize] [--output FILE]
"""

from __future__ import annotations

import argparse
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SOURCES = ROOT / "monolite" / "kernels" / "native"
LIBRARY = ROOT / "monolite" / "kernels" / "libkernels.so"

# Contraction makes fused multiply-adds; nothing reads errno or the rounding mode.
FLAGS = ["-std=gnu11", "-O3", "-fPIC", "-ffp-contract=fast", "-fno-math-errno"]
WARNINGS = ["-Wall", "-Wextra", "-Werror", "-Wno-psabi"]
# Both machines read from any address; the small tiles are linear.h's.
SANITIZE = ["-O1", "-g", "-DSMALL_TILES", "-fsanitize=address,undefined"]
SANITIZE += ["-fno-sanitize=alignment", "-fno-sanitize-recover"]
AVX2 = ["-mavx2", "-mfma", "-mf16c", "-mpopcnt"]
AVX512 = [*AVX2, *(f"-mavx512{part}" for part in ("f", "bw", "vl", "dq", "vnni"))]
AVX512 += ["-mprefer-vector-width=512"]
# Its rounding adds a constant; where that is fused with the product before it, codes change.
PORTABLE = ["-ffp-contract=off"]
VARIANTS = {
    "x86_64": {
        "avx512": [*AVX512, "-mavx512vpopcntdq"],
        "avx512vnni": AVX512,
        "avxvnni": [*AVX2, "-mavxvnni"],
        "avx2": AVX2,
        "portable": PORTABLE,
    },
    "aarch64": {"neon": ["-march=armv8.2-a+dotprod"], "portable": PORTABLE},
}


def main() -> int:
    """Build; returns the exit code."""
    parser = argparse.ArgumentParser(description="Build the kernels' library.")
    parser.add_argument("--sanitize", action="store_true", help="with address and UB sanitizers")
    parser.add_argument("--output", type=Path, default=LIBRARY, help="the library to write")
    parser.add_argument("--machine", default=platform.machine(), help="compile for this machine")
    arguments = parser.parse_args()
    compiler = os.environ.get("CC", "gcc").split()
    if shutil.which(compiler[0]) is None:
        print(
            f"kernels: no {compiler[0]}, so numpy computes vectors, ten to fifty times slower. "
            "Install gcc and run make setup again.",
            file=sys.stderr,
        )
        return 0
    flags = [*FLAGS, *WARNINGS, *(SANITIZE if arguments.sanitize else [])]
    try:
        build(
            compiler,
            flags,
            VARIANTS.get(arguments.machine, {"portable": PORTABLE}),
            arguments.output,
        )
    except subprocess.CalledProcessError as error:
        print(error.stderr, file=sys.stderr)
        print(f"kernels: {' '.join(error.cmd)} failed, see above", file=sys.stderr)
        return 1
    return 0


def build(
    compiler: list[str], flags: list[str], variants: dict[str, list[str]], output: Path
) -> None:
    """Compile and link; the library is replaced at once. Raises CalledProcessError."""
    with tempfile.TemporaryDirectory() as scratch:
        objects = Path(scratch)
        units = {name: (name, list[str]()) for name in ("dispatch", "pool")}
        units |= {name: ("variant", [*own, f"-DVARIANT={name}"]) for name, own in variants.items()}
        commands = [
            [*compiler, *flags, *own, "-c", f"{SOURCES / unit}.c", "-o", f"{objects / name}.o"]
            for name, (unit, own) in units.items()
        ]
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            list(pool.map(run, commands))
        made = output.with_suffix(f".{os.getpid()}")
        strip = [] if "-g" in flags else ["-s"]
        linked = [str(path) for path in sorted(objects.glob("*.o"))]
        sanitizers = [flag for flag in flags if flag.startswith("-fsanitize")]
        link = [*compiler, "-shared", *strip, *sanitizers, *linked, "-lm", "-pthread"]
        run([*link, "-o", str(made)])
        made.replace(output)


def run(command: list[str]) -> None:
    """One compiler call. Raises CalledProcessError with what it said."""
    subprocess.run(command, check=True, capture_output=True, text=True)


if __name__ == "__main__":
    sys.exit(main())
