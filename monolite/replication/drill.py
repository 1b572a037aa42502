"""The restore drill: bring the replica back into a scratch directory and prove it.

Exact without holding the writer: a read transaction pins one state of the live database. If
Litestream's newest file ends at the very frame that the transaction sees, restoring that file's
transaction id must give the same rows. Under constant writes the two meet after a few attempts;
if they never do, the copy is compared with the recorded manifest instead, and the report says so.
"""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from monolite.clock import Clock
from monolite.replication import local_state, manifest
from monolite.replication.control import SyncAnswer
from monolite.replication.errors import ReplicaUnreachable, ReplicaUnverified
from monolite.replication.manifest import TableFacts
from monolite.replication.restore import prove, run_restore
from monolite.replication.settings import ReplicaSettings
from monolite.replication.status import DrillReport
from monolite.storage.sqlite.connection import open_reader

ATTEMPTS = 100
SYNC_TIMEOUT_S = 30.0


class Sync(Protocol):
    """`ControlSocket.sync`."""

    async def __call__(self, *, wait: bool, timeout_s: float) -> SyncAnswer: ...


async def run_drill(
    settings: ReplicaSettings,
    database: Path,
    generation: str,
    *,
    sync: Sync,
    executable_path: Path,
    clock: Clock,
    progress: Callable[[str], None],
) -> DrillReport:
    """One drill; a replica that fails it is a report with `ok` false.

    Raises ReplicationUnavailable when Litestream can't sync now, OSError when there is no room.
    """
    started_at_ms, began_s = clock.now_ms(), clock.monotonic()
    progress("pinning a state of the live database")
    txid, expected = await _pin(database, sync)
    await sync(wait=True, timeout_s=SYNC_TIMEOUT_S)
    folder = Path(tempfile.mkdtemp(prefix=".drill-", dir=database.parent))
    rows: dict[str, int] = {}
    size = 0
    try:
        copy = folder / database.name
        progress(f"restoring transaction {txid} of {settings.generation_url(generation)}")
        point = ["-txid", f"{txid:016x}"]
        restored = await asyncio.to_thread(
            run_restore, settings, executable_path, generation, copy, point
        )
        if restored is None:
            raise ReplicaUnverified(f"S3 holds no files for transaction {txid}")
        size = copy.stat().st_size
        progress(f"verifying {size} bytes")
        found = await asyncio.to_thread(prove, copy)
        rows = dict(found.rows)
        failures = list(found.failures) if expected is None else _compare(expected, rows)
        ok = not failures
        detail = "; ".join(failures[:5]) or f"{sum(rows.values())} rows in {len(rows)} tables"
    except (ReplicaUnverified, ReplicaUnreachable) as error:
        ok, detail = False, settings.redact(str(error))
    finally:
        await asyncio.to_thread(shutil.rmtree, folder, True)
    progress(detail)
    return DrillReport(
        ok=ok,
        detail=detail,
        started_at_ms=started_at_ms,
        duration_ms=round((clock.monotonic() - began_s) * 1000),
        txid=txid,
        database_bytes=size,
        rows=rows,
        exact=expected is not None,
    )


async def _pin(database: Path, sync: Sync) -> tuple[int, dict[str, TableFacts] | None]:
    connection = open_reader(database)
    try:
        for _ in range(ATTEMPTS):
            before = local_state.log_end(database)
            connection.execute("BEGIN")
            connection.execute("SELECT 1 FROM sqlite_schema").fetchall()
            seen = local_state.log_end(database)
            answer = await sync(wait=False, timeout_s=SYNC_TIMEOUT_S)
            copied = local_state.copied_end(database, answer.txid)
            if before is not None and before == seen == copied:
                return answer.txid, await asyncio.to_thread(manifest.measure, connection)
            connection.execute("COMMIT")
        return (await sync(wait=True, timeout_s=SYNC_TIMEOUT_S)).txid, None
    finally:
        connection.close()


def _compare(expected: dict[str, TableFacts], rows: dict[str, int]) -> list[str]:
    names = sorted(expected.keys() | rows.keys())
    return [
        f"{name} has {rows.get(name, 'no table')} rows where the live database had "
        f"{expected[name].row_count if name in expected else 'no table'}"
        for name in names
        if name not in expected or rows.get(name) != expected[name].row_count
    ]
