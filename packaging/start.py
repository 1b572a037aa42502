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
import os
import select
import signal
import sys
import threading
import time
from pathlib import Path

from monolite.bundle import copy_stored

LOCK = ".in-use"
MARK = "payload.json"
UNLOCKED_AGE_S = 600
HOUSEKEEPING_AFTER_S = 3.0
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


class _Granian:
    """Unpacks Granian's library, 20 MB, beside the imports that come before it is wanted."""

    name = "granian._granian"

    def __init__(self, unpacked: str) -> None:
        suffix = importlib.machinery.EXTENSION_SUFFIXES[0]
        self._file = Path(unpacked, "granian", f"_granian{suffix}")
        self._failure: OSError | None = None
        self._thread = threading.Thread(target=self._unpack, name="unpack-granian")
        self._thread.start()

    def _unpack(self) -> None:
        try:
            self._file.parent.mkdir(mode=0o700, exist_ok=True)
            copy_stored("granian", self._file)
        except OSError as failure:
            self._failure = failure

    def find_spec(self, name: str, path: object = None, target: object = None) -> None:
        """Find nothing, but hold the search for Granian until its file is whole."""
        if name == self.name:
            self._thread.join()
            if self._failure is not None:
                raise ImportError(f"{self._file} could not be unpacked: {self._failure}")


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
    sys.meta_path.insert(0, _Granian(unpacked))  # type: ignore[arg-type]
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
