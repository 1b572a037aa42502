"""A real S3 server on loopback: SeaweedFS's `weed`, one for the whole test session."""

from __future__ import annotations

import json
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count
from pathlib import Path

import pytest

from monolite.replication.process import dying_with_us
from monolite.replication.s3 import S3Client
from monolite.replication.settings import ReplicaSettings

START_TIMEOUT_S = 60.0


@dataclass
class S3Server:
    """A running S3 server: where it is, and a bucket with its credentials."""

    endpoint: str
    bucket: str
    access_key_id: str
    secret_access_key: str
    metrics_url: str
    process: subprocess.Popen[bytes]
    _numbers: Iterator[int]

    def fresh_url(self) -> str:
        """An s3:// URL whose prefix nobody used before."""
        return f"s3://{self.bucket}/installation-{next(self._numbers)}"

    def settings(self, url: str | None = None, **changes: object) -> ReplicaSettings:
        """Replica settings for this server, with a fresh prefix unless `url` names one."""
        values: dict[str, object] = {
            "url": url or self.fresh_url(),
            "endpoint": self.endpoint,
            "access_key_id": self.access_key_id,
            "secret_access_key": self.secret_access_key,
        }
        return ReplicaSettings(**(values | changes))  # type: ignore[arg-type]

    def requests(self) -> dict[str, int]:
        """S3 requests answered so far, by kind, from the server's own metrics."""
        with urllib.request.urlopen(self.metrics_url, timeout=10) as answer:
            text = answer.read().decode()
        counts: dict[str, int] = {}
        for labels, value in re.findall(r"^SeaweedFS_s3_request_total\{(.*)\} (\S+)$", text, re.M):
            kind = dict(re.findall(r'(\w+)="([^"]*)"', labels)).get("type", "?")
            counts[kind] = counts.get(kind, 0) + int(float(value))
        return counts


def start_s3_server(folder: Path) -> S3Server:
    """Starts `weed` from beside Python in `folder`; stop it with `stop_s3_server`."""
    access_key_id, secret_access_key = "test-key-id", "test/secret+access-key"
    identities = [
        {
            "name": "test",
            "credentials": [{"accessKey": access_key_id, "secretKey": secret_access_key}],
            "actions": ["Admin", "Read", "Write", "List", "Tagging"],
        }
    ]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "data").mkdir()
    (folder / "s3.json").write_text(json.dumps({"identities": identities}))
    ports = _free_ports(9)
    names = ("master", "volume", "filer", "s3")
    options = [f"-{name}.port={ports[i]}" for i, name in enumerate(names)]
    options += [f"-{name}.port.grpc={ports[4 + i]}" for i, name in enumerate(names)]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            dying_with_us(
                str(Path(sys.executable).parent / "weed"),
                "-logtostderr=true",
                "server",
                f"-dir={folder / 'data'}",
                "-ip=127.0.0.1",
                "-ip.bind=127.0.0.1",
                *options,
                f"-metricsPort={ports[8]}",
                "-master.telemetry=false",
                "-master.volumeSizeLimitMB=64",
                "-master.electionTimeout=1s",
                "-volume.max=100",
                "-s3",
                "-s3.port.iceberg=0",
                "-s3.port.lance=0",
                "-s3.iam=false",
                f"-s3.config={folder / 's3.json'}",
            ),
            stdout=log,
            stderr=subprocess.STDOUT,
        )
    server = S3Server(
        endpoint=f"http://127.0.0.1:{ports[3]}",
        bucket="monolite-test",
        access_key_id=access_key_id,
        secret_access_key=secret_access_key,
        metrics_url=f"http://127.0.0.1:{ports[8]}/metrics",
        process=process,
        _numbers=count(1),
    )
    client = S3Client(server.settings())
    deadline = time.monotonic() + START_TIMEOUT_S
    while True:
        try:
            urllib.request.urlopen(server.endpoint, timeout=1)
        except urllib.error.HTTPError:
            client.make_bucket()
            # The first write waits for a volume to be made: not a test's business.
            client.put("ready", b"ready")
            return server
        except OSError:
            pass
        if process.poll() is not None or time.monotonic() > deadline:
            process.kill()
            raise RuntimeError(f"weed did not start; see {folder / 'log'}")
        time.sleep(0.05)


def stop_s3_server(server: S3Server) -> None:
    """Ends it; its data is the caller's to remove."""
    # SeaweedFS takes seconds to stop politely, and nothing of it is kept.
    server.process.send_signal(signal.SIGKILL)
    server.process.wait()


@pytest.fixture(scope="session")
def s3_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """A real S3 server with one bucket, shared by the session; take a `fresh_url()` each test."""
    server = start_s3_server(tmp_path_factory.mktemp("s3"))
    yield server
    stop_s3_server(server)


def _free_ports(number: int) -> list[int]:
    sockets = [socket.socket() for _ in range(number)]
    try:
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]
    finally:
        for each in sockets:
            each.close()
