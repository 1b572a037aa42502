"""Builds dist/monolite, the one executable. Run by `make binary`.

The file is laid out so that what starts does not wait for what may never be used::

    +--------------+----------------------+-----------------------+------------------------+
    | PyInstaller's| Litestream, xz:      | Granian's and other   | PyInstaller's archive: |
    | bootloader   | read only when a     | libraries, LZ4: by a  | Python, modules, other |
    | (ELF)        | replica is configured| thread, see start.py  | libraries: unpacked    |
    |              |                      |                       | before Python starts   |
    +--------------+----------------------+-----------------------+------------------------+
    0              payload.json has both offsets                    its cookie is at the end
"""

from __future__ import annotations

import hashlib
import json
import lzma
import os
import platform
import shutil
import socket
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path

import lz4.block

ROOT = Path(__file__).resolve().parent.parent
BUILD = ROOT / "build"
DIST = ROOT / "dist"
MODEL = ROOT / "monolite" / "models" / "all-MiniLM-L6-v2.model"
CHAT_MODEL = ROOT / "monolite" / "models" / "SmolLM2-135M-Instruct.gguf"
SIZE_MAX = 60_000_000
"""Of everything but the model."""


def main() -> int:
    """Build, check and describe dist/monolite."""
    if not bootloader().is_file():
        return _refuse(f"PyInstaller has no bootloader for this machine at {bootloader()}")
    litestream = Path(sys.executable).parent / "litestream"
    if not litestream.is_file():
        return _refuse(f"{litestream} is missing: run make setup")
    BUILD.mkdir(exist_ok=True)
    (BUILD / "build.json").write_text(json.dumps({"python": _python(), "commit": _commit()}))
    (BUILD / "start-modules").write_text(_start_modules())
    if not _pyinstaller():
        return _refuse("PyInstaller failed; its last lines are above, all of them in build/log")
    DIST.mkdir(exist_ok=True)
    made = BUILD / "monolite.new"
    with made.open("wb") as file:
        for part in (bootloader(), BUILD / "payload", BUILD / "dist" / "monolite.pkg"):
            file.write(part.read_bytes())
    made.chmod(0o755)
    facts = json.loads(
        subprocess.run([made, "version", "--json"], check=True, capture_output=True).stdout
    )
    size = made.stat().st_size
    if size - MODEL.stat().st_size > SIZE_MAX:
        return _refuse(
            f"{made} has {size} bytes; the most is {SIZE_MAX} and the model. "
            "Find what came along in build/monolite/xref-monolite.html"
        )
    made.replace(DIST / "monolite")
    _put_beside(CHAT_MODEL)
    print(f"dist/monolite {facts['version']}: {size / 1e6:.1f} MB, built by {_python()}")
    return 0


def _put_beside(model: Path) -> None:
    """A language model lies beside the executable: most installations want another, or none."""
    placed = DIST / model.name
    placed.unlink(missing_ok=True)
    try:
        os.link(model, placed)
    except OSError:
        shutil.copyfile(model, placed)


def _refuse(reason: str) -> int:
    print(f"make binary: {reason}", file=sys.stderr)
    return 1


def write_payload(libraries: dict[str, str], rarely: dict[str, str]) -> None:
    """Write build/payload and build/payload.json; the libraries are file by name in the program.

    Those that a start wants are compressed as LZ4, which unpacks at 4 GB/s; those that are `rarely`
    wanted are stripped of debug symbols and compressed as xz. Called by monolite.spec, which knows
    what is bundled.
    """
    sys.path.insert(0, str(ROOT))
    from monolite.bundle import LIBRARY_BLOCK

    inflated = (Path(sys.executable).parent / "litestream").read_bytes()
    digest = hashlib.sha256(inflated).hexdigest()
    kept = BUILD / f"litestream-{digest[:16]}-x86.xz"
    if not kept.is_file():
        kept.write_bytes(_compress(inflated))
    compressed = kept.read_bytes()
    offset = bootloader().stat().st_size
    parts: dict[str, dict[str, object]] = {
        "litestream": {"offset": offset, "bytes": len(compressed), "sha256": digest}
    }
    with (BUILD / "payload").open("wb") as payload:
        payload.write(compressed)
        for name, file in libraries.items():
            content = Path(file).read_bytes()
            blocks = [
                lz4.block.compress(
                    content[start : start + LIBRARY_BLOCK],
                    mode="high_compression",
                    compression=12,
                    store_size=False,
                )
                for start in range(0, len(content), LIBRARY_BLOCK)
            ]
            parts[name] = {
                "offset": offset + payload.tell(),
                "blocks": [len(block) for block in blocks],
            }
            payload.write(b"".join(blocks))
        for name, file in rarely.items():
            content = stripped(Path(file))
            compressed = _compress(content)
            parts[name] = {
                "offset": offset + payload.tell(),
                "bytes": len(compressed),
                "sha256": hashlib.sha256(content).hexdigest(),
            }
            payload.write(compressed)
        # Mapped where it lies: its arrays want a multiple of 64, and readers whole pages.
        payload.write(bytes(-(offset + payload.tell()) % 4096))
        content = MODEL.read_bytes()
        parts[f"monolite/models/{MODEL.name}"] = {
            "offset": offset + payload.tell(),
            "bytes": len(content),
        }
        payload.write(content)
    (BUILD / "payload.json").write_text(json.dumps(parts))


def stripped(library: Path) -> bytes:
    """Without debug symbols; whole where the wheel's builder moved its segments, as numpy's did:
    strip would leave them where no loader takes them.
    """
    if "numpy" in str(library):
        return library.read_bytes()
    stripped = BUILD / "stripped"
    subprocess.run(  # binutils come with gcc
        [shutil.which("strip") or "strip", "--strip-debug", "-o", stripped, library], check=True
    )
    return stripped.read_bytes()


def _compress(program: bytes) -> bytes:
    """As xz; x86's jumps are made absolute first, which makes Litestream 6 % smaller."""
    filters: list[dict[str, int]] = [{"id": lzma.FILTER_LZMA2, "preset": 6}]
    if platform.machine() in ("x86_64", "AMD64"):
        filters.insert(0, {"id": lzma.FILTER_X86})
    return lzma.compress(program, format=lzma.FORMAT_XZ, filters=filters)


def bootloader() -> Path:
    """PyInstaller's first program for this machine."""
    import PyInstaller

    machine = "intel" if platform.machine() in ("x86_64", "AMD64") else "arm"
    return Path(PyInstaller.__file__).parent / f"bootloader/Linux-64bit-{machine}/run"


def _pyinstaller() -> bool:
    modules = sorted(
        ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        for path in (ROOT / "monolite").rglob("*.py")
    )
    environment = os.environ | {"MONOLITE_BUILD": str(BUILD), "MONOLITE_MODULES": " ".join(modules)}
    shutil.rmtree(BUILD / "dist", ignore_errors=True)
    command = [
        sys.executable,
        "-m",
        "PyInstaller",
        "--noconfirm",
        "--log-level",
        "WARN",
        "--distpath",
        str(BUILD / "dist"),
        "--workpath",
        str(BUILD),
        str(ROOT / "packaging" / "monolite.spec"),
    ]
    with (BUILD / "log").open("w") as log:
        done = subprocess.run(
            command, cwd=ROOT, env=environment, stdout=log, stderr=subprocess.STDOUT, check=False
        )
    if done.returncode:
        print("\n".join((BUILD / "log").read_text().splitlines()[-15:]), file=sys.stderr)
    return done.returncode == 0


def _start_modules() -> str:
    """The modules that a server imports until it is ready, one a line."""
    script = """
import os, sys, threading, time, urllib.request
sys.path.insert(0, ".")
def watch():
    while True:
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{sys.argv[2]}/readyz").read()
            break
        except OSError:
            time.sleep(0.05)
    print("\\n".join(sorted(sys.modules)), flush=True)
    os._exit(0)
threading.Thread(target=watch).start()
import server
server.main(["serve", "--data", sys.argv[1], "--listen", f"127.0.0.1:{sys.argv[2]}"])
"""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    with tempfile.TemporaryDirectory() as data:
        done = subprocess.run(
            [sys.executable, "-c", script, data, str(port)],
            cwd=ROOT,
            check=True,
            capture_output=True,
            text=True,
            timeout=60,
        )
    return done.stdout


def _python() -> str:
    configured = " ".join(
        str(sysconfig.get_config_var(name) or "") for name in ("CONFIG_ARGS", "PY_CORE_CFLAGS")
    )
    # Debian and Ubuntu run the profile-opt target by hand, so their configure line is silent.
    optimised = any(
        sign in configured
        for sign in (
            "--enable-optimizations",
            "-fprofile-use",
            "--with-wheel-pkg-dir=/usr/share/python-wheels",
        )
    )
    note = "with" if optimised else "NOT known to be with"
    return f"Python {platform.python_version()} ({note} profile-guided optimisation)"


def _commit() -> str:
    described = subprocess.run(
        [shutil.which("git") or "git", "describe", "--always", "--dirty"],
        cwd=ROOT,
        check=False,
        capture_output=True,
        text=True,
    )
    return described.stdout.strip() or "unknown"


if __name__ == "__main__":
    sys.exit(main())
