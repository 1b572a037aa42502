"""The TypeScript client in Node, against the real server."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.clients.node import CLIENT, run
from tests.server_process import Tenant

SCRIPTS = sorted((CLIENT / "test").glob("*.test.ts"))


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.name.removesuffix(".test.ts"))
def test_in_node(script: Path, tenant: Tenant) -> None:
    said = run(script, URL=tenant.server.url, KEY=tenant.key)
    assert "\n# fail 0" in said or "ℹ fail 0" in said
