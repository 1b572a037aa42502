"""The directory that is one installation: its files, its lock, its private writes."""

from __future__ import annotations

import fcntl
import os
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from monolite.storage.errors import DataDirectoryInUse, from_os_error


@dataclass(frozen=True)
class DataDirectory:
    """Names every file of an installation, so that no other module spells one."""

    path: Path

    @property
    def database(self) -> Path:
        """The SQLite file."""
        return self.path / "monolite.db"

    @property
    def operator_key(self) -> Path:
        """The key of the machine's operator, 0600."""
        return self.path / "operator.key"

    @property
    def root_secret(self) -> Path:
        """The secret that stays out of the database and its replica, 0600."""
        return self.path / "root.secret"

    @property
    def server_info(self) -> Path:
        """Where a running server says how to reach it."""
        return self.path / "server.json"

    @property
    def capacity(self) -> Path:
        """What `doctor` measured of this box."""
        return self.path / "capacity.json"

    @property
    def config(self) -> Path:
        """The settings file that a directory may carry."""
        return self.path / "monolite.toml"

    @property
    def lock_file(self) -> Path:
        """What the serving process holds locked."""
        return self.path / "monolite.lock"

    @property
    def replica_state(self) -> Path:
        """A directory: what replication remembers between starts."""
        return self.path / "replica"

    def prepare(self) -> None:
        """Makes the directory (0700) when missing and proves that a file can be made in it.

        Raises StorageReadOnly, StorageFull or StorageUnavailable, each naming the path.
        """
        try:
            self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
            probe = _scratch(self.path / ".probe")
            os.close(_create(probe))
            probe.unlink()
        except OSError as error:
            raise from_os_error(error, f"write in the data directory {self.path}") from error

    def lock(self) -> DirectoryLock:
        """Takes the directory for this process; the kernel gives it back however that ends.

        Raises DataDirectoryInUse at once, naming the process that holds it.
        """
        return DirectoryLock(self)


class DirectoryLock:
    """An flock(2) on monolite.lock, which holds the pid of the holder for people to read."""

    def __init__(self, directory: DataDirectory) -> None:
        path = directory.lock_file
        try:
            self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise from_os_error(error, f"open the lock file {path}") from error
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            holder = os.pread(self._descriptor, 32, 0).decode("ascii", "replace").strip()
            os.close(self._descriptor)
            self._descriptor = -1
            raise DataDirectoryInUse(
                f"{directory.path} is in use by process {holder or 'unknown'}: stop it first, "
                "or choose another directory with --data"
            ) from error
        except OSError as error:
            os.close(self._descriptor)
            self._descriptor = -1
            raise from_os_error(error, f"lock {path}") from error
        try:
            os.ftruncate(self._descriptor, 0)
            os.pwrite(self._descriptor, b"%d\n" % os.getpid(), 0)
        except OSError as error:
            self.release()
            raise from_os_error(error, f"write the lock file {path}") from error

    def release(self) -> None:
        """Gives the directory back; calling it twice is harmless.

        The file stays: removing it would let two processes lock two files of one name.
        """
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.release()


def write_private(path: Path, content: bytes) -> None:
    """Puts `content` at `path` with mode 0600, whole or not at all, and synced.

    A reader sees the old bytes or the new ones. Raises StorageFull, StorageReadOnly or
    StorageUnavailable.
    """
    temporary = _scratch(path)
    try:
        with os.fdopen(_create(temporary), "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.rename(path)
        sync_directory(path.parent)
    except OSError as error:
        raise from_os_error(error, f"write {path}") from error
    finally:
        temporary.unlink(missing_ok=True)


def _scratch(path: Path) -> Path:
    """A name beside `path` that no other process uses; tempfile would cost a cold start 3 ms."""
    return path.with_name(f".{path.name}.{os.getpid()}-{os.urandom(4).hex()}")


def _create(path: Path) -> int:
    return os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o600)


def sync_directory(path: Path) -> None:
    """Makes a rename or a new name in `path` survive a power cut. Raises OSError."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
