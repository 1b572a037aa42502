#!/usr/bin/env bash
# The half of deploy.sh that runs on the host, sent there over ssh's standard input.
#   look HASH PREFIX | stage | unstage DIR | install HASH PREFIX DIR WAIT_S
# PREFIX is "/", or a directory that stands for it.
set -euo pipefail

# Read whole before a line runs: a child that reads standard input would eat the rest.
main() {
    local verb="$1"
    shift
    case "$verb" in
    look) look "$@" ;;
    stage) mktemp -d "${TMPDIR:-/tmp}/monolite-deploy.XXXXXX" ;;
    unstage) rm -rf -- "$1" ;;
    install) install_release "$@" ;;
    esac
}

say() { printf 'host: %s\n' "$*"; }
fail() {
    printf 'host: %s\n' "$1" >&2
    exit "${2:-1}"
}

as_root() { if [[ "$(id -u)" -eq 0 || -n "$prefix" ]]; then "$@"; else sudo -n "$@"; fi; }
as_service() { # the server's own user, so that no file in its directory belongs to another
    if [[ -n "$prefix" ]]; then
        "$@"
    elif [[ "$(id -u)" -eq 0 ]]; then
        runuser -u monolite -- "$@"
    else
        sudo -n -u monolite "$@"
    fi
}

places() {
    prefix="${1%/}"
    home="$prefix/opt/monolite"
    link="$home/monolite"
    data="$prefix/var/lib/monolite"
    environment="$prefix/etc/monolite/monolite.env"
    unit="$prefix/etc/systemd/system/monolite.service"
}

release_of() { # HASH: its file among the releases, whatever its version
    local found
    found="$(compgen -G "$home/releases/*-${1:0:12}" | head -n 1 || true)"
    if [[ -n "$found" ]] && sha256sum "$found" | grep -q "^$1 "; then printf '%s' "$found"; fi
}

look() {
    local hash="$1"
    places "$2"
    printf 'system=%s\nmachine=%s\n' "$(uname -s)" "$(uname -m)"
    printf 'systemctl=%s\n' "$(command -v systemctl >/dev/null && echo yes || echo no)"
    printf 'root=%s\n' "$(as_root true >/dev/null 2>&1 && echo yes || echo no)"
    printf 'current=%s\n' "$(basename "$(readlink "$link" 2>/dev/null || true)")"
    printf 'stored=%s\n' "$([[ -n "$(release_of "$hash")" ]] && echo yes || echo no)"
}

member() { # NAME JSON: a number or a plain string of one flat object
    sed -n "s/.*\"$1\": *\"\{0,1\}\([^\",}]*\).*/\1/p" <<<"$2" | head -n 1
}

listen_address() {
    local value
    value="$(as_root sed -n 's/^MONOLITE_LISTEN=//p' "$environment" 2>/dev/null | tail -n 1 | tr -d "\"'")"
    value="${value:-127.0.0.1:8080}"
    case "${value%:*}" in
    "" | 0.0.0.0) echo "127.0.0.1 ${value##*:}" ;;
    "[::]" | "::") echo "::1 ${value##*:}" ;;
    *) echo "$(tr -d '[]' <<<"${value%:*}") ${value##*:}" ;;
    esac
}

readyz() { # the whole answer; needs neither curl nor wget
    local host port
    read -r host port <<<"$(listen_address)"
    # shellcheck disable=SC2016 # the inner bash expands these
    timeout 5 bash -c '
        exec 3<>"/dev/tcp/$1/$2" || exit 1
        printf "GET /readyz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n" >&3
        cat <&3
    ' _ "$host" "$port" 2>/dev/null </dev/null || true
}

wait_until_ready() { # SECONDS; the last answer is kept for the message
    local until=$((SECONDS + $1))
    answer=""
    while ((SECONDS < until)); do
        answer="$(readyz | tr -d '\r')"
        [[ "$answer" == "HTTP/1.1 200"* ]] && return 0
        sleep 0.05
    done
    return 1
}

start_release() { # SECONDS: restart, and whether it is ready
    local code=0
    # Type=notify: systemctl comes back when the server has said READY or has failed.
    as_root timeout "$1" systemctl restart monolite.service </dev/null 9<&- || code=$?
    # 124 is timeout's: still starting. Any other failure is the program's end, so that waiting on
    # would only lengthen the outage; one more look allows for systemd's own second try.
    if ((code == 0 || code == 124)); then wait_until_ready "$1"; else wait_until_ready 2; fi
}

point_to() { # RELEASE FILE: an atomic swap, so that the path names a whole release at every instant
    as_root ln -s "releases/$(basename "$1")" "$link.new"
    as_root mv -T "$link.new" "$link"
}

prepare_host() {
    if [[ -z "$prefix" ]] && ! id monolite >/dev/null 2>&1; then
        as_root useradd --system --home-dir /var/lib/monolite --shell /usr/sbin/nologin monolite
    fi
    as_root mkdir -p "$home/releases" "$(dirname "$unit")"
    [[ -d "$(dirname "$environment")" ]] || as_root install -d -m 0755 "$(dirname "$environment")"
    if [[ ! -d "$data" ]]; then
        as_root install -d -m 0700 "$data"
        [[ -n "$prefix" ]] || as_root chown monolite:monolite "$data"
    fi
    if ! as_root test -e "$environment"; then
        as_root install -m 0600 /dev/null "$environment"
        as_root tee "$environment" >/dev/null <<'ENV'
# Monolite's settings; `monolite config check` explains each. After a change:
#   sudo systemctl restart monolite
MONOLITE_LISTEN=127.0.0.1:8080
#MONOLITE_SYNCHRONOUS=full
#MONOLITE_REPLICA_URL=s3://bucket/prefix
#MONOLITE_S3_ENDPOINT=https://s3.example.com
#AWS_ACCESS_KEY_ID=
#AWS_SECRET_ACCESS_KEY=
ENV
    fi
}

store_release() { # HASH DIR: checks the copy on this host and gives it its name; sets `release`
    local hash="$1" directory="$2" facts version
    release="$(release_of "$hash")"
    if [[ -z "$release" ]]; then
        sha256sum "$directory/monolite" | grep -q "^$hash " ||
            fail "the copy's SHA-256 is not $hash: it was damaged on the way. Nothing was changed; deploy again."
        as_root install -m 0755 "$directory/monolite" "$home/releases/.incoming"
        facts="$(as_service "$home/releases/.incoming" version --json </dev/null)" ||
            fail "the executable doesn't run here ('monolite version' failed, see above): it needs this machine's architecture and a glibc no older than the build machine's. Nothing was changed."
        version="$(member version "$facts")"
        [[ "$version" =~ ^[A-Za-z0-9.+-]+$ ]] ||
            fail "'monolite version --json' named no version: is that file Monolite? Nothing was changed."
        release="$home/releases/$version-${hash:0:12}"
        as_root mv "$home/releases/.incoming" "$release"
    fi
}

back_up_when_needed() { # sets `backup` where the old release couldn't run on the new one's schema
    local old_schema new_from
    backup="" backup_time=""
    [[ -n "$old" ]] && as_root test -e "$data/monolite.db" || return 0
    old_schema="$(member schema_version "$(as_service "$old" version --json </dev/null)")"
    new_from="$(member schema_compatible_from "$(as_service "$release" version --json </dev/null)")"
    [[ "$old_schema" =~ ^[0-9]+$ && "$new_from" =~ ^[0-9]+$ ]] ||
        fail "a release didn't say its schema: 'monolite version --json' has no schema_version. Nothing was changed."
    ((new_from > old_schema)) || return 0
    backup_time="$(date -u +%Y%m%dT%H%M%SZ)"
    backup="$data/before-$(basename "$release")-$backup_time.db"
    say "this release changes the database so that the one before can't run on it: taking a backup"
    as_service "$old" backup --data "$data" --output "$backup" </dev/null ||
        fail "the backup failed, see above. Nothing was changed."
    say "a rollback would lose the writes made after $backup_time, and says where they are"
}

put_back() { # the release before, its unit and, where it needs it, its database
    as_root timeout 60 systemctl stop monolite.service </dev/null || true
    if [[ -n "$backup" ]]; then
        local aside name
        aside="$data/failed-$(basename "$release")-$backup_time"
        as_service mkdir -p "$aside"
        for name in monolite.db monolite.db-wal monolite.db-shm .monolite.db-litestream; do
            if as_service test -e "$data/$name"; then as_service mv "$data/$name" "$aside/"; fi
        done
        as_service cp "$backup" "$data/monolite.db"
        say "writes made after $backup_time are in $aside/monolite.db"
    fi
    if as_root test -e "$unit.before"; then as_root mv "$unit.before" "$unit"; fi
    as_root systemctl daemon-reload
    point_to "$old"
}

install_release() {
    local hash="$1" directory="$3" wait_s="$4"
    places "$2"
    umask 022
    as_root mkdir -p "$home"
    exec 9<"$home"
    flock -n 9 || fail "another deploy is running on this host: wait for it"
    old="$(readlink -f "$link" 2>/dev/null || true)"
    [[ -f "$old" ]] || old=""
    prepare_host
    store_release "$hash" "$directory"

    if [[ "$release" == "$old" ]] && as_root cmp -s "$directory/monolite.service" "$unit" &&
        systemctl is-active --quiet monolite.service && wait_until_ready 5; then
        say "$(basename "$release") runs already and is ready: nothing to do"
        return 0
    fi

    back_up_when_needed
    as_root rm -f "$unit.before"
    if as_root test -e "$unit"; then as_root cp -p "$unit" "$unit.before"; fi
    as_root install -m 0644 "$directory/monolite.service" "$unit"
    as_root systemctl daemon-reload
    as_root systemctl enable --quiet monolite.service
    point_to "$release"
    say "starting $(basename "$release")"
    if start_release "$wait_s"; then
        as_root rm -f "$unit.before"
        drop_old_releases
        say "$(basename "$release") is ready${old:+, in place of $(basename "$old")}"
        return 0
    fi

    printf 'host: %s was not ready after %s s. /readyz said: %s\n' "$(basename "$release")" "$wait_s" \
        "$(sed -n '1p;$p' <<<"${answer:-nothing}" | tr '\n' ' ')" >&2
    as_root journalctl --unit monolite.service --lines 20 --no-pager >&2 2>/dev/null || true
    if [[ -z "$old" || "$old" == "$release" ]]; then
        fail "there is no other release to go back to: read the lines above, mend, deploy again" 3
    fi
    put_back
    if start_release "$wait_s"; then
        fail "rolled back: $(basename "$old") serves again. $(basename "$release") stays in $home/releases to be looked at."
    fi
    fail "rolled back to $(basename "$old"), which is not ready either: look at journalctl -u monolite" 3
}

drop_old_releases() { # three stay: this one, the one before, and one to go back to by hand
    local file
    # Names are version-hash, made above: no blanks.
    # shellcheck disable=SC2012
    ls -t "$home/releases" | while IFS= read -r file; do
        file="$home/releases/$file"
        [[ "$file" == "$release" || "$file" == "$old" ]] || printf '%s\n' "$file"
    done | tail -n +2 | while IFS= read -r file; do as_root rm -f "$file"; done
}

main "$@"
