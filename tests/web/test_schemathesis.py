"""Schemathesis over the document that the server gives: no server error, no ignored credential."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.server_process import ServerProcess, Tenant, environment, running_server

TIME_S_MAX = 25
# A feed ends only with its client.
ENDLESS = "/changes$|/events$"
CHECKS = "not_a_server_error,ignored_auth,use_after_free,negative_data_rejection"


def run(server: ServerProcess, key: str, paths: str, report: Path) -> str:
    """Runs Schemathesis over the operations whose path matches `paths`; returns its report."""
    done = subprocess.run(
        [
            *(str(Path(sys.executable).with_name("schemathesis")), "run"),
            f"{server.url}/openapi.json",
            *("--header", f"Authorization: Bearer {key}", "--checks", CHECKS, "--seed", "7"),
            *("--max-examples", "12", "--max-time", str(TIME_S_MAX), "--request-timeout", "20"),
            *("--include-path-regex", paths, "--exclude-path-regex", ENDLESS),
            *("--phases", "examples,fuzzing", "--generation-database", "none"),
            *("--report", "ndjson", "--report-dir", str(report)),
        ],
        capture_output=True,
        text=True,
        timeout=TIME_S_MAX * 3,
        env=environment(NO_COLOR="1"),
        cwd=report,
        check=False,
    )
    assert "Traceback" not in done.stderr, done.stderr
    assert done.returncode == 0, done.stdout[-8000:]
    (written,) = report.glob("*.ndjson")
    return written.read_text()


def test_schemathesis_finds_no_server_error(tenant: Tenant, tmp_path: Path) -> None:
    report = run(tenant.server, tenant.key, "^/v1/(?!operator|tenants)", tmp_path)
    assert "/v1/collections/{collection}/documents" in report


def test_schemathesis_finds_none_with_the_operators_key(tmp_path: Path) -> None:
    with running_server(tmp_path / "data") as server:
        report = run(server, server.operator_key, "^/v1/(operator|tenants)", tmp_path)
    assert "/v1/tenants/{name}" in report
