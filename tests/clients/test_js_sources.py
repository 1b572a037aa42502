"""The TypeScript sources: strictly typed, and `dist` is what they compile to."""

from __future__ import annotations

import subprocess
from pathlib import Path

from tests.clients.node import CLIENT, node, packages


def compiler(*arguments: str | Path) -> None:
    script = packages() / "typescript/bin/tsc"
    done = subprocess.run(
        [str(node()), str(script), *map(str, arguments)],
        cwd=CLIENT,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def contents(folder: Path) -> dict[str, bytes]:
    files = [file for file in folder.rglob("*") if file.is_file()]
    return {str(file.relative_to(folder)): file.read_bytes() for file in files}


def test_sources_and_tests_are_strictly_typed() -> None:
    compiler("-p", "tsconfig.json")


def test_what_is_in_dist_is_what_the_sources_compile_to(tmp_path: Path) -> None:
    compiler("-p", "tsconfig.build.json", "--outDir", tmp_path)
    assert contents(CLIENT / "dist") == contents(tmp_path), "run `npm run build` in clients/js"


def test_the_published_client_depends_on_nothing() -> None:
    for file in (CLIENT / "dist").rglob("*.js"):
        for line in file.read_text().splitlines():
            if line.startswith("import ") or (line.startswith("export ") and " from " in line):
                source = line.rpartition(' from "')[2]
                own = source.startswith(("./", "../"))
                assert own or (file.name == "file-storage.js" and source.startswith("node:")), line
