"""One running server for the whole session; what must not share it starts its own."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import httpx
import pytest

from tests.postgres_server import PostgresServer, running_postgres
from tests.server_process import ServerProcess, Tenant, running_server
from tests.valkey_server import ValkeyServer, running_valkey


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    data = tmp_path_factory.mktemp("server") / "data"
    with running_server(data, MONOLITE_LOG_REQUESTS="on") as running:
        yield running


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    """One PostgreSQL for the whole session; each test takes a database of its own from it."""
    with running_postgres() as running:
        yield running


@pytest.fixture(scope="session")
def valkey() -> Iterator[ValkeyServer]:
    """One Valkey for the whole session; each test takes a database of its own from it."""
    with running_valkey() as running:
        yield running


@pytest.fixture
def operator(server: ServerProcess) -> Iterator[httpx.Client]:
    with server.client(server.operator_key) as client:
        yield client


@pytest.fixture
def new_tenant(server: ServerProcess) -> Iterator[Callable[[], Tenant]]:
    made: list[Tenant] = []

    def make() -> Tenant:
        made.append(Tenant(server))
        return made[-1]

    yield make
    for tenant in made:
        tenant.client.close()


@pytest.fixture
def tenant(new_tenant: Callable[[], Tenant]) -> Tenant:
    return new_tenant()


@pytest.fixture
def client(tenant: Tenant) -> httpx.Client:
    """A client with every scope of a tenant of this test's own."""
    return tenant.client


@pytest.fixture
def other(new_tenant: Callable[[], Tenant]) -> httpx.Client:
    """A client of another tenant."""
    return new_tenant().client
