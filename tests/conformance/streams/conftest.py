"""Streams over every store of theirs: `server` keeps them in SQLite, then in Redis."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path

import httpx
import pytest

from tests.server_process import ServerProcess, Tenant, running_server

_numbers = count(1)


class StreamClient:
    """One stream of one tenant, called as curl would."""

    def __init__(self, client: httpx.Client, name: str) -> None:
        self.client = client
        self.name = name
        self.url = f"/v1/streams/{name}"

    def append(self, *events: object, **query: object) -> list[str]:
        """Append data; the ids."""
        answer = self.client.post(
            f"{self.url}/events", json=[{"data": data} for data in events], params=query
        )
        assert answer.status_code == 201, answer.text
        ids: list[str] = answer.json()["ids"]
        return ids

    def events(self, **query: object) -> dict:
        answer = self.client.get(f"{self.url}/events", params=query)
        assert answer.status_code == 200, answer.text
        page: dict = answer.json()
        return page

    def group(self, name: str = "g", **settings: object) -> GroupClient:
        answer = self.client.put(f"{self.url}/groups/{name}", json=settings)
        assert answer.status_code in (200, 201), answer.text
        return GroupClient(self, name)


class GroupClient:
    """One group of a stream."""

    def __init__(self, stream: StreamClient, name: str) -> None:
        self.client = stream.client
        self.stream = stream
        self.url = f"{stream.url}/groups/{name}"

    def post(self, verb: str, status: int = 200, **body: object) -> dict:
        answer = self.client.post(f"{self.url}/{verb}", json=body)
        assert answer.status_code == status, answer.text
        shown: dict = answer.json()
        return shown

    def read(self, consumer: str = "ann", **wish: object) -> list[dict]:
        events: list[dict] = self.post("read", consumer=consumer, **wish)["events"]
        return events

    def get(self, path: str = "", **query: object) -> dict:
        answer = self.client.get(self.url + path, params=query)
        assert answer.status_code == 200, answer.text
        shown: dict = answer.json()
        return shown


@pytest.fixture(scope="session", params=["sqlite", "valkey", "valkey-postgresql"])
def engine_name(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest.fixture(scope="session")
def stream_settings(engine_name: str, request: pytest.FixtureRequest) -> dict[str, str]:
    settings = {}
    if engine_name != "sqlite":
        settings["MONOLITE_STREAMS_URL"] = request.getfixturevalue("valkey").new_url()
    if engine_name == "valkey-postgresql":
        settings["MONOLITE_DATABASE_URL"] = request.getfixturevalue("postgres").new_database()
    return settings


@pytest.fixture(scope="session")
def server(
    stream_settings: dict[str, str], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ServerProcess]:
    data = tmp_path_factory.mktemp("streams") / "data"
    with running_server(data, MONOLITE_RATE_LIMIT="off", **stream_settings) as running:
        yield running


@pytest.fixture(scope="session")
def tenant(server: ServerProcess) -> Iterator[Tenant]:
    with Tenant(server) as made:
        yield made


@pytest.fixture
def new_stream(tenant: Tenant) -> Callable[[], StreamClient]:
    return lambda: StreamClient(tenant.client, f"stream-{next(_numbers)}")


@pytest.fixture
def stream(new_stream: Callable[[], StreamClient]) -> StreamClient:
    """A stream of this test's own, which is not there yet."""
    return new_stream()


@pytest.fixture
def data_directory(tmp_path: Path) -> Path:
    return tmp_path / "data"
