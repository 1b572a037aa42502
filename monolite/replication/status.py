"""What replication says of itself, to /readyz, /metrics, operator status and the command line."""

from __future__ import annotations

from typing import Literal

import msgspec

State = Literal["starting", "running", "backoff", "stopped", "failed"]


class ReplicationStatus(msgspec.Struct, frozen=True, kw_only=True):
    """A snapshot. `lag_ms` is the age of the oldest commit not known to lie in S3; 0 when all do.
    `alarms` are the watch's findings of the last hour, for people.
    """

    state: State
    pid: int | None
    restarts_total: int
    lag_ms: int
    last_sync_at_ms: int | None
    last_error: str | None
    last_drill_at_ms: int | None
    last_drill_ok: bool | None
    last_drill_detail: str | None
    shadow_bytes: int
    cpu_fraction: float
    replica_path: str | None
    txid: int
    alarms: tuple[str, ...]


class DrillReport(msgspec.Struct, frozen=True, kw_only=True):
    """One restore drill. `exact` says that row counts were compared with the live database at the
    very transaction that was restored; else with the recorded manifest.
    """

    ok: bool
    detail: str
    started_at_ms: int
    duration_ms: int
    txid: int
    database_bytes: int
    rows: dict[str, int]
    exact: bool


class RestoreReport(msgspec.Struct, frozen=True, kw_only=True):
    """One restore into place. `differences` are row counts that changed since the manifest was
    recorded, as (recorded, found): facts to look at, not failures.
    """

    generation: str
    txid: int
    database_bytes: int
    duration_ms: int
    rows: dict[str, int]
    manifest_recorded_at_ms: int | None
    differences: dict[str, tuple[int, int]]
