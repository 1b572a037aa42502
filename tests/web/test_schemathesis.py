"""Schemathesis over the document that the server gives: no server error, no ignored credential."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.server_process import Tenant, environment

TIME_S_MAX = 25
CHECKS = "not_a_server_error,ignored_auth,use_after_free,negative_data_rejection"


def test_schemathesis_finds_no_server_error(tenant: Tenant, tmp_path: Path) -> None:
    key = f"Authorization: Bearer {tenant.key}"
    done = subprocess.run(
        [
            *(str(Path(sys.executable).with_name("schemathesis")), "run"),
            f"{tenant.server.url}/openapi.json",
            *("--header", key, "--checks", CHECKS, "--seed", "7", "--generation-database", "none"),
            *("--max-examples", "12", "--max-time", str(TIME_S_MAX), "--request-timeout", "20"),
            # Only the operator's key opens the first; a tenant's is refused before they are read.
            # A change feed ends only with its client.
            *("--exclude-path-regex", "^/v1/(operator|tenants)|/changes$", "--phases", "examples,fuzzing"),
            *("--report", "ndjson", "--report-dir", str(tmp_path)),
        ],
        capture_output=True,
        text=True,
        timeout=TIME_S_MAX * 3,
        env=environment(NO_COLOR="1"),
        cwd=tmp_path,
        check=False,
    )
    assert "Traceback" not in done.stderr, done.stderr
    assert done.returncode == 0, done.stdout[-8000:]
    (report,) = tmp_path.glob("*.ndjson")
    assert "/v1/collections/{collection}/documents" in report.read_text()
