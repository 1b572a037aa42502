#!/usr/bin/env bash
# Writes requirements/{runtime,dev,bench,bare}.txt from the .in files beside them, with hashes and
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

# pip-compile can't leave dependencies out, so these are locked here, for both kinds of machine.
printf 'locking bare\n'
downloads="$(mktemp -d)"
trap 'rm -rf "$downloads"' EXIT
pip="$(dirname "$compile")/pip"
{
    printf '# Made by `make lock` from bare.in.\n'
    grep -v '^#' bare.in | while read -r package; do
        rm -rf "${downloads:?}"/*
        for machine in x86_64 aarch64; do
            "$pip" download --quiet --no-deps --only-binary :all: \
                --platform "manylinux2014_$machine" --dest "$downloads" "$package"
        done
        printf '%s' "$package"
        sha256sum "$downloads"/*.whl | while read -r hash _; do
            printf ' \\\n    --hash=sha256:%s' "$hash"
        done
        printf '\n'
    done
} >bare.new
mv bare.new bare.txt
