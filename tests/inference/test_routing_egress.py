"""Every connection of a server, written down by an audit hook in its interpreter: a private request
makes none, to no host, and looks up no name.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.inference.cloud import ask, cloud_settings, public, route, running_cloud
from tests.server_process import Tenant, running_server

RECORDER = """
import os, sys

def note(event, arguments):
    if event in ("socket.connect", "socket.sendto", "socket.getaddrinfo", "socket.gethostbyname"):
        at = open(os.environ["RECORD"], "a")
        at.write(f"{event} {arguments[1:] if event.startswith('socket.connect') else arguments}\\n")
        at.close()

sys.addaudithook(note)
"""
SCHEMA: dict[str, Any] = {"type": "object", "properties": {"n": {"type": "integer"}}}
FORM = {"type": "json_schema", "json_schema": {"name": "n", "schema": SCHEMA}}
WEATHER = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}
IMAGE = {"type": "image_url", "image_url": {"url": "https://example.com/a.png"}}
LONG = [{"role": "user", "content": "word " * 700}]


@pytest.mark.parametrize("provider", ["anthropic", "openai"])
def test_a_private_request_opens_no_door(tmp_path: Path, provider: str) -> None:
    (tmp_path / "sitecustomize.py").write_text(RECORDER)
    record = tmp_path / "record"
    with running_cloud() as cloud:
        asked = cloud_settings(cloud, provider)
        asked["MONOLITE_CLOUD_URL"] = asked["MONOLITE_CLOUD_URL"].replace("127.0.0.1", "localhost")
        asked["MONOLITE_ALLOW_PRIVATE_CLOUD"] = "localhost,127.0.0.1"
        asked |= {"PYTHONPATH": str(tmp_path), "RECORD": str(record)}
        with running_server(tmp_path / "data", **asked) as server, Tenant(server) as tenant:
            classes = {"cloud": {"classes": {"health": "private"}}}
            tenant.client.put("/v1/ai/policy", json=classes).raise_for_status()
            record.write_text("")
            for wish in (
                {},
                {"tier": "advanced", "stream": True},
                {"tier": "advanced", "n": 2},
                {"privacy": "health", "tier": "advanced"},
                {"model": "cloud-model", "privacy": "private"},
                {"messages": LONG, "max_tokens": 2},
                {"tools": [WEATHER], "tier": "advanced"},
                {"response_format": FORM, "tier": "advanced", "max_tokens": 20},
            ):
                answer = ask(tenant.client, **wish)
                assert answer.status_code == 200, answer.text
            image = [{"role": "user", "content": [IMAGE]}]
            assert ask(tenant.client, messages=image).status_code == 422
            embedded = tenant.client.post("/v1/embeddings", json={"model": "default", "input": "a"})
            assert embedded.status_code == 200, embedded.text
            assert record.read_text() == ""
            # And the recorder sees what does leave.
            assert route(public(tenant.client))[1] == "tier_above_local"
            seen = record.read_text()
            assert "getaddrinfo" in seen
            assert f"('127.0.0.1', {cloud.port})" in seen
            assert [body["model"] for _, _, body in cloud.received] == ["cloud-model"]
