"""Moving an installation's streams between its database and Redis, with the server stopped."""

from __future__ import annotations

from monolite.assembly_redis import INSTALLATION, RedisStreaming, open_redis
from monolite.assembly_sqlite import SqliteEngines
from monolite.assembly_stores import STREAMS_IN, installation_id
from monolite.assembly_streams import SqliteStreaming
from monolite.clock import SystemClock
from monolite.errors import Malformed
from monolite.settings import BadSetting, Settings
from monolite.storage.data_directory import DataDirectory
from monolite.streams.moving import Counts, Mover, NotMoved


async def move_streams(settings: Settings, to: str | None, back_from: str | None) -> int:
    """Move all streams, and say what to set from now on."""
    if (to is None) == (back_from is None):
        raise BadSetting("name --streams redis://... to move there, or --streams-from to move back")
    if settings.database_url is not None:
        raise BadSetting(
            "streams were never in PostgreSQL: unset MONOLITE_DATABASE_URL to move those of the"
            " SQLite file, or export and import the tenants"
        )
    directory = DataDirectory(settings.data)
    if not directory.database.exists():
        raise BadSetting(f"there is no database in {directory.path}")
    lock = directory.lock()
    try:
        clock = SystemClock()
        engines = SqliteEngines(settings, directory, clock)
        try:
            kept_in = await engines.facts.fact(STREAMS_IN)
            url = to or back_from or ""
            streaming = await open_redis(url, await installation_id(engines.facts), clock)
            try:
                mover = Mover(engines.writer, streaming.store, clock.now_ms(), _say)
                if to is not None:
                    await _there(mover, streaming, kept_in)
                    await _clean(engines)
                else:
                    await _back(mover, streaming, kept_in)
            finally:
                await streaming.stop()
        finally:
            await engines.close()
    finally:
        lock.release()
    return 0


async def _there(mover: Mover, streaming: RedisStreaming, kept_in: str | None) -> None:
    if kept_in == "redis":
        raise Malformed("The streams are in Redis already; set MONOLITE_STREAMS_URL.")
    try:
        moved = await mover.to_redis()
    except NotMoved as error:
        raise Malformed(f"Nothing was changed: {error}. They are still in the database.") from None
    _say(_summary(moved))
    _say("Start the server with MONOLITE_STREAMS_URL set to where they are now.")


async def _clean(engines: SqliteEngines) -> None:
    """Remove the rows of what was moved; no server does it once the streams lie elsewhere."""
    embedded = engines.streams
    assert isinstance(embedded, SqliteStreaming)  # just opened
    while await embedded.upkeep.clean():
        pass


async def _back(mover: Mover, streaming: RedisStreaming, kept_in: str | None) -> None:
    if kept_in == "redis":
        try:
            moved = await mover.to_sqlite()
        except NotMoved as error:
            raise Malformed(f"Nothing was changed: {error}. They are still in Redis.") from None
        _say(_summary(moved))
    elif not await streaming.has_streams():
        raise Malformed("The streams are in the database already; unset MONOLITE_STREAMS_URL.")
    # Also what a move that was cut off behind its commit left.
    await mover.empty_redis()
    await streaming.connection.send(("DEL", INSTALLATION))
    _say("Start the server without MONOLITE_STREAMS_URL.")


def _summary(moved: Counts) -> str:
    return (
        f"Moved and compared: {moved.streams} streams, {moved.events} events, {moved.groups} "
        f"groups, {moved.pending} pending, {moved.dead} dead letters."
    )


def _say(line: str) -> None:
    print(line, flush=True)
