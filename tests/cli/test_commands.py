"""The command line as a user types it, beside a running server and without one."""

from __future__ import annotations

import json
import re
import sqlite3
import stat
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import httpx
import pytest

from monolite.cli.main import build_parser
from tests.server_process import ServerProcess, monolite, running_server

KEY = re.compile(r"mk_[0-9A-Za-z]{16}_[0-9A-Za-z]{38}\n")


def out(*arguments: str | Path, stdin: bytes | None = None) -> str:
    """What a command that must succeed prints."""
    done = monolite(*arguments, stdin=stdin)
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout.decode()


def refusal(*arguments: str | Path, **settings: str) -> str:
    """The one line that a command which must fail leaves on stderr."""
    done = monolite(*arguments, **settings)
    assert done.returncode != 0
    lines = done.stderr.decode().splitlines()
    assert len(lines) == 1, lines
    assert lines[0].startswith("monolite: ")
    return lines[0]


def commands() -> Iterator[list[str]]:
    """Every command as its words."""

    def below(parser: object, words: list[str]) -> Iterator[list[str]]:
        groups = getattr(parser, "_subparsers", None)
        if groups is None:
            yield words
            return
        for action in groups._group_actions:
            for word, one in action.choices.items():
                yield from below(one, [*words, word])

    yield from below(build_parser(), [])


@pytest.fixture(scope="module")
def serving(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    with running_server(tmp_path_factory.mktemp("cli") / "data") as running:
        yield running


@pytest.fixture(scope="module", params=["beside a server", "without a server"])
def data(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    if request.param == "beside a server":
        server: ServerProcess = request.getfixturevalue("serving")
        return server.data
    return tmp_path_factory.mktemp("alone") / "data"


def test_tenants_and_keys_from_making_to_their_end(data: Path) -> None:
    made = out("tenant", "create", "acme", "--data", data)
    assert KEY.fullmatch(made), "the key stands alone on stdout"
    assert "acme" in out("tenant", "list", "--data", data)
    assert "acme" in refusal("tenant", "create", "acme", "--data", data)

    key = out("key", "create", "ci", "--tenant", "acme", "--scopes", "locks", "--data", data)
    assert KEY.fullmatch(key)
    listed = out("key", "list", "--tenant", "acme", "--data", data)
    assert key[3:19] in listed
    assert key.strip() not in listed
    assert out("key", "revoke", key[3:19], "--tenant", "acme", "--data", data) == ""
    assert key[3:19] not in out("key", "list", "--tenant", "acme", "--data", data)
    refusal("key", "revoke", key[3:19], "--tenant", "acme", "--data", data)
    refusal("key", "create", "--tenant", "acme", "--scopes", "nope", "--data", data)

    assert out("tenant", "delete", "acme", "--data", data) == ""
    assert "acme" not in out("tenant", "list", "--data", data)
    refusal("tenant", "delete", "acme", "--data", data)
    refusal("key", "list", "--tenant", "acme", "--data", data)


def test_a_key_made_beside_a_running_server_works_at_once(serving: ServerProcess) -> None:
    key = out("tenant", "create", "at-once", "--data", serving.data).strip()
    with serving.client(key) as client:
        assert client.get("/v1/collections").status_code == 200
        out("key", "revoke", key[3:19], "--tenant", "at-once", "--data", serving.data)
        assert client.get("/v1/collections").status_code == 401


def test_an_export_imported_elsewhere_exports_to_the_same_bytes(
    serving: ServerProcess, tmp_path: Path
) -> None:
    key = out("tenant", "create", "moving", "--data", serving.data).strip()
    bodies = ['{"n": 1.10, "big": 123456789012345678901234567890}', '{"ü":"\\u0001\\n"}', "{}"]
    with serving.client(key) as client:
        for number, body in enumerate(bodies):
            for path in (f"a/documents/{number}", f"b/documents/{number}"):
                headers = {"Content-Type": "application/json"}
                made = client.put(f"/v1/collections/{path}", content=body, headers=headers)
                assert made.status_code == 201
        shown = [client.get(f"/v1/collections/a/documents/{n}").content for n in range(3)]
        tags = [client.get(f"/v1/collections/a/documents/{n}").headers["etag"] for n in range(3)]
    file, again, elsewhere = tmp_path / "a.ndjson", tmp_path / "b.ndjson", tmp_path / "elsewhere"
    out("tenant", "export", "moving", "--output", file, "--data", serving.data)
    new_key = out("tenant", "import", "moving", "--input", file, "--data", elsewhere)
    assert KEY.fullmatch(new_key)
    out("tenant", "export", "moving", "--output", again, "--data", elsewhere)
    records = [json.loads(line) for line in file.read_bytes().splitlines()]
    copies = [json.loads(line) for line in again.read_bytes().splitlines()]
    assert copies[1:-1] == records[1:-1]
    assert len(records) == 2 + 2 + 6
    with running_server(elsewhere) as other, other.client(new_key.strip()) as client:
        for number in range(3):
            answer = client.get(f"/v1/collections/a/documents/{number}")
            assert (answer.content, answer.headers["etag"]) == (shown[number], tags[number])
    assert again.read_bytes() == file.read_bytes()


def test_a_cut_or_changed_export_is_refused_and_leaves_no_tenant(
    serving: ServerProcess, tmp_path: Path
) -> None:
    key = out("tenant", "create", "whole", "--data", serving.data).strip()
    with serving.client(key) as client:
        client.post("/v1/collections/a/documents", json={"amount": 100})
    whole = out("tenant", "export", "whole", "--data", serving.data).encode()
    *rest, _ = whole.splitlines(keepends=True)
    broken = {"cut": b"".join(rest), "changed": whole.replace(b"100", b"900"), "empty": b""}
    for name, text in broken.items():
        done = monolite("tenant", "import", name, "--data", serving.data, stdin=text)
        assert done.returncode == 1
        assert len(done.stderr.splitlines()) == 1
        assert name not in out("tenant", "list", "--data", serving.data)


def test_a_second_server_on_the_same_directory_refuses(serving: ServerProcess) -> None:
    done = monolite("serve", "--data", serving.data, "--listen", "127.0.0.1:0")
    assert done.returncode == 1
    assert "in use" in done.stderr.decode().splitlines()[-1]
    assert httpx.get(f"{serving.url}/readyz").status_code == 200


def test_the_operators_key_and_the_secret_are_for_their_owner_alone(
    serving: ServerProcess,
) -> None:
    for name in ("operator.key", "root.secret"):
        assert stat.S_IMODE((serving.data / name).stat().st_mode) == 0o600


def test_a_backup_beside_a_running_server_is_whole(serving: ServerProcess, tmp_path: Path) -> None:
    key = out("tenant", "create", "kept", "--data", serving.data).strip()
    with serving.client(key) as client:
        client.post("/v1/collections/a/documents", json={})
    copy = tmp_path / "copy.db"
    out("backup", "--output", copy, "--data", serving.data)
    with closing(sqlite3.connect(copy)) as database:
        assert database.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        names = database.execute("SELECT name FROM tenants").fetchall()
    assert ("kept",) in names
    refusal("backup", "--output", copy, "--data", serving.data)


def test_the_secret_is_exported_alone_and_the_doctor_nags_until_then(tmp_path: Path) -> None:
    data = tmp_path / "data"
    refusal("secret", "export", "--data", data)
    out("tenant", "create", "acme", "--data", data)
    assert "secret export" in monolite("doctor", "--data", data).stdout.decode()
    secret = out("secret", "export", "--data", data)
    assert re.fullmatch(r"mrs_[0-9a-f]{64}\n", secret)
    report = monolite("doctor", "--data", data).stdout.decode()
    assert re.search(r"ok +root secret: exported", report)
    assert "integrity_check is ok" in report
    assert secret.strip() not in report


def test_after_a_rotation_old_keys_are_refused_and_new_ones_work(tmp_path: Path) -> None:
    data = tmp_path / "data"
    old = out("tenant", "create", "acme", "--data", data).strip()
    before = out("secret", "export", "--data", data)
    out("secret", "rotate", "--data", data)
    assert out("secret", "export", "--data", data) != before
    new = out("key", "create", "--tenant", "acme", "--data", data).strip()
    with running_server(data) as server:
        for key, status in ((old, 401), (new, 200)):
            with server.client(key) as client:
                assert client.get("/v1/collections").status_code == status


def test_a_missing_root_secret_is_said_and_nothing_is_made(tmp_path: Path) -> None:
    data = tmp_path / "data"
    out("tenant", "create", "acme", "--data", data)
    (data / "root.secret").rename(data / "moved")
    assert "MONOLITE_ROOT_SECRET" in refusal("tenant", "list", "--data", data)
    assert not (data / "root.secret").exists()


def test_config_check_redacts_secrets_and_names_what_it_cannot_read() -> None:
    done = monolite(
        "config", "check", MONOLITE_ROOT_SECRET="mrs_" + "a" * 64, AWS_SECRET_ACCESS_KEY="hidden1"
    )
    assert done.returncode == 0
    text = (done.stdout + done.stderr).decode()
    assert "a" * 16 not in text
    assert "hidden1" not in text
    assert re.search(r"AWS_SECRET_ACCESS_KEY +\(set, redacted\)", text)
    bad = {
        "MONOLITE_LISTEN": "nowhere",
        "MONOLITE_SYNCHRONOUS": "maybe",
        "MONOLITE_RATE_LIMIT": "-1",
        "MONOLITE_REPLICA_URL": "http://x",
    }
    for name, value in bad.items():
        assert name in refusal("config", "check", **{name: value})


def test_version_names_the_schema() -> None:
    facts = json.loads(out("version", "--json"))
    assert facts.keys() >= {"version", "build", "schema_version", "schema_compatible_from"}
    assert facts["version"] in out("version")


def test_licenses_name_the_parts_that_travel() -> None:
    text = out("licenses").lower()
    for part in ("granian", "starlette", "apsw", "sqlite", "msgspec", "litestream", "python"):
        assert part in text


def test_replica_commands_without_a_replica_say_what_to_set(
    serving: ServerProcess, tmp_path: Path
) -> None:
    assert "not configured" in out("replica", "status", "--data", serving.data)
    assert "MONOLITE_REPLICA_URL" in refusal("replica", "drill", "--data", serving.data)
    assert "MONOLITE_REPLICA_URL" in refusal("restore", "--data", tmp_path / "data")


def test_an_unreadable_file_or_directory_is_one_line(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("")
    refusal("tenant", "list", "--data", file)
    refusal("tenant", "import", "x", "--input", tmp_path / "none", "--data", tmp_path / "data")


@pytest.mark.parametrize("words", [["nope"], [], ["tenant"], ["tenant", "create"], ["key", "list"]])
def test_a_wrong_call_is_exit_2_and_one_line_that_names_the_help(words: list[str]) -> None:
    done = monolite(*words)
    assert done.returncode == 2
    assert done.stderr.count(b"\n") == 1
    assert b"--help" in done.stderr
    assert done.stdout == b""


@pytest.mark.parametrize("words", list(commands()), ids=" ".join)
def test_every_commands_help_has_an_example_that_parses(
    words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    parser = build_parser()
    with pytest.raises(SystemExit) as ended:
        parser.parse_args([*words, "--help"])
    assert ended.value.code == 0
    shown = " ".join(capsys.readouterr().out.split())
    example = re.search(r"Example: .*?monolite (.*)", shown)
    assert example is not None
    line = re.split(r"[)|]", example[1])[0].split()
    chosen = build_parser().parse_args(line)
    assert callable(chosen.command)
    assert line[: len(words)] == words
