#!/usr/bin/env bash
# Installs or upgrades Monolite on a host over ssh. `./deploy.sh --help` says how.
set -euo pipefail

usage() {
    cat <<'E'
Usage: ./deploy.sh [options] user@host

Installs dist/monolite on a Linux host with systemd, or upgrades what is there. The user must be
root or be allowed to use sudo without a password. A release that doesn't become ready is taken
back by itself, and the one before serves again.

Options:
  --binary FILE        the executable to install; default dist/monolite (make binary)
  --listen HOST:PORT   the address to serve on, for a first install; default 127.0.0.1:8080
  --ready-timeout S    seconds to wait for /readyz; default 60 (a first start that restores a large
                       database from its replica needs more)
  --root DIR           install below DIR instead of / on the host, and make no user
  --dry-run            say what would be done, and change nothing
  --help               this text

Example:
  make binary && ./deploy.sh root@203.0.113.7

Exit codes: 0 done; 1 could not start; 2 wrong usage; 3 refused before anything changed;
4 the new release didn't become ready and was taken back; 5 it could not be taken back.
E
}

die() {
    printf 'deploy.sh: %s\n' "$2" >&2
    exit "$1"
}

here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
binary="$here/dist/monolite"
listen=127.0.0.1:8080
ready_timeout_s=60
root=''
dry_run=no
target=''
while (($#)); do
    case "$1" in
        --help | -h) usage && exit 0 ;;
        --dry-run) dry_run=yes ;;
        --binary | --listen | --ready-timeout | --root)
            [[ -n "${2:-}" ]] || die 2 "$1 needs a value; see ./deploy.sh --help"
            case "$1" in
                --binary) binary="$2" ;;
                --listen) listen="$2" ;;
                --ready-timeout) ready_timeout_s="$2" ;;
                --root) root="$2" ;;
            esac
            shift
            ;;
        -*) die 2 "unknown option $1; see ./deploy.sh --help" ;;
        *)
            [[ -z "$target" ]] || die 2 "one host at a time; see ./deploy.sh --help"
            target="$1"
            ;;
    esac
    shift
done
[[ -n "$target" ]] || die 2 "name the host, for example ./deploy.sh root@203.0.113.7"
[[ "$ready_timeout_s" =~ ^[0-9]+$ ]] || die 2 "--ready-timeout takes whole seconds"
[[ "$listen" =~ ^[][0-9A-Za-z.:-]+:[0-9]+$ ]] || die 2 "--listen takes HOST:PORT"
[[ -z "$root" || "$root" =~ ^/[A-Za-z0-9._/-]*$ ]] || die 2 "--root takes an absolute plain path"
[[ -x "$binary" ]] || die 1 "$binary is missing: run make binary, or name it with --binary"

sha256="$(sha256sum "$binary" | cut -d' ' -f1)"

# What runs on the host; it gets its arguments as name=value lines in front of it.
host_script() {
    cat <<'HOST'
set -euo pipefail
service=monolite
opt="$root/opt/monolite"
data="$root/var/lib/monolite"
etc="$root/etc/monolite"
unit="$root/etc/systemd/system/$service.service"
link="$opt/current"

say() { printf '%s\n' "$*"; }
die() {
    printf 'deploy.sh: on the host: %s\n' "$2" >&2
    exit "$1"
}
field() { # field NAME <<< '{"NAME": value, ...}': flat JSON, no quotes inside values
    sed -n "s/.*\"$1\": *\"\{0,1\}\([^\",}]*\).*/\1/p"
}
as_service() { # runs as the service's user, where that user was made
    if [[ -z "$root" && "$(id -u)" == 0 ]]; then runuser -u monolite -- "$@"; else "$@"; fi
}
ready() { # is /readyz 200? Needs nothing but bash
    local address host port status
    address="$(sed -n 's/^MONOLITE_LISTEN=//p' "$etc/monolite.env" | tail -n 1 | tr -d "\"'")"
    address="${address:-127.0.0.1:8080}"
    port="${address##*:}"
    host="${address%:*}"
    host="${host#[}"
    host="${host%]}"
    case "$host" in 0.0.0.0 | '') host=127.0.0.1 ;; ::) host=::1 ;; esac
    status="$(
        exec 2>/dev/null 3<>"/dev/tcp/$host/$port" || exit 0
        printf 'GET /readyz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n' >&3
        timeout 5 head -n 1 <&3 || true
    )" || true
    [[ "$status" == *" 200 "* ]]
}
restart_until_ready() { # returns 1 when it didn't come; the reason is in $failure
    local deadline=$((SECONDS + ready_timeout_s))
    failure=''
    if ! timeout "$ready_timeout_s" systemctl restart "$service"; then
        failure="the service didn't report that it is up within $ready_timeout_s s, or ended"
        return 1
    fi
    until ready; do
        if ((SECONDS >= deadline)); then
            failure="/readyz didn't answer 200 within $ready_timeout_s s"
            return 1
        fi
        if ! systemctl is-active --quiet "$service"; then
            failure="the service ended after it had started"
            return 1
        fi
        sleep 0.1
    done
}
point_to() { # an atomic change of the link
    ln -sfn "$1" "$link.new"
    mv -T "$link.new" "$link"
}

[[ "$(sha256sum "$incoming/monolite" | cut -d' ' -f1)" == "$sha256" ]] ||
    die 3 "the copied executable's SHA-256 isn't $sha256: the copy is damaged. Nothing was changed; run deploy.sh again"
chmod 0755 "$incoming/monolite"
new="$("$incoming/monolite" version --json)" ||
    die 3 "the executable doesn't run on this host ($(uname -sm)). Nothing was changed; build it on a like machine"
new_version="$(field version <<<"$new")"
new_schema="$(field schema_version <<<"$new")"
compatible_from="$(field schema_compatible_from <<<"$new")"
[[ -n "$new_version" && "$compatible_from" =~ ^[0-9]+$ ]] ||
    die 3 "'monolite version --json' answered $new. Nothing was changed; is this a Monolite executable?"
release="$opt/releases/$new_version-${sha256:0:12}"

old=''
old_schema=''
if [[ -x "$link/monolite" ]]; then
    old="$(readlink -f "$link")"
    old_schema="$("$link/monolite" version --json | field schema_version)"
fi

# Before anything is changed: what would a rollback cost?
needs_backup=no
if [[ -n "$old" && "$old_schema" =~ ^[0-9]+$ ]] && ((compatible_from > old_schema)); then
    needs_backup=yes
fi

if [[ "$dry_run" == yes ]]; then
    say "would install $release/monolite (schema $new_schema)"
    if [[ -z "$old" ]]; then
        say "would make the user monolite, $data, $etc/monolite.env and $unit, and start the service on $listen"
    elif [[ "$old" == "$release" ]]; then
        say "would find this very release running, refresh its unit and restart it"
    else
        say "would switch $link from $old (schema $old_schema), restart, and wait $ready_timeout_s s for /readyz"
    fi
    [[ "$needs_backup" == no ]] ||
        say "would stop the service and take a verified backup first: schema $new_schema doesn't serve the release before; a rollback would lose every write that the new release accepts"
    say "dry run: nothing was changed"
    exit 0
fi

if [[ -z "$root" ]]; then
    id -u monolite >/dev/null 2>&1 ||
        useradd --system --user-group --home-dir /var/lib/monolite --no-create-home \
            --shell /usr/sbin/nologin monolite
fi
mkdir -p "$opt/releases" "$etc" "$(dirname "$unit")"
if [[ ! -d "$data" ]]; then
    mkdir -p "$data"
    chmod 0700 "$data"
    [[ -n "$root" ]] || chown monolite:monolite "$data"
fi
if [[ ! -e "$etc/monolite.env" ]]; then
    (umask 077 && sed "s/^MONOLITE_LISTEN=.*/MONOLITE_LISTEN=$listen/" "$incoming/monolite.env" >"$etc/monolite.env")
fi
chmod 0600 "$etc/monolite.env"

mkdir -p "$release"
if [[ ! -x "$release/monolite" ]]; then
    cp "$incoming/monolite" "$release/.monolite.new"
    chmod 0755 "$release/.monolite.new"
    mv -T "$release/.monolite.new" "$release/monolite"
fi
[[ ! -e "$unit" ]] || cp -p "$unit" "$incoming/unit.before"
cp "$incoming/monolite.service" "$unit.new"
chmod 0644 "$unit.new"
mv -T "$unit.new" "$unit"
systemctl daemon-reload
systemctl enable --quiet "$service"

backup=''
if [[ "$needs_backup" == yes ]]; then
    mkdir -p "$data/backups"
    chmod 0700 "$data/backups"
    [[ -n "$root" ]] || chown monolite:monolite "$data/backups"
    backup="$data/backups/before-$new_version-${sha256:0:12}-$(date -u +%Y%m%dT%H%M%SZ).db"
    say "schema $new_schema doesn't serve the release before (it needs at least schema $compatible_from, that one knows $old_schema)"
    say "stopping the service for a verified backup: $backup"
    systemctl stop "$service"
    if ! as_service "$old/monolite" backup --data "$data" --output "$backup" >&2; then
        [[ ! -e "$incoming/unit.before" ]] || cp -p "$incoming/unit.before" "$unit"
        systemctl daemon-reload
        restart_until_ready || die 5 "the backup failed, and the release before didn't start again ($failure): journalctl -u $service"
        die 3 "the backup failed (above), so the release was not installed; $old serves again"
    fi
    say "a rollback from here would lose every write accepted after $(date -u +%Y-%m-%dT%H:%M:%SZ)"
fi

point_to "$release"
if restart_until_ready; then
    say "$new_version is ready (schema $new_schema, $release)"
else
    reason="$failure"
    if [[ -z "$old" || "$old" == "$release" ]]; then
        systemctl stop "$service" || true
        die 4 "the release didn't become ready: $reason. There is no earlier one to go back to, so the service is stopped. See journalctl -u $service, and run: $release/monolite doctor --data $data"
    fi
    say "the release didn't become ready: $reason" >&2
    say "going back to $old" >&2
    systemctl stop "$service" || true
    if [[ -n "$backup" ]]; then
        aside="$data/taken-back-$(date -u +%Y%m%dT%H%M%SZ)"
        mkdir -m 0700 "$aside"
        for file in monolite.db monolite.db-wal monolite.db-shm; do
            [[ ! -e "$data/$file" ]] || mv "$data/$file" "$aside/"
        done
        cp "$backup" "$data/monolite.db"
        chmod 0600 "$data/monolite.db"
        [[ -n "$root" ]] || chown -R monolite:monolite "$data/monolite.db" "$aside"
        say "the database is the backup $backup again; what the new release wrote lies in $aside" >&2
    fi
    point_to "$old"
    [[ ! -e "$incoming/unit.before" ]] || cp -p "$incoming/unit.before" "$unit"
    systemctl daemon-reload
    if ! restart_until_ready; then
        die 5 "$new_version didn't become ready ($reason), and $old didn't either ($failure). The service is down: journalctl -u $service"
    fi
    lost="no write is lost: the schema serves both"
    [[ -z "$backup" ]] || lost="writes that $new_version accepted, if any, are in $aside only"
    die 4 "$new_version didn't become ready: $reason. $old serves again; $lost. See journalctl -u $service"
fi

# The running release and the two before it stay, to go back by hand.
find "$opt/releases" -mindepth 1 -maxdepth 1 -type d -printf '%T@ %p\n' | sort -rn | cut -d' ' -f2- |
    grep -vxF -e "$release" -e "${old:-none}" | tail -n +2 |
    while IFS= read -r stale; do rm -rf "$stale"; done || true

if [[ -z "$old" ]]; then
    say ""
    say "Next:"
    say "  the operator's key     sudo cat $data/operator.key"
    say "  keep the root secret   sudo -u monolite $link/monolite secret export --data $data"
    say "                         outside this host: a restored database needs it"
    say "  replication to S3      set MONOLITE_REPLICA_URL in $etc/monolite.env, systemctl restart $service"
    say "  TLS                    install Caddy, put your name into Caddyfile (from the repository),"
    say "                         copy it to /etc/caddy/Caddyfile"
    say "  a first tenant         sudo -u monolite $link/monolite tenant create NAME --data $data"
fi
HOST
}

# shellcheck disable=SC2016 # expanded on the host
as_root='if [ "$(id -u)" = 0 ]; then exec bash -s; else exec sudo -n bash -s; fi'
quoted() { printf '%s=%q\n' "$1" "$2"; }

# A message of each step, since a slow line makes the copy long.
printf 'to %s: %s, %s bytes, sha256 %s\n' "$target" "$binary" "$(stat -c %s "$binary")" "$sha256"
incoming="$(ssh -o BatchMode=yes "$target" 'mktemp -d /tmp/monolite-deploy.XXXXXXXX')" ||
    die 1 "can't reach $target: try ssh $target"
[[ "$incoming" =~ ^/[A-Za-z0-9._/-]+$ ]] || die 1 "$target answered '$incoming' for a directory"
# shellcheck disable=SC2029 # expanded here on purpose: the name is checked above
trap 'ssh -o BatchMode=yes "$target" "rm -rf $incoming" || true' EXIT
scp -q -o BatchMode=yes "$binary" "$target:$incoming/monolite"
scp -q -o BatchMode=yes "$here/systemd/monolite.service" "$here/systemd/monolite.env" "$target:$incoming/"

status=0
{
    quoted root "$root"
    quoted incoming "$incoming"
    quoted sha256 "$sha256"
    quoted listen "$listen"
    quoted ready_timeout_s "$ready_timeout_s"
    quoted dry_run "$dry_run"
    # The whole script is read before any of it runs: a command in it can't swallow the rest.
    printf 'install_here() {\n'
    host_script
    printf '}\ninstall_here </dev/null\n'
} | ssh -o BatchMode=yes "$target" "$as_root" || status=$?
exit "$status"
