#!/usr/bin/env bash
# Writes requirements/{runtime,dev,bench}.txt from the .in files beside them, with hashes and
# without index addresses, so that the same lock serves any mirror. Extra arguments go to
# pip-compile (for instance --upgrade).
set -euo pipefail
cd "$(dirname "$0")"
compile="${LOCKER:-../.venv/bin/pip-compile}"
for name in runtime dev bench; do
    printf 'locking %s\n' "$name"
    CUSTOM_COMPILE_COMMAND="make lock" "$compile" --quiet --generate-hashes --allow-unsafe \
        --strip-extras --no-emit-index-url --no-emit-find-links --no-emit-trusted-host \
        --output-file "$name.txt" "$@" "$name.in"
done
