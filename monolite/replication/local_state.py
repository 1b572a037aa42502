"""What replication remembers between starts, and whether the database moved on without it."""

from __future__ import annotations

import json
import os
import shutil
import struct
import tempfile
from dataclasses import dataclass
from pathlib import Path

STATE_NAME = "replica.json"
# Litestream's file header, big-endian: magic, flags, page size, commit, first and last transaction
# id, time, checksum before, then the position in the write-ahead log that it was read from:
#   0    4     8     12     16    24    32   40      48     56     64     68
#   LTX1 flags psize commit min   max   ms   before  offset length salt 1 salt 2
LTX_HEADER = struct.Struct(">4sIIIQQqQqqII")
# https://sqlite.org/fileformat2.html#the_write_ahead_log
WAL_HEADER = struct.Struct(">8I")
WAL_FRAME_HEADER_BYTES = 24
# The wal-index header, in the host's byte order: change counter (moves with each commit), page
# size, last committed frame, and the log's salts as they stand in the log, big-endian.
# https://sqlite.org/walformat.html#the_wal_index_header
WAL_INDEX = struct.Struct("=8xI2xHI12x8s")


@dataclass(frozen=True)
class LocalState:
    """Which generation this data directory writes to, at which URL, and since when."""

    url: str
    endpoint: str | None
    generation: str
    last_drill_at_ms: int | None = None
    last_drill_ok: bool | None = None
    last_drill_detail: str | None = None


def load(directory: Path) -> LocalState | None:
    """None when there is none, or when it can't be read: a fresh generation is always safe."""
    try:
        return LocalState(**json.loads((directory / STATE_NAME).read_bytes()))
    except (OSError, ValueError, TypeError):
        return None


def save(directory: Path, state: LocalState) -> None:
    """Writes it whole or not at all. Raises OSError."""
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=directory)
    with os.fdopen(handle, "w") as file:
        json.dump(vars(state), file)
        file.flush()
        os.fsync(file.fileno())
    os.replace(name, directory / STATE_NAME)


def forget(directory: Path) -> None:
    """The next start begins a fresh generation."""
    (directory / STATE_NAME).unlink(missing_ok=True)


def shadow_directory(database: Path) -> Path:
    """Where Litestream keeps its own files for `database`."""
    return database.with_name(f".{database.name}-litestream")


def remove_shadow(database: Path) -> None:
    """Makes Litestream begin anew, with a full copy."""
    shutil.rmtree(shadow_directory(database), ignore_errors=True)


def shadow_bytes(database: Path) -> int:
    """The disk that Litestream's own files take."""
    total = 0
    for folder, _, names in os.walk(shadow_directory(database)):
        for name in names:
            try:
                total += os.stat(os.path.join(folder, name)).st_blocks * 512
            except FileNotFoundError:
                continue
    return total


def newest_txid(database: Path) -> int:
    """The last transaction id that Litestream took out of the log; 0 for none."""
    newest = _newest_file(database)
    return int(newest.stem.rpartition("-")[2], 16) if newest else 0


def moved_on(database: Path) -> str | None:
    """Why the log can't be followed from where Litestream left off; None when it can.

    A checkpoint by anybody else restarts the log under new salts, and what it held is then in no
    file of Litestream's (litestream#752). So does putting another file in the database's place.
    """
    newest = _newest_file(database)
    if newest is None:
        return "Litestream has no local record of it"
    try:
        with newest.open("rb") as file:
            fields = LTX_HEADER.unpack(file.read(LTX_HEADER.size))
        with database.with_name(database.name + "-wal").open("rb") as file:
            raw = file.read(WAL_HEADER.size)
            log_bytes = os.fstat(file.fileno()).st_size
    except FileNotFoundError:
        return "its write-ahead log is gone"
    except (OSError, struct.error) as error:
        return f"Litestream's local record can't be read ({error})"
    if len(raw) < WAL_HEADER.size:
        return "its write-ahead log was truncated"
    magic, offset, length, salts = fields[0], fields[8], fields[9], fields[10:12]
    if magic != b"LTX1":
        return "Litestream's local record is in another format"
    if WAL_HEADER.unpack(raw)[4:6] != salts:
        return "its write-ahead log was restarted by a checkpoint that Litestream didn't make"
    if log_bytes < offset + length:
        return "its write-ahead log is shorter than what Litestream read of it"
    return None


def change_counter(database: Path) -> int | None:
    """A number that changes with each commit; None when the database isn't open anywhere."""
    fields = _wal_index(database)
    return None if fields is None else int(fields[0])


def log_end(database: Path) -> tuple[int, bytes] | None:
    """Where the last commit ends in the write-ahead log, in bytes, and the log's salts."""
    fields = _wal_index(database)
    if fields is None:
        return None
    _, page_bytes, frame, salts = fields
    # 65536 doesn't fit in two bytes; the format writes it as 1.
    page_bytes = 65_536 if page_bytes == 1 else page_bytes
    return WAL_HEADER.size + frame * (WAL_FRAME_HEADER_BYTES + page_bytes), salts


def copied_end(database: Path, txid: int) -> tuple[int, bytes] | None:
    """The same two for the transaction `txid` of Litestream's; None when its file has gone."""
    path = shadow_directory(database) / "ltx" / "0" / f"{txid:016x}-{txid:016x}.ltx"
    try:
        with path.open("rb") as file:
            fields = LTX_HEADER.unpack(file.read(LTX_HEADER.size))
    except (OSError, struct.error):
        return None
    return fields[8] + fields[9], struct.pack(">II", *fields[10:12])


def covers(
    copied: tuple[int, bytes] | None,
    committed: tuple[int, bytes] | None,
    now: tuple[int, bytes] | None,
) -> bool:
    """Whether what Litestream copied reaches what was committed, by the log and not by its word.

    `committed` and `now` are `log_end` before and after it was asked. Litestream missed whole logs
    while it reported success (litestream#1083). When the log was restarted meanwhile, only
    Litestream can have done that, after copying the old one: then the new log's salts must be its.
    """
    if copied is None or committed is None:
        return False
    if copied[1] == committed[1]:
        return copied[0] >= committed[0]
    return now is not None and copied[1] == now[1] and now[1] != committed[1]


def _wal_index(database: Path) -> tuple[int, int, int, bytes] | None:
    path = database.with_name(database.name + "-shm")
    try:
        facts = path.stat()
        inode = (facts.st_dev, facts.st_ino)
        descriptor = _wal_index_descriptors.get(inode)
        if descriptor is None:
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            _wal_index_descriptors[inode] = descriptor
        raw = os.pread(descriptor, WAL_INDEX.size, 0)
    except OSError:
        return None
    return WAL_INDEX.unpack(raw) if len(raw) == WAL_INDEX.size else None


# Opened once for each file and never closed: closing any descriptor of a file drops every POSIX
# lock that the process has on it (fcntl(2)), SQLite's among them. Litestream, started anew, then
# took itself for the only user, truncated the file, and the server died of SIGBUS in its map of it.
_wal_index_descriptors: dict[tuple[int, int], int] = {}


def _newest_file(database: Path) -> Path | None:
    files = sorted((shadow_directory(database) / "ltx" / "0").glob("*.ltx"))
    return files[-1] if files else None
