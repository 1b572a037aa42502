#!/usr/bin/env bash
# Prints the path of the Python to build .venv with.
#
# A Python built with profile-guided optimisation serves 1.4-2 times the requests of one that was
# not, so among the installed Pythons >= 3.11 one that says it was so built wins, and among the
# silent ones the fastest in a short loop. MONOLITE_PYTHON=/path/to/python overrules.
set -euo pipefail

describe='
import sys, sysconfig, time
if sys.version_info < (3, 11) or sys.implementation.name != "cpython":
    raise SystemExit(1)
configured = " ".join(str(sysconfig.get_config_var(name) or "")
                      for name in ("CONFIG_ARGS", "PGO_PROF_USE_FLAG", "PY_CORE_CFLAGS"))
declared = "--enable-optimizations" in configured or "-fprofile-use" in configured
# Debian and Ubuntu run the profile-opt target by hand, so the configure line is silent.
distribution = "--with-wheel-pkg-dir=/usr/share/python-wheels" in configured
def loop():
    start = time.perf_counter()
    table = {}
    for i in range(60000):
        table[i & 255] = table.get(i & 255, 0) + len(str(i))
    return time.perf_counter() - start
best = min(loop() for _ in range(5))
pgo = "pgo" if declared or distribution else "plain"
print(pgo, "%d.%d" % sys.version_info[:2], int(best * 1e6), sys.executable)
'

candidates() {
    local name
    for name in python3.11 python3.12 python3.13 python3.14 python3; do
        printf '%s\n' "/usr/bin/$name" "/usr/local/bin/$name"
        type -ap "$name" || true
    done
}

if [[ -n "${MONOLITE_PYTHON:-}" ]]; then
    "$MONOLITE_PYTHON" -I -c "$describe" >/dev/null 2>&1 || {
        printf 'MONOLITE_PYTHON=%s is not a working CPython 3.11 or newer: name another.\n' \
            "$MONOLITE_PYTHON" >&2
        exit 1
    }
    printf '%s\n' "$MONOLITE_PYTHON"
    exit 0
fi

found="$(
    candidates | awk '!seen[$0]++' | while IFS= read -r path; do
        [[ -x "$path" ]] || continue
        "$path" -I -c "$describe" 2>/dev/null </dev/null || true
    done | sort -u -k4,4
)"
if [[ -z "$found" ]]; then
    printf 'No CPython 3.11 or newer was found. Install one (Debian, Ubuntu: sudo apt install python3.11 python3.11-venv)\nor name it: MONOLITE_PYTHON=/path/to/python3.11 make setup\n' >&2
    exit 1
fi
# "pgo" sorts before "plain"; among the former the oldest supported version, which the locks were
# made on; among the latter the fastest.
chosen="$(grep '^pgo ' <<<"$found" | sort -k2,2V -k3,3n | head -n 1 || true)"
[[ -n "$chosen" ]] || chosen="$(sort -k3,3n <<<"$found" | head -n 1)"
read -r kind version micros path <<<"$chosen"
if [[ "$kind" == pgo ]]; then note="built with profile-guided optimisation"
else note="not known to be built with profile-guided optimisation: expect fewer requests per second"; fi
printf 'python: %s (%s, %s; loop %s us)\n' "$path" "$version" "$note" "$micros" >&2
printf '%s\n' "$path"
