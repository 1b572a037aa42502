"""Replication: one supervised Litestream, its barrier, its status and its drill."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import logging
import os
import tempfile
from collections import deque
from collections.abc import Callable
from pathlib import Path

import apsw

from monolite.clock import Clock
from monolite.replication import executable, generations, local_state
from monolite.replication.backoff import Backoff
from monolite.replication.barrier import Barrier
from monolite.replication.control import ControlSocket, NotListening, SyncAnswer
from monolite.replication.drill import run_drill
from monolite.replication.errors import (
    ReplicationMisconfigured,
    ReplicationUnavailable,
    ReplicaUnreachable,
)
from monolite.replication.lag import LagMeter
from monolite.replication.process import LitestreamProcess
from monolite.replication.s3 import S3Client
from monolite.replication.settings import ReplicaSettings
from monolite.replication.status import DrillReport, ReplicationStatus, State
from monolite.replication.watch import Finding, Watch
from monolite.storage.sqlite.connection import open_reader

SAMPLE_INTERVAL_S = 0.1
# A local sync costs a look at the log; lag needs one a second while something is pending.
ASK_INTERVAL_S = 1.0
SYNC_TIMEOUT_S = 30.0
LISTEN_TIMEOUT_S = 5.0
ALARMS_KEPT = 8
# The kernel's limit for a Unix socket's path, less the terminating zero.
SOCKET_PATH_BYTES_MAX = 107


class Uncovered(ReplicationUnavailable):
    """Litestream reported success and its file doesn't show it."""


class Replication:
    """Follows `database` to S3 while it runs. All methods belong to one event loop.

    Start it after the schema is in place and before the first write; stop it after the last write
    and before the server closes its connections.
    """

    def __init__(
        self,
        settings: ReplicaSettings,
        database: Path,
        state_directory: Path,
        *,
        clock: Clock,
        log: logging.Logger,
        random_bytes: Callable[[int], bytes] = os.urandom,
    ) -> None:
        self._settings = settings
        self._database = database.absolute()
        self._directory = state_directory.absolute()
        self._clock = clock
        self._log = log
        self._random_bytes = random_bytes
        self._socket_folder: tempfile.TemporaryDirectory[str] | None = None
        self._socket_path = self._directory / "litestream.sock"
        self._control = ControlSocket(self._socket_path, self._database)
        self._barrier = Barrier(self._sync_all)
        self._lag = LagMeter(clock.monotonic())
        self._watch = Watch(settings, self._database)
        self._backoff = Backoff(random_bytes)
        self._state: State = "stopped"
        self._process: LitestreamProcess | None = None
        self._tasks: list[asyncio.Task[None]] = []
        self._keeper: apsw.Connection | None = None
        self._local: local_state.LocalState | None = None
        self._restarts_total = 0
        self._last_sync_at_ms: int | None = None
        self._last_error: str | None = None
        self._alarms: deque[str] = deque(maxlen=ALARMS_KEPT)
        self._drill_lock = asyncio.Lock()
        self._stopping = False
        self._fresh_because: str | None = None

    async def start(self) -> None:
        """Starts following. S3 may be out of reach: then it is tried again in the background.

        Raises ReplicationMisconfigured for what trying again can't mend.
        """
        self._executable = await asyncio.to_thread(executable.find_executable)
        self._config = executable.find_config()
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._place_socket()
        self._local = local_state.load(self._directory)
        self._fresh_because = self._why_fresh()
        # While this is open Litestream is never the last to close the database, which would
        # checkpoint it, and the log it left off in would be gone.
        self._keeper = open_reader(self._database)
        self._lag = LagMeter(self._clock.monotonic())
        self._stopping = False
        self._state = "starting"
        self._tasks = [
            asyncio.create_task(self._supervise()),
            asyncio.create_task(self._measure_lag()),
            asyncio.create_task(self._keep_watch()),
            asyncio.create_task(self._drill_on_schedule()),
        ]

    async def stop(self) -> None:
        """A last sync within `stop_timeout_s`, then the end of Litestream; never raises for S3."""
        if not self._tasks:
            return
        self._stopping = True
        if self._state == "running":
            try:
                await self.barrier(self._settings.stop_timeout_s)
            except ReplicationUnavailable as error:
                self._log.error("the last commits are not in S3 at stop: %s", error.detail)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._tasks = []
        if self._process is not None:
            await self._process.stop(self._settings.stop_timeout_s)
            self._process = None
        if self._keeper is not None:
            self._keeper.close()
            self._keeper = None
        if self._socket_folder is not None:
            self._socket_folder.cleanup()
            self._socket_folder = None
        self._state = "stopped"

    async def barrier(self, timeout_s: float = 10.0) -> None:
        """Returns once everything committed before the call lies in S3.

        Callers share: one sync in flight, one queued. Raises ReplicationUnavailable.
        """
        if self._state not in ("running", "starting"):
            raise ReplicationUnavailable(
                f"Litestream is not running ({self._last_error or self._state}); "
                "it is restarted by itself. The write itself is committed locally.",
                retry_after_s=max(1.0, self._backoff.delay_s),
            )
        await self._barrier.wait(timeout_s)

    def status(self) -> ReplicationStatus:
        local = self._local
        return ReplicationStatus(
            state=self._state,
            pid=self._process.pid if self._process and self._state == "running" else None,
            restarts_total=self._restarts_total,
            lag_ms=self._lag.lag_ms(self._clock.monotonic()),
            last_sync_at_ms=self._last_sync_at_ms,
            last_error=self._last_error,
            last_drill_at_ms=local.last_drill_at_ms if local else None,
            last_drill_ok=local.last_drill_ok if local else None,
            last_drill_detail=local.last_drill_detail if local else None,
            shadow_bytes=self._watch.shadow_bytes,
            cpu_fraction=self._watch.cpu_fraction,
            replica_path=self._settings.generation_url(local.generation) if local else None,
            txid=self._watch.txid,
            alarms=tuple(self._alarms),
        )

    async def drill(self, progress: Callable[[str], None] | None = None) -> DrillReport:
        """Restores from S3 into a scratch directory and proves the copy; one at a time.

        Raises ReplicationUnavailable when nothing is replicated yet; a bad replica is a report
        with `ok` false, kept in the status.
        """
        async with self._drill_lock:
            if self._local is None or self._state != "running":
                raise ReplicationUnavailable(
                    f"nothing to drill: replication is {self._state}. Try again once it runs."
                )
            say = progress or (lambda text: self._log.info("drill: %s", text))
            report = await run_drill(
                self._settings,
                self._database,
                self._local.generation,
                sync=self._control.sync,
                executable_path=self._executable,
                clock=self._clock,
                progress=say,
            )
            self._local = dataclasses.replace(
                self._local,
                last_drill_at_ms=report.started_at_ms,
                last_drill_ok=report.ok,
                last_drill_detail=report.detail,
            )
            local_state.save(self._directory, self._local)
            level = logging.INFO if report.ok else logging.ERROR
            self._log.log(level, "restore drill: %s", report.detail)
            return report

    async def _supervise(self) -> None:
        while True:
            try:
                await self._run_once()
            except ReplicaUnreachable as error:
                self._fail(str(error))
            except OSError as error:
                self._fail(f"Litestream can't be started: {error}")
            except ReplicationMisconfigured as error:
                self._fail(str(error))
                self._state = "failed"
                return
            self._state = "backoff"
            await asyncio.sleep(self._backoff.next())
            self._restarts_total += 1

    async def _run_once(self) -> None:
        if self._fresh_because is not None:
            await self._begin_generation(self._fresh_because)
            self._fresh_because = None
        assert self._local is not None
        environment = executable.child_environment(
            self._settings,
            database=self._database,
            socket=self._socket_path,
            generation=self._local.generation,
        )
        # A killed child's socket refuses; with none there, callers wait for the new one's.
        self._socket_path.unlink(missing_ok=True)
        self._process = await LitestreamProcess.start(
            self._executable,
            self._config,
            environment,
            redact=self._settings.redact,
            on_line=self._on_line,
        )
        self._watch.follow(self._process.pid)
        self._state = "running"
        began_s = self._clock.monotonic()
        try:
            status = await self._process.wait()
        finally:
            if not self._stopping:
                self._process.kill()
        if self._clock.monotonic() - began_s > self._backoff.healthy_after_s:
            self._backoff.reset()
        how = f"was killed by signal {-status}" if status < 0 else f"ended with status {status}"
        self._fail(f"Litestream {how}" + (f": {self._last_error}" if self._last_error else ""))

    async def _begin_generation(self, reason: str) -> None:
        client = S3Client(self._settings)
        generation = await asyncio.to_thread(
            generations.begin,
            client,
            self._settings,
            now_ms=self._clock.now_ms(),
            random_bytes=self._random_bytes,
            reason=reason,
        )
        await asyncio.to_thread(local_state.remove_shadow, self._database)
        previous = self._local
        fresh = local_state.LocalState(
            url=self._settings.url, endpoint=self._settings.endpoint, generation=generation.name
        )
        if previous is not None:
            fresh = dataclasses.replace(
                previous,
                url=fresh.url,
                endpoint=fresh.endpoint,
                generation=fresh.generation,
            )
        local_state.save(self._directory, fresh)
        self._local = fresh
        self._log.warning("replicating to the fresh path %s: %s", generation.name, reason)

    def _why_fresh(self) -> str | None:
        local = self._local
        if local is None:
            return "this data directory has no replica of its own yet"
        if (local.url, local.endpoint) != (self._settings.url, self._settings.endpoint):
            return "the replica's address changed"
        reason = local_state.moved_on(self._database)
        return None if reason is None else f"the database moved on without its replica: {reason}"

    def _place_socket(self) -> None:
        if len(os.fsencode(self._socket_path)) > SOCKET_PATH_BYTES_MAX:
            self._socket_folder = tempfile.TemporaryDirectory(prefix="monolite-")
            self._socket_path = Path(self._socket_folder.name) / "litestream.sock"
            self._control = ControlSocket(self._socket_path, self._database)

    def _on_line(self, level: int, text: str) -> None:
        if level >= logging.ERROR:
            self._last_error = text
        self._log.log(level, "litestream: %s", text)

    def _fail(self, text: str) -> None:
        self._last_error = self._settings.redact(text)
        self._log.error("replication: %s", self._last_error)

    async def _sync_all(self) -> None:
        try:
            await self._ask(wait=True, timeout_s=SYNC_TIMEOUT_S)
        except Uncovered:
            # A checkpoint between the two looks at the log makes them incomparable, once.
            await self._ask(wait=True, timeout_s=SYNC_TIMEOUT_S)

    async def _ask(self, *, wait: bool, timeout_s: float) -> SyncAnswer:
        # A child that was just started takes a moment to listen.
        deadline_s = self._clock.monotonic() + min(timeout_s, LISTEN_TIMEOUT_S)
        while True:
            asked_at_s = self._clock.monotonic()
            committed = local_state.log_end(self._database)
            try:
                answer = await self._control.sync(wait=wait, timeout_s=timeout_s)
                break
            except NotListening:
                if self._clock.monotonic() >= deadline_s:
                    raise
                await asyncio.sleep(0.02)
            except ReplicationUnavailable as error:
                raise ReplicationUnavailable(
                    self._settings.redact(error.detail), error.retry_after_s
                ) from error
        # Its monitor may have taken newer commits out of the log meanwhile, so `txid` may be ahead:
        # what counts is that the last file in S3 reaches what was committed before the question.
        in_s3 = answer.replicated_txid > 0 and local_state.covers(
            local_state.copied_end(self._database, answer.replicated_txid),
            committed,
            local_state.log_end(self._database),
        )
        if in_s3:
            self._lag.covered(asked_at_s)
            self._last_sync_at_ms = self._clock.now_ms()
        elif wait:
            raise Uncovered(
                f"Litestream says that transaction {answer.replicated_txid} is in S3, and its file "
                "does not reach the last commit. Try again; the write itself is committed locally."
            )
        return answer

    async def _measure_lag(self) -> None:
        asked_at_s = 0.0
        while True:
            now_s = self._clock.monotonic()
            self._lag.sample(local_state.change_counter(self._database), now_s)
            due = now_s - asked_at_s >= ASK_INTERVAL_S
            if self._lag.pending and due and self._state == "running":
                asked_at_s = now_s
                with contextlib.suppress(ReplicationUnavailable):
                    await self._ask(wait=False, timeout_s=SYNC_TIMEOUT_S)
            await asyncio.sleep(SAMPLE_INTERVAL_S)

    async def _keep_watch(self) -> None:
        while True:
            await asyncio.sleep(self._settings.watch_interval_s)
            finding = await asyncio.to_thread(self._watch.look, self._clock.monotonic())
            finding = finding or await self._look_for_silence()
            if finding is not None and self._state == "running":
                self._act_on(finding)

    async def _look_for_silence(self) -> Finding | None:
        lag_ms = self._lag.lag_ms(self._clock.monotonic())
        if self._state != "running" or lag_ms < self._settings.silent_after_s * 1000:
            return None
        try:
            await self._barrier.wait(SYNC_TIMEOUT_S)
        except Uncovered as error:
            return Finding(
                f"Litestream reports success and has missed commits for {lag_ms} ms "
                f"({error.detail}) A fresh copy was begun",
                restart=True,
                fresh_generation=True,
            )
        except ReplicationUnavailable as error:
            # S3 out of reach shows as an error of its own, and a fresh copy would not mend it.
            self._last_error = error.detail
        return None

    def _act_on(self, finding: Finding) -> None:
        self._alarms.append(finding.text)
        self._log.error("replication watch: %s", finding.text)
        if finding.fresh_generation:
            self._fresh_because = finding.text
        if finding.restart and self._process is not None:
            self._process.kill()

    async def _drill_on_schedule(self) -> None:
        while True:
            now_ms = self._clock.now_ms()
            last_ms = self._local.last_drill_at_ms if self._local else None
            # A clock that jumped back must not put the next drill off for years.
            elapsed_s = (now_ms - last_ms) / 1000 if last_ms and last_ms <= now_ms else None
            interval_s = self._settings.drill_interval_s
            wait_s = 60.0 if elapsed_s is None else max(1.0, interval_s - elapsed_s)
            await asyncio.sleep(min(wait_s, interval_s))
            try:
                await self.drill()
            except ReplicationUnavailable as error:
                self._log.warning("restore drill put off: %s", error.detail)
                await asyncio.sleep(min(60.0, interval_s))
            except OSError as error:
                self._fail(f"the restore drill can't run: {error}")
                await asyncio.sleep(min(600.0, interval_s))
