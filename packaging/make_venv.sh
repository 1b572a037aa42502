#!/usr/bin/env bash
# make_venv.sh VENV REQUIREMENTS...: creates VENV where it is missing and installs the hashed
# requirements into it. Works where Debian left ensurepip out, by borrowing a pip.
set -euo pipefail
cd "$(dirname "$0")/.."
venv="$1"
shift

fail() {
    printf 'setup: %s\n' "$1" >&2
    exit 1
}

pip_of_another_python() {
    local path
    for path in /usr/bin/python3 "$(command -v python3 || true)"; do
        # --python, which lets a pip work on another environment, came with pip 22.3
        if [[ -x "$path" ]] && "$path" -m pip --python "$path" --version >/dev/null 2>&1; then
            printf '%s\n' "$path"
            return
        fi
    done
}

if ! "$venv/bin/python" -c '' 2>/dev/null; then
    python="$(packaging/choose_python.sh)"
    rm -rf "$venv"
    printf 'setup: making %s\n' "$venv"
    if ! "$python" -m venv "$venv" >/dev/null 2>&1; then
        rm -rf "$venv"
        if ! "$python" -m venv --without-pip "$venv" >/dev/null 2>&1; then
            rm -rf "$venv"
            "$python" -m virtualenv --quiet "$venv" >/dev/null 2>&1 ||
                fail "$python has neither venv nor virtualenv. Install one (Debian, Ubuntu: sudo apt install python3-venv) and run make setup again."
        fi
    fi
fi

pip=("$venv/bin/python" -m pip)
if ! "${pip[@]}" --version >/dev/null 2>&1; then
    lender="$(pip_of_another_python)"
    wheel="$(compgen -G '/usr/share/python-wheels/pip-*.whl' | head -n 1 || true)"
    if [[ -n "$lender" ]]; then
        pip=("$lender" -m pip --python "$venv/bin/python")
    elif [[ -n "$wheel" ]]; then
        pip=("$venv/bin/python" "$wheel/pip")
    else
        fail "no pip was found to fill $venv. Install one (Debian, Ubuntu: sudo apt install python3-venv python3-pip), remove $venv and run make setup again."
    fi
fi

arguments=()
for file in "$@"; do arguments+=(--requirement "$file"); done
printf 'setup: installing %s\n' "$*"
"${pip[@]}" install --disable-pip-version-check --require-hashes --no-deps --only-binary :all: \
    --progress-bar off --quiet --quiet "${arguments[@]}" ||
    fail "the packages could not be installed. The lines above say which; the usual cause is no network or a package index without it. Run make setup again once that is mended: what was done is kept."
printf 'setup: %s is ready\n' "$venv"
