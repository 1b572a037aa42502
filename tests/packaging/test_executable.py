"""dist/monolite from outside: it starts, leaves nothing behind, and carries its parts."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

from monolite import licenses
from tests.eventually import eventually
from tests.packaging.conftest import ROOT, Running, alive, run

Serve = Callable[..., Running]
REPLICA = {
    "MONOLITE_REPLICA_URL": "s3://bucket/prefix",
    "MONOLITE_S3_ENDPOINT": "http://127.0.0.1:9",
    "AWS_ACCESS_KEY_ID": "x",
    "AWS_SECRET_ACCESS_KEY": "x",
}


def test_executable_is_smaller_than_sixty_megabytes_without_the_model(executable: Path) -> None:
    model = next((ROOT / "monolite" / "models").glob("*.model"))
    assert executable.stat().st_size < 60_000_000 + model.stat().st_size


def test_version_says_which_schema_it_serves(executable: Path) -> None:
    done = run(executable, "version", "--json")
    assert done.returncode == 0, done.stderr
    facts = json.loads(done.stdout)
    assert {"version", "build", "schema_version", "schema_compatible_from"} <= set(facts)


def test_licenses_prints_the_notices(executable: Path) -> None:
    done = run(executable, "licenses")
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == licenses.text().strip()


def test_term_to_the_bootloader_ends_the_server_cleanly(serve: Serve) -> None:
    running = serve()
    child = running.child
    running.process.send_signal(signal.SIGTERM)
    assert running.process.wait(30) == 0
    assert not alive(child)
    assert running.directories == []


def test_start_without_a_replica_does_not_unpack_litestream(serve: Serve) -> None:
    running = serve()
    assert list(running.unpacked.rglob("litestream-*")) == []


def test_unpacked_files_are_this_users_alone(serve: Serve) -> None:
    running = serve()
    assert [path.stat().st_mode & 0o077 for path in running.directories] == [0]


def test_killed_bootloader_takes_the_server_and_its_files_along(serve: Serve) -> None:
    running = serve()
    child = running.child
    running.process.kill()
    running.process.wait()
    eventually(lambda: not alive(child), "the server dies with its bootloader")
    eventually(lambda: running.directories == [], "the unpacked files go")
    assert not running.answers()


def test_files_of_a_killed_program_are_removed_by_the_next_start(serve: Serve) -> None:
    killed = serve()
    [left] = killed.directories
    child = killed.child
    # Stopped, it can't see its bootloader die; so both die as in a kill of the whole group.
    os.kill(child, signal.SIGSTOP)
    killed.process.kill()
    os.kill(child, signal.SIGKILL)
    killed.process.wait()
    assert left.exists()
    foreign = killed.unpacked / "_MEIforeign"
    foreign.mkdir()
    serve()
    eventually(lambda: not left.exists(), "the files of the dead program go")
    assert foreign.exists()


def test_files_of_a_running_program_are_kept_by_the_next_start(
    serve: Serve, executable: Path, tmp_path: Path
) -> None:
    first = serve()
    [own] = first.directories
    other = tmp_path / "other"
    other.mkdir()
    dead = first.unpacked / "_MEIdead"
    dead.mkdir()
    (dead / "payload.json").touch()
    (dead / ".in-use").touch()
    second = Running(executable, other, TMPDIR=str(first.unpacked))
    try:
        # Its housekeeping has run once the dead one is gone.
        eventually(lambda: not dead.exists(), "housekeeping")
        assert own.exists()
        assert first.answers()
    finally:
        second.process.terminate()
        assert second.process.wait(30) == 0


def test_litestream_is_unpacked_whole_where_a_replica_is_configured(
    executable: Path, tmp_path: Path
) -> None:
    cache = tmp_path / "cache"
    run(
        executable,
        "restore",
        "--data",
        str(tmp_path / "data"),
        CACHE_DIRECTORY=str(cache),
        **REPLICA,
    )
    [litestream] = cache.glob("bin/litestream-*")
    said = subprocess.run([litestream, "version"], capture_output=True, text=True, check=True)
    assert "0.5.17" in said.stdout
    assert litestream.stat().st_mode & 0o077 == 0


def test_changed_litestream_is_replaced_and_never_run(executable: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    arguments = ("restore", "--data", str(tmp_path / "data"))
    run(executable, *arguments, CACHE_DIRECTORY=str(cache), **REPLICA)
    [litestream] = cache.glob("bin/litestream-*")
    size = litestream.stat().st_size
    evidence = tmp_path / "was-run"
    litestream.write_text(f"#!/bin/sh\ntouch {evidence}\n")
    run(executable, *arguments, CACHE_DIRECTORY=str(cache), **REPLICA)
    assert litestream.stat().st_size == size
    assert not evidence.exists()


def test_cache_that_others_can_write_to_is_refused(executable: Path, tmp_path: Path) -> None:
    folder = tmp_path / "cache" / "bin"
    folder.mkdir(parents=True)
    folder.chmod(0o777)
    done = run(
        executable,
        "restore",
        "--data",
        str(tmp_path / "data"),
        CACHE_DIRECTORY=str(tmp_path / "cache"),
        **REPLICA,
    )
    assert done.returncode != 0
    assert "nobody else can write" in done.stderr
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize("database", ["sqlite", "postgresql"])
def test_the_rarely_wanted_libraries_are_unpacked_when_asked_for(
    serve: Serve, database: str, request: pytest.FixtureRequest
) -> None:
    settings = {}
    if database == "postgresql":
        settings["MONOLITE_DATABASE_URL"] = request.getfixturevalue("postgres").new_database()
    running = serve(**settings)
    (unpacked,) = running.directories
    key_file = running.data / "operator.key"
    eventually(
        lambda: key_file.is_file() and key_file.read_text() != "", "the operator's key is there"
    )
    assert ((unpacked / "asyncpg").exists(), (unpacked / "rpds").exists()) == (
        database == "postgresql",
        False,
    )
    operator = {"Authorization": f"Bearer {key_file.read_text().strip()}"}
    url = f"http://127.0.0.1:{running.port}/v1"
    key = httpx.post(f"{url}/tenants", json={"name": "t"}, headers=operator).json()["key"]
    with httpx.Client(base_url=url, headers={"Authorization": f"Bearer {key}"}) as client:
        schema = {"properties": {"email": {"type": "string", "pattern": "^[^@]+@[^@]+$"}}}
        assert client.put("/collections/c", json={"schema": schema}).status_code == 201
        fits, fails = {"email": "a@b"}, {"email": "ab"}
        assert client.post("/collections/c/documents", json=fits).status_code == 201
        assert client.post("/collections/c/documents", json=fails).status_code == 422
    assert (unpacked / "rpds").exists()


def test_a_language_model_beside_the_executable_answers(serve: Serve, executable: Path) -> None:
    running = serve()
    made = run(
        executable,
        "tenant",
        "create",
        "reader",
        "--data",
        str(running.data),
        TMPDIR=str(running.unpacked),
    )
    assert made.returncode == 0, made.stderr
    answer = httpx.post(
        f"http://127.0.0.1:{running.port}/v1/chat/completions",
        headers={"Authorization": f"Bearer {made.stdout.strip()}"},
        json={
            "messages": [{"role": "user", "content": "Name three fruits."}],
            "max_tokens": 8,
            "repetition_penalty": 1.1,
            "top_p": 0.9,
        },
        timeout=60,
    )
    assert answer.status_code == 200, answer.text
    assert answer.json()["usage"]["completion_tokens"] > 0
