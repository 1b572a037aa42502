"""The same tests over every engine: `server` is one on SQLite, then one on PostgreSQL."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.conformance.engine import Engine
from tests.server_process import ServerProcess, running_server


@pytest.fixture(scope="session", params=["sqlite", "postgresql"])
def engine_name(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest.fixture(scope="session")
def new_engine(engine_name: str, request: pytest.FixtureRequest) -> Callable[[Path], Engine]:
    def make(data: Path) -> Engine:
        if engine_name == "sqlite":
            return Engine(data, None, print)
        postgres = request.getfixturevalue("postgres")
        return Engine(data, postgres.new_database(), postgres.execute)

    return make


@pytest.fixture(scope="session")
def server(
    engine_name: str,
    new_engine: Callable[[Path], Engine],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[ServerProcess]:
    engine = new_engine(tmp_path_factory.mktemp(engine_name) / "data")
    with running_server(engine.data, MONOLITE_LOG_REQUESTS="on", **engine.settings) as running:
        yield running


@pytest.fixture
def engine(new_engine: Callable[[Path], Engine], tmp_path: Path) -> Engine:
    """A database of the test's own."""
    return new_engine(tmp_path / "data")
