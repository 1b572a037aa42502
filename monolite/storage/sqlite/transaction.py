"""A transaction on one connection, without a writer thread: for the command line and start-up."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Self, TypeVar

import apsw

from monolite.storage.errors import from_apsw

T = TypeVar("T")


@contextmanager
def immediate(connection: apsw.Connection) -> Iterator[None]:
    """BEGIN IMMEDIATE, then COMMIT, or ROLLBACK when the block raises.

    A deferred BEGIN that writes later meets BUSY however long the time-out is, so none is used.
    Raises StorageError where storage is to blame, else whatever the block raised.
    """
    try:
        connection.execute("BEGIN IMMEDIATE")
        try:
            yield
            connection.execute("COMMIT")
        finally:
            roll_back(connection)
    except apsw.Error as error:
        failure = from_apsw(error)
        if failure is None:
            raise
        raise failure from error


def roll_back(connection: apsw.Connection) -> None:
    """Ends whatever transaction is open. SQLite ends some by itself: a full disk, a failed one."""
    if connection.in_transaction:
        connection.execute("ROLLBACK")


class SyncWriter:
    """The writer's verbs for a process without a loop: one transaction per `run`.

    For commands on a data directory that no server holds; the caller has its lock.
    """

    def __init__(self, open_connection: Callable[[], apsw.Connection]) -> None:
        self._connection = open_connection()

    def run(self, work: Callable[[apsw.Connection], T]) -> T:
        """Runs `work` in a transaction and returns its value once that is committed."""
        with immediate(self._connection):
            return work(self._connection)

    def close(self) -> None:
        """Closes the connection."""
        self._connection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()
