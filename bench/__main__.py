"""`python -m bench`: list the figures, run one, or run them all."""

from __future__ import annotations

import argparse
import ast
import os
import subprocess
import sys
from pathlib import Path

from bench.machine import LOCK_HELD, run_lock

NAMES = (
    "get_document",
    "post_document",
    "memory",
    "cold_start",
    "replication_throughput",
    "loss_window",
    "tenant_query",
    "ndjson_import",
    "filtered_list",
    "promoted_write",
    "index_tracking",
    "promoted_storage",
    "index_build",
    "jobs",
    "agreement",
    "embedding_memory",
    "e5",
    "vector_scan",
    "encoder_kernels",
    "search_http",
    "language_model",
    "mixed_load",
    "routing",
    "crdt",
    "streams",
    "streams_http",
)


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m bench",
        description="Measure Monolite beside its peers; without a NAME, every figure.",
        epilog="Example: python -m bench get_document --seconds 3 --rounds 5. "
        "Each NAME has its own --help.",
    )
    parser.add_argument("--list", action="store_true", help="name the figures and stop")
    parser.add_argument("name", nargs="?", choices=NAMES, metavar="NAME")
    words = sys.argv[1:]
    if words and words[0] in NAMES and {"-h", "--help"} & set(words):
        return _run(words[0], words[1:], {})
    options, rest = parser.parse_known_args()
    if options.list:
        for name in NAMES:
            print(f"{name:<24}{_summary(name)}")
        return 0
    if rest and options.name is None:
        parser.error(f"{rest[0]} is an option of one figure; name the figure before it")
    chosen = (options.name,) if options.name else NAMES
    with run_lock():
        codes = {name: _run(name, rest, LOCK_HELD) for name in chosen}
    if len(codes) > 1:
        for name, code in codes.items():
            print(f"{name:<24}{'no miss' if code == 0 else 'MISSED' if code == 1 else 'failed'}")
    return max(codes.values())


def _run(name: str, arguments: list[str], environment: dict[str, str]) -> int:
    command = [sys.executable, "-m", f"bench.{name}", *arguments]
    root = Path(__file__).resolve().parents[1]
    return abs(subprocess.run(command, cwd=root, env=os.environ | environment).returncode)


def _summary(name: str) -> str:
    source = (Path(__file__).parent / f"{name}.py").read_text()
    return (ast.get_docstring(ast.parse(source)) or "").partition("\n")[0]


if __name__ == "__main__":
    sys.exit(main())
