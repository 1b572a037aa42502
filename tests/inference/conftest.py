"""A server beside a provider, once for each protocol."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.inference.cloud import Cloud, cloud_settings, running_cloud
from tests.server_process import ServerProcess, Tenant, running_server

Rig = tuple[ServerProcess, Cloud]


@pytest.fixture(scope="module", params=["anthropic", "openai"])
def rig(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    data = tmp_path_factory.mktemp("routing") / "data"
    with (
        running_cloud() as cloud,
        running_server(data, **cloud_settings(cloud, request.param)) as server,
    ):
        yield server, cloud


@pytest.fixture
def cloud(rig: Rig) -> Iterator[Cloud]:
    cloud = rig[1]
    cloud.received.clear()
    cloud.fault, cloud.tool, cloud.retry_after = None, None, None
    cloud.words = ["From", " the", " cloud."]
    yield cloud
    cloud.fault = None


@pytest.fixture
def caller(rig: Rig, cloud: Cloud) -> Iterator[Tenant]:
    with Tenant(rig[0]) as tenant:
        yield tenant
