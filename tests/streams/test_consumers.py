"""The consumers in docs/streams.md as they stand there, killed again and again."""

from __future__ import annotations

import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import httpx
import pytest

from tests.eventually import eventually
from tests.server_process import ROOT, ServerProcess, Tenant, environment

S = "/v1/streams/orders"
G = f"{S}/groups/mailer"
MAILS = "/v1/collections/mails/documents"
KILLS = 6
COUNT = 400


def shown(language: str) -> str:
    """The consumer of a language in the docs."""
    page = (ROOT / "docs" / "streams.md").read_text()
    section = page[page.index("## A consumer in ten lines") :]
    found = re.search(rf"```{language}\n(.*?)```", section, re.DOTALL)
    assert found is not None
    return found[1]


def command(language: str, server: ServerProcess, folder: Path) -> list[str]:
    """How to run it; `server` is where it looks."""
    text = shown(language).replace("http://127.0.0.1:8080", server.url)
    assert server.url in text
    program = folder / f"consumer.{language}"
    program.write_text(text)
    return [sys.executable, str(program)] if language == "python" else ["bash", str(program)]


def mails(client: httpx.Client) -> Counter[int]:
    """How often the effect of each event was made."""
    found: Counter[int] = Counter()
    cursor = ""
    while cursor is not None:
        query = {"limit": "1000"} | ({"cursor": cursor} if cursor else {})
        answer = client.get(MAILS, params=query)
        if answer.status_code == 404:
            return found
        page = answer.json()
        found.update(document["data"]["n"] for document in page["data"])
        cursor = page["next_cursor"]
    return found


@pytest.mark.parametrize("language", ["python", "sh"])
def test_a_consumer_that_is_killed_makes_every_effect_once(tmp_path: Path, language: str) -> None:
    if language == "sh" and not (shutil.which("jq") and shutil.which("curl")):
        pytest.skip("curl and jq are not here")
    chance = random.Random(5)
    count = COUNT if language == "python" else COUNT // 10
    server = ServerProcess(tmp_path / "data", {})
    server.wait_ready()
    consumer: subprocess.Popen[bytes] | None = None
    try:
        with Tenant(server) as tenant:
            key = tenant.key
            tenant.client.put(G, json={"claim_idle_ms": 300, "max_deliveries": 100})
            events = [{"data": {"n": n}} for n in range(count)]
            tenant.client.post(f"{S}/events", json=events).raise_for_status()
        for number in range(KILLS):
            consumer = subprocess.Popen(
                command(language, server, tmp_path),
                env=environment(KEY=key),
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
            )
            time.sleep(chance.uniform(0.2, 0.6))
            if number == KILLS // 2:
                server.stop(signal.SIGKILL)
                consumer.wait(30)
                server = ServerProcess(tmp_path / "data", {})
                server.wait_ready()
            else:
                os.killpg(consumer.pid, signal.SIGKILL)
                consumer.wait()
        consumer = subprocess.Popen(
            command(language, server, tmp_path),
            env=environment(KEY=key),
            stdout=subprocess.DEVNULL,
            start_new_session=True,
        )
        with server.client(key) as client:

            def is_done() -> bool:
                group = client.get(G).json()
                return not group["pending"] and not group["lag"]

            eventually(is_done, "all were read and acknowledged")
            assert mails(client) == Counter(range(count))
    finally:
        if consumer is not None and consumer.poll() is None:
            os.killpg(consumer.pid, signal.SIGKILL)
            consumer.wait()
        server.stop()
