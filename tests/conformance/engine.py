"""A database of a test's own, over one engine or the other."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import apsw


class Engine:
    """Settings for a server of a test's own, in `data`, and a look at its tables."""

    def __init__(self, data: Path, url: str | None, execute: Callable[..., Any]) -> None:
        self.data = data
        self._url = url
        self._execute = execute
        self.settings = {} if url is None else {"MONOLITE_DATABASE_URL": url}

    @property
    def is_shared(self) -> bool:
        """Whether several servers may run on it."""
        return self._url is not None

    def update(self, table: str, change: str) -> None:
        """Change all rows of a table, while no server runs."""
        if self._url is not None:
            self._execute(f"UPDATE monolite.{table} SET {change}", self._url)
            return
        database = apsw.Connection(str(self.data / "monolite.db"))
        try:
            database.execute(f"UPDATE {table} SET {change}")
        finally:
            database.close()

    def count(self, table: str) -> int:
        """How many rows a table has."""
        if self._url is not None:
            ((count,),) = self._execute(f"SELECT count(*) FROM monolite.{table}", self._url)
            return int(count)
        database = apsw.Connection(str(self.data / "monolite.db"), flags=apsw.SQLITE_OPEN_READONLY)
        try:
            ((count,),) = database.execute(f"SELECT count(*) FROM {table}")
            return int(count)
        finally:
            database.close()
