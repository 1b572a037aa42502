"""Bringing a database back from S3: beside, verified, then renamed into place; never over one."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path

import apsw

from monolite.replication import executable, generations, manifest
from monolite.replication.errors import ReplicaUnreachable, ReplicaUnverified, TargetExists
from monolite.replication.process import dying_with_us
from monolite.replication.s3 import S3Client
from monolite.replication.settings import ReplicaSettings
from monolite.replication.status import RestoreReport

# Litestream's words for a path, or a moment, that it has no files for.
NOTHING_THERE = "no matching backup files available"
PROBLEMS_SHOWN = 5


def restore(
    settings: ReplicaSettings,
    target: Path,
    *,
    timestamp: str | None = None,
    progress: Callable[[str], None],
    accept_differences: bool = False,
) -> RestoreReport | None:
    """Restores the newest state, or that of `timestamp` (RFC 3339), to `target`. Blocks.

    None means that nothing was ever replicated there, so a fresh start is right. Raises
    TargetExists; ReplicaUnreachable when S3 doesn't answer, so whether a replica exists is unknown
    and starting empty would be wrong; ReplicaUnverified when what came back can't be proved right;
    ReplicationMisconfigured; ValueError for a timestamp that isn't one. In every case nothing is
    put in place. `accept_differences` lets row counts differ from the manifest, and nothing else.
    """
    at_ms = None if timestamp is None else _milliseconds(timestamp)
    _refuse_existing(target)
    program = executable.find_executable()
    began_s = time.monotonic()
    candidates = generations.candidates(S3Client(settings), settings, at_ms)
    if not candidates:
        progress(f"no replica in {settings.url} yet")
        return None
    target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".restore-", dir=target.parent) as folder:
        copy = Path(folder) / target.name
        for generation in candidates:
            progress(f"restoring {settings.generation_url(generation.name)}")
            point = [] if timestamp is None else ["-timestamp", _as_rfc3339(at_ms or 0)]
            txid = run_restore(settings, program, generation.name, copy, point)
            if txid is not None:
                break
        else:
            raise ReplicaUnverified(
                f"no generation in {settings.url} has files that reach back to {timestamp}. "
                "Ask for a later moment, or leave the timestamp out for the newest state"
            )
        progress(f"verifying {copy.stat().st_size} bytes")
        found = prove(copy)
        if found.failures and not accept_differences:
            raise ReplicaUnverified(
                f"{settings.generation_url(generation.name)} was restored, and its rows differ from"
                f" its manifest: {'; '.join(found.failures[:PROBLEMS_SHOWN])}. Restore an earlier "
                "moment with --timestamp, or accept the differences explicitly"
            )
        size = copy.stat().st_size
        _put_in_place(copy, target)
    progress(f"restored {size} bytes to {target}")
    return RestoreReport(
        generation=generation.name,
        txid=txid,
        database_bytes=size,
        duration_ms=round((time.monotonic() - began_s) * 1000),
        rows=dict(found.rows),
        manifest_recorded_at_ms=found.recorded_at_ms,
        differences=dict(found.differences),
    )


def run_restore(
    settings: ReplicaSettings,
    program: Path,
    generation: str,
    copy: Path,
    point: list[str],
) -> int | None:
    """Runs `litestream restore` into `copy`; the transaction id, None if it has nothing there.

    Raises ReplicaUnverified with Litestream's own words, ReplicaUnreachable, OSError.
    """
    environment = executable.child_environment(
        settings, database=copy, socket=copy.with_name("unused.sock"), generation=generation
    )
    command = [str(program), "restore", "-config", str(executable.find_config()), "-json", *point]
    try:
        answer = _run([*command, "-o", str(copy), str(copy)], environment)
    except OSError as error:
        raise ReplicaUnverified(f"{program} can't be run: {error}") from error
    if answer.returncode == 0:
        return int(json.loads(answer.stdout)["txid"], 16)
    text = settings.redact((answer.stderr or answer.stdout).strip())
    if NOTHING_THERE in text:
        return None
    where = settings.generation_url(generation)
    if "no space left" in text:
        raise OSError(28, f"no space left to restore {where}; free some and try again")
    if any(sign in text for sign in ("connection refused", "no such host", "i/o timeout")):
        raise ReplicaUnreachable(f"S3 stopped answering while restoring {where}: {text}")
    raise ReplicaUnverified(
        f"{where} can't be restored: {text}. Restore an earlier moment with --timestamp; "
        "nothing was put in place"
    )


def prove(copy: Path) -> manifest.Verification:
    """Reads every page and row of a restored file. Raises ReplicaUnverified when it is damaged."""
    try:
        # Immutable: reading must not make a log beside it, nor take a lock.
        connection = apsw.Connection(
            f"{copy.absolute().as_uri()}?immutable=1",
            flags=apsw.SQLITE_OPEN_READONLY | apsw.SQLITE_OPEN_URI,
        )
        try:
            problems = [
                str(row[0])
                for row in connection.execute(f"PRAGMA integrity_check({PROBLEMS_SHOWN})")
            ]
            if problems != ["ok"]:
                raise ReplicaUnverified(
                    f"the restored copy fails integrity_check: {'; '.join(problems)}. "
                    "Restore an earlier moment with --timestamp"
                )
            return manifest.verify(connection)
        finally:
            connection.close()
    except apsw.Error as error:
        raise ReplicaUnverified(
            f"the restored copy can't be read: {error}. Restore an earlier moment with --timestamp"
        ) from error


def _run(command: list[str], environment: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        dying_with_us(*command),
        env=dict(environment),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )


def _refuse_existing(target: Path) -> None:
    for path in (target, target.with_name(target.name + "-wal")):
        if path.exists():
            raise TargetExists(
                f"{path} exists and is never overwritten; move it away, or restore elsewhere"
            )


def _put_in_place(copy: Path, target: Path) -> None:
    with copy.open("rb") as file:
        os.fsync(file.fileno())
    os.chmod(copy, 0o600)
    # A link, unlike a rename, fails when something is there.
    try:
        os.link(copy, target)
    except FileExistsError:
        _refuse_existing(target)
        raise
    except OSError:
        _refuse_existing(target)
        shutil.move(copy, target)
    folder = os.open(target.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _milliseconds(timestamp: str) -> int:
    moment = datetime.fromisoformat(timestamp)
    if moment.tzinfo is None:
        raise ValueError(f"{timestamp!r} has no time zone; write it as 2026-11-23T08:00:00Z")
    return round(moment.timestamp() * 1000)


def _as_rfc3339(at_ms: int) -> str:
    moment = datetime.fromtimestamp(at_ms / 1000, UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")
