"""Runs inside the executable before server.py: what being one file asks for.

The executable is two processes. PyInstaller's bootloader unpacks into a private `_MEI…` directory,
starts the server as its child, passes every signal on, and removes the directory at the end. A
bootloader that is killed can do neither of the last two, so the server watches it and ends with
it, and each start removes what killed ones left behind.
"""

import contextlib
import fcntl
import gc
import importlib.machinery
import importlib.util
import marshal
import os
import select
import signal
import sys
import threading
import time
import zlib
from pathlib import Path

from monolite.bundle import (
    BundleDamaged,
    start_libraries,
    unpack_compressed,
    unpack_library,
    unpacking,
)

LOCK = ".in-use"
MARK = "payload.json"
UNLOCKED_AGE_S = 600
HOUSEKEEPING_AFTER_S = 3.0
# PyInstaller's type codes of an entry.
MODULE, PACKAGE = 0, 1
MODULE_KINDS = (MODULE, PACKAGE)
TRUST_STORES = (
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
)


def _import_lazily(name: str) -> None:
    """Let `import name` cost nothing until an attribute is first read."""
    spec = importlib.util.find_spec(name)
    if spec is None or spec.loader is None:
        return
    spec.loader = importlib.util.LazyLoader(spec.loader)
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)


# The modules that load each library of a start.
WANTED_BY = {
    "_hashlib": ("libcrypto.",),
    "_ssl": ("libcrypto.", "libssl."),
    "apsw": ("apsw/",),
    "granian._granian": ("granian/",),
}
# Packages whose libraries are unpacked where they are first imported, if ever.
RARELY = {
    "asyncpg": ("asyncpg/",),
    "monolite.kernels.native": ("monolite/kernels/",),
    "numpy": ("numpy/", "numpy.libs/", "libstdc++."),
    "regex": ("regex/",),
    "rpds": ("rpds/",),
    "safetensors": ("safetensors/",),
    "tokenizers": ("tokenizers/",),
}


class _Libraries:
    """Unpacks the large libraries: Granian's, 21 MB, in a thread while Python imports what comes
    before, the others where they are imported.
    """

    def __init__(self, unpacked: str) -> None:
        self._unpacked = Path(unpacked)
        self._names = start_libraries()
        self._lock = threading.Lock()
        self._whole: set[str] = set()
        threading.Thread(target=self._unpack_first, name="unpack-libraries").start()

    def _unpack_first(self) -> None:
        # Whoever imports it tries again, and has the failure.
        with contextlib.suppress(ImportError):
            self.unpack(("granian/",))

    def unpack(self, starts: tuple[str, ...]) -> None:
        """Come back when the libraries are on disk. Raises ImportError when that failed."""
        with self._lock:
            for name in self._names:
                if name.startswith(starts) and name not in self._whole:
                    try:
                        unpack_library(name, self._unpacked / name)
                    except (OSError, BundleDamaged) as failure:
                        raise ImportError(f"{name} could not be unpacked: {failure}") from failure
                    self._whole.add(name)

    def unpack_rare(self, package: str) -> None:
        """Unpack a package's libraries. Raises ImportError when that failed."""
        try:
            for start in RARELY[package]:
                unpack_compressed(start, self._unpacked)
        except (OSError, RuntimeError) as failure:
            raise ImportError(f"{package} could not be unpacked: {failure}") from failure


class _Modules:
    """Finds the archive's modules directly.

    PyInstaller's finder comes last on a path of three, and opens the executable anew by name for
    each module: 0.1 ms each, and none can be found once an upgrade has removed the file.
    """

    def __init__(self, libraries: _Libraries) -> None:
        importers = sys.modules["pyimod02_importers"]
        self._archive = importers.pyz_archive
        self._loader = importers.PyiFrozenLoader
        self._libraries = libraries
        executable = os.open("/proc/self/exe", os.O_RDONLY | os.O_CLOEXEC)
        start = self._archive._start_offset
        toc = self._archive.toc

        def extract(name: str, raw: bool = False) -> object:
            kind, offset, length = toc[name]
            if kind not in MODULE_KINDS and not raw:
                return None
            content = zlib.decompress(os.pread(executable, length, start + offset))
            return content if raw else marshal.loads(content)  # noqa: S302  # our own code

        self._archive.extract = extract

    def find_spec(self, name: str, path: object = None, target: object = None) -> object:
        """The module's spec, or None where the archive does not hold it."""
        if starts := WANTED_BY.get(name):
            self._libraries.unpack(starts)
        elif name in RARELY:
            self._libraries.unpack_rare(name)
        entry = self._archive.toc.get(name)
        if entry is None or entry[0] not in MODULE_KINDS:
            return None
        package = entry[0] == PACKAGE
        loader = self._loader(
            name=name, pyz_archive=self._archive, pyz_entry_name=name, is_package=package
        )
        spec = importlib.machinery.ModuleSpec(name, loader, origin=loader.path, is_package=package)
        spec.has_location = True
        if package:
            spec.submodule_search_locations = [os.path.dirname(loader.path)]
        return spec


def _remove(directory: str) -> None:
    import shutil

    shutil.rmtree(directory, ignore_errors=True)


def _remove_left_behind(folder: str, own: str) -> None:
    """Remove unpacked directories of this program, this user's, whose process is dead."""
    with os.scandir(folder) as entries:
        directories = [
            entry
            for entry in entries
            if entry.name.startswith("_MEI")
            and entry.path != own
            and entry.is_dir(follow_symlinks=False)
            and entry.stat(follow_symlinks=False).st_uid == os.getuid()
            and os.path.exists(os.path.join(entry.path, MARK))
        ]
    for entry in directories:
        try:
            held = os.open(os.path.join(entry.path, LOCK), os.O_RDWR | os.O_CLOEXEC)
        except FileNotFoundError:
            # Being unpacked just now, or killed while it was.
            if time.time() - entry.stat(follow_symlinks=False).st_mtime < UNLOCKED_AGE_S:
                continue
            held = -1
        try:
            if held >= 0:
                fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
            _remove(entry.path)
        except OSError:
            continue  # in use
        finally:
            if held >= 0:
                os.close(held)


def _wait_for_end(parent: int, timeout_s: float | None) -> bool:
    """Wait until process `parent`, ours at start, is gone; False when the time-out came first."""
    try:
        descriptor = os.pidfd_open(parent)
    except OSError:  # Linux before 5.3
        until = time.monotonic() + (timeout_s if timeout_s is not None else float("inf"))
        while os.getppid() == parent and time.monotonic() < until:
            time.sleep(0.5)
        return os.getppid() != parent
    try:
        watch = select.poll()
        watch.register(descriptor, select.POLLIN)
        return bool(watch.poll(None if timeout_s is None else timeout_s * 1000))
    finally:
        os.close(descriptor)


def _end_with(parent: int, unpacked: str) -> None:
    """Die with the bootloader as it did: at once."""
    # The first request comes before housekeeping.
    if not _wait_for_end(parent, HOUSEKEEPING_AFTER_S):
        with contextlib.suppress(OSError):
            _remove_left_behind(os.path.dirname(unpacked), unpacked)
        _wait_for_end(parent, None)
    _die(unpacked)


def _die(unpacked: str) -> None:
    # A library that another thread unpacks meanwhile would bring the directory back.
    unpacking.acquire()
    _remove(unpacked)
    os.kill(os.getpid(), signal.SIGKILL)


def _is_bootloader(process: int) -> bool:
    try:
        return os.path.samefile(f"/proc/{process}/exe", "/proc/self/exe")
    except OSError:
        return process != 1  # /proc is hidden: only an adopted process has init as parent


def _start() -> None:
    # Start-up makes what stays; the server sets its own thresholds once it is up.
    gc.set_threshold(200_000, 20, 100)
    unpacked: str = sys._MEIPASS  # type: ignore[attr-defined]
    sys.meta_path.insert(0, _Modules(_Libraries(unpacked)))  # type: ignore[arg-type]
    # Held as long as the process lives; the kernel lets go of it whatever ends the process.
    lock = os.open(os.path.join(unpacked, LOCK), os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
    fcntl.flock(lock, fcntl.LOCK_EX)
    # The bootloader's library path is for this process alone: children use the machine's own.
    original = os.environ.pop("LD_LIBRARY_PATH_ORIG", None)
    if original is None:
        os.environ.pop("LD_LIBRARY_PATH", None)
    else:
        os.environ["LD_LIBRARY_PATH"] = original
    # OpenSSL looks where the builder's distribution keeps its certificates; others differ.
    if "SSL_CERT_FILE" not in os.environ:
        for path in TRUST_STORES:
            if os.path.exists(path):
                os.environ["SSL_CERT_FILE"] = path
                break
    parent = os.getppid()
    if not _is_bootloader(parent):
        _die(unpacked)  # it was killed before this process could watch it
    threading.Thread(
        target=_end_with, args=(parent, unpacked), name="bootloader-watch", daemon=True
    ).start()


_start()
# asyncio imports both and needs neither until a connection of its own speaks TLS: 10 ms.
for _module in ("ssl", "asyncio.sslproto"):
    _import_lazily(_module)
