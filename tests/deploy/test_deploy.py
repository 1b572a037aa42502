"""deploy.sh from outside: what a host is left with, and what it serves."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from tests.deploy.conftest import CHECKOUT, Host, release

# A release whose migration can't be taken back, and which is then never ready.
MIGRATES_THEN_FAILS = """
import json, os, signal, socket, sqlite3, sys, time
if sys.argv[1] == "version":
    print(json.dumps({"version": "9.0.0", "build": "test", "schema_version": 99,
                      "schema_compatible_from": 99}))
    raise SystemExit
data = sys.argv[sys.argv.index("--data") + 1]
database = sqlite3.connect(data + "/monolite.db")
database.execute("INSERT INTO schema_migrations VALUES (99, 'breaks', 'x', 99, 0)")
database.execute("DROP TABLE documents")
database.commit()
database.close()
address = os.environ["NOTIFY_SOCKET"]
socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM).sendto(b"READY=1", address)
signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
host, port = os.environ["MONOLITE_LISTEN"].split(":")
listener = socket.create_server((host, int(port)))
while True:
    peer, _ = listener.accept()
    request = b""
    while not request.endswith(b"\\r\\n\\r\\n"):
        request += peer.recv(4096)
    peer.sendall(b"HTTP/1.1 503 Service Unavailable\\r\\nContent-Length: 0\\r\\n\\r\\n")
    peer.close()
"""


def tenant_key(host: Host) -> str:
    operator = (host.data / "operator.key").read_text().strip()
    status, tenant = host.ask("POST", "/v1/tenants", {"name": "acme"}, key=operator)
    assert status == 201
    return str(tenant["key"])


def write_document(host: Host, key: str) -> str:
    status, document = host.ask(
        "POST", "/v1/collections/notes/documents", {"text": "kept"}, key=key
    )
    assert status == 201
    return f"/v1/collections/notes/documents/{document['id']}"


def test_first_install_serves_and_says_what_comes_next(host: Host, tmp_path: Path) -> None:
    done = host.deploy("--binary", str(release(tmp_path / "one", "one")))
    assert done.returncode == 0, done.stderr
    assert host.ask("GET", "/readyz")[0] == 200
    assert host.current.startswith("releases/0.")
    assert (host.data.stat().st_mode & 0o777) == 0o700
    for advice in ("operator.key", "secret export", "Caddyfile", "monolite.env"):
        assert advice in done.stdout


def test_environment_file_is_made_private_and_never_overwritten(host: Host, tmp_path: Path) -> None:
    settings = host.root / "etc/monolite/monolite.env"
    before = settings.read_text()
    one = release(tmp_path / "one", "one")
    assert host.deploy("--binary", str(one)).returncode == 0
    assert settings.read_text() == before
    subprocess.run(["systemctl", "stop", "monolite"], env=host.environment, check=True)
    settings.unlink()
    host.deploy("--binary", str(release(tmp_path / "two", "two")), "--wait", "1")
    assert (settings.stat().st_mode & 0o777) == 0o600
    assert "MONOLITE_REPLICA_URL" in settings.read_text()


def test_upgrade_keeps_the_data_and_the_release_before(host: Host, tmp_path: Path) -> None:
    assert host.deploy("--binary", str(release(tmp_path / "one", "one"))).returncode == 0
    first = host.current
    key = tenant_key(host)
    place = write_document(host, key)
    done = host.deploy("--binary", str(release(tmp_path / "two", "two")))
    assert done.returncode == 0, done.stderr
    assert host.current != first
    assert (host.root / "opt/monolite" / first).exists()
    assert host.ask("GET", place, key=key)[0] == 200
    # No backup is taken for a release that the one before can follow.
    assert not list(host.data.glob("before-*"))


def test_deploying_the_same_release_again_restarts_nothing(host: Host, tmp_path: Path) -> None:
    one = release(tmp_path / "one", "one")
    assert host.deploy("--binary", str(one)).returncode == 0
    log = host.root / "systemctl.log"
    restarts = log.read_text().count("restart")
    done = host.deploy("--binary", str(one))
    assert done.returncode == 0
    assert "nothing to do" in done.stdout
    assert log.read_text().count("restart") == restarts


def test_release_that_migrates_and_is_never_ready_is_rolled_back_and_serves(
    host: Host, tmp_path: Path
) -> None:
    assert host.deploy("--binary", str(release(tmp_path / "one", "one"))).returncode == 0
    good = host.current
    key = tenant_key(host)
    place = write_document(host, key)
    program = tmp_path / "program.py"
    program.write_text(MIGRATES_THEN_FAILS)
    bad = release(tmp_path / "bad", "bad", str(program))
    done = host.deploy("--binary", str(bad), "--wait", "3")
    assert done.returncode == 1
    assert "rolled back" in done.stderr
    assert "503" in done.stderr
    assert "a rollback would lose the writes made after" in done.stdout
    assert host.current == good
    assert host.ask("GET", "/readyz")[0] == 200
    assert host.ask("GET", place, key=key)[0] == 200
    assert host.ask("POST", "/v1/collections/notes/documents", {"a": 1}, key=key)[0] == 201
    # What the failed release made of the database is kept to be looked at.
    assert list(host.data.glob("failed-*/monolite.db"))


def test_release_that_ends_at_once_is_rolled_back(host: Host, tmp_path: Path) -> None:
    assert host.deploy("--binary", str(release(tmp_path / "one", "one"))).returncode == 0
    good = host.current
    program = tmp_path / "program.py"
    program.write_text(
        "import sys\n"
        'if sys.argv[1] == "version":\n'
        '    print(\'{"version": "9.0.0", "schema_version": 1, "schema_compatible_from": 1}\')\n'
        'else:\n    sys.exit("no such luck")\n'
    )
    done = host.deploy(
        "--binary", str(release(tmp_path / "bad", "bad", str(program))), "--wait", "2"
    )
    assert done.returncode == 1
    assert "no such luck" in done.stderr
    assert host.current == good
    assert host.ask("GET", "/readyz")[0] == 200


def test_first_install_that_is_never_ready_says_that_there_is_nothing_to_go_back_to(
    host: Host, tmp_path: Path
) -> None:
    program = tmp_path / "program.py"
    program.write_text(
        "import sys\n"
        'if sys.argv[1] != "version":\n    sys.exit(1)\n'
        'print(\'{"version": "9.0.0", "schema_version": 1, "schema_compatible_from": 1}\')\n'
    )
    done = host.deploy(
        "--binary", str(release(tmp_path / "bad", "bad", str(program))), "--wait", "1"
    )
    assert done.returncode == 3
    assert "no other release to go back to" in done.stderr


def test_copy_damaged_on_the_way_is_refused_and_the_old_release_serves_on(
    host: Host, tmp_path: Path
) -> None:
    assert host.deploy("--binary", str(release(tmp_path / "one", "one"))).returncode == 0
    good = host.current
    done = host.deploy("--binary", str(release(tmp_path / "two", "two")), DAMAGE_IN_TRANSIT="yes")
    assert done.returncode == 1
    assert "damaged on the way" in done.stderr
    assert host.current == good
    assert host.ask("GET", "/readyz")[0] == 200


def test_file_that_is_not_monolite_is_refused_before_the_swap(host: Host, tmp_path: Path) -> None:
    assert host.deploy("--binary", str(release(tmp_path / "one", "one"))).returncode == 0
    good = host.current
    done = host.deploy("--binary", str(release(tmp_path / "two", "two", "-c pass")))
    assert done.returncode == 1
    assert "named no version" in done.stderr
    assert host.current == good


def test_dry_run_changes_nothing(host: Host, tmp_path: Path) -> None:
    one = release(tmp_path / "one", "one")
    before = host.files()
    done = host.deploy("--dry-run", "--binary", str(one))
    assert done.returncode == 0, done.stderr
    assert host.files() == before
    assert "nothing was changed" in done.stdout


def test_missing_executable_says_to_build_it(host: Host, tmp_path: Path) -> None:
    done = host.deploy("--binary", str(tmp_path / "missing"))
    assert done.returncode == 1
    assert "make binary" in done.stderr


def test_help_shows_an_example() -> None:
    done = subprocess.run(
        [str(CHECKOUT / "deploy.sh"), "--help"], capture_output=True, text=True, check=True
    )
    assert "./deploy.sh root@" in done.stdout


@pytest.mark.skipif(shutil.which("shellcheck") is None, reason="shellcheck is not installed")
def test_shell_scripts_pass_shellcheck() -> None:
    scripts = [CHECKOUT / "deploy.sh", *sorted((CHECKOUT / "packaging").glob("*.sh"))]
    subprocess.run(["shellcheck", *map(str, scripts)], check=True)
