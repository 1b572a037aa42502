"""The same tests over every engine: `server` is one on SQLite, then one on PostgreSQL."""

from __future__ import annotations

from collections.abc import Iterator

import httpx
import pytest

from tests.server_process import ServerProcess, running_server


@pytest.fixture(scope="session", params=["sqlite", "postgresql"])
def server(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ServerProcess]:
    settings = {"MONOLITE_LOG_REQUESTS": "on"}
    if request.param == "postgresql":
        settings["MONOLITE_DATABASE_URL"] = request.getfixturevalue("postgres").new_database()
    with running_server(tmp_path_factory.mktemp(request.param) / "data", **settings) as running:
        yield running


@pytest.fixture
def documents(server: ServerProcess) -> None:
    """Skips where the engine of documents is not in this release."""
    paths = httpx.get(f"{server.url}/openapi.json").json()["paths"]
    if not any(path.startswith("/v1/collections") for path in paths):
        pytest.skip("this engine has no documents yet")
