"""The server's end, for those who wait for news."""

from __future__ import annotations

import threading
from pathlib import Path

from tests.eventually import eventually
from tests.server_process import Tenant, running_server

OCTETS = {"Content-Type": "application/octet-stream"}


def test_a_long_poll_is_answered_when_the_server_stops(tmp_path: Path) -> None:
    statuses: list[int] = []
    settings = {"MONOLITE_DRAIN_S": "5", "MONOLITE_SYNC_LISTENERS_MAX": "1"}
    with running_server(tmp_path / "data", **settings) as server, Tenant(server) as tenant:
        tenant.client.post("/v1/sync/doc/updates", content=b"x", headers=OCTETS).raise_for_status()
        cursor = tenant.client.get("/v1/sync/doc/entries").json()["next_cursor"]
        path = f"/v1/sync/doc/entries?live=long-poll&since={cursor}&timeout_ms="

        def wait() -> None:
            with server.client(tenant.key) as client:
                # 429 where the look below was there first.
                while (answer := client.get(f"{path}60000", timeout=70)).status_code == 429:
                    pass
                statuses.append(answer.status_code)

        waiting = threading.Thread(target=wait)
        waiting.start()
        eventually(
            lambda: tenant.client.get(f"{path}0").status_code == 429, "the long poll is waiting"
        )
        # It exits with 1 where it has to cut requests off.
        assert server.stop() == 0
        waiting.join()
    assert statuses == [204]
