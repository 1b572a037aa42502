"""A small table to write to, and how to open it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import apsw
import pytest

from monolite.storage.sqlite.connection import open_writer

TABLE = "CREATE TABLE IF NOT EXISTS pairs (key INTEGER PRIMARY KEY, value TEXT NOT NULL) STRICT"


@pytest.fixture
def database(tmp_path: Path) -> Path:
    return tmp_path / "monolite.db"


@pytest.fixture
def opened(database: Path) -> Callable[[], apsw.Connection]:
    def open_connection() -> apsw.Connection:
        connection = open_writer(database, synchronous="full", autocheckpoint=True)
        connection.execute(TABLE)
        return connection

    return open_connection
