#!/usr/bin/env bash
# Puts dist/monolite on a host over ssh: a first install and an upgrade are the same command.
# `./deploy.sh --help` says how; docs/deploy.md says what lies where afterwards.
set -euo pipefail
here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"

usage() {
    cat <<'HELP'
Usage: ./deploy.sh [--dry-run] [--binary FILE] [--wait SECONDS] USER@HOST

Installs or upgrades Monolite on a Linux host with systemd. USER is root, or may use sudo without
a password. The new release is copied beside the old one, checked there, swapped in and restarted;
when it isn't ready in time, the old one is put back.

  --dry-run        say what would be done; the host is only looked at
  --binary FILE    the executable to deploy (default: dist/monolite)
  --wait SECONDS   how long the new release may take to be ready (default: 60)
  --help           this text

Example:
  make binary && ./deploy.sh root@203.0.113.7

Exit codes: 0 the release serves, 1 it was not deployed (the host serves what it did before),
2 wrong usage, 3 neither the new nor the old release is ready: look at the host.
HELP
}

say() { printf 'deploy: %s\n' "$*"; }
fail() {
    printf 'deploy: %s\n' "$1" >&2
    exit "${2:-1}"
}

dry_run=no binary="$here/dist/monolite" wait_s=60 target=""
while [[ $# -gt 0 ]]; do
    case "$1" in
    --help | -h)
        usage
        exit 0
        ;;
    --dry-run) dry_run=yes ;;
    --binary | --wait)
        [[ $# -ge 2 ]] || fail "$1 needs a value: see ./deploy.sh --help" 2
        if [[ "$1" == --binary ]]; then binary="$2"; else wait_s="$2"; fi
        shift
        ;;
    -*) fail "unknown option $1: see ./deploy.sh --help" 2 ;;
    *)
        [[ -z "$target" ]] || fail "one host at a time: $target or $1?" 2
        target="$1"
        ;;
    esac
    shift
done
[[ -n "$target" ]] || fail "no host given: ./deploy.sh USER@HOST (--help has an example)" 2
[[ "$wait_s" =~ ^[1-9][0-9]*$ ]] || fail "--wait takes whole seconds, not '$wait_s'" 2
[[ -f "$binary" ]] || fail "$binary is missing: run make binary first, or name one with --binary"

# A prefix for every path on the host, as DESTDIR is for make install: with it no account is made.
prefix="${MONOLITE_DEPLOY_ROOT:-}"
[[ "$prefix" =~ ^[A-Za-z0-9/._-]*$ ]] || fail "MONOLITE_DEPLOY_ROOT may not hold '$prefix'" 2

remote_program() { cat "$here/packaging/deploy_remote.sh"; }
on_host() { # VERB ARGUMENTS...: runs the host's half; its arguments hold no blanks by construction
    remote_program | ssh -o BatchMode=yes "$target" "bash -s -- $*"
}

hash="$(sha256sum "$binary" | cut -d' ' -f1)"
facts="$(on_host look "$hash" "$prefix/")" ||
    fail "can't look at $target: the lines above say why (does 'ssh $target true' work?)"
fact() { sed -n "s/^$1=//p" <<<"$facts"; }

[[ "$(fact system)" == Linux ]] || fail "$target runs $(fact system); Monolite needs Linux"
[[ "$(fact systemctl)" == yes ]] || fail "$target has no systemctl: Monolite runs under systemd"
[[ "$(fact root)" == yes ]] ||
    fail "on $target you are neither root nor may use sudo without a password: deploy as root"
if [[ "$(fact machine)" != "$(uname -m)" && "$binary" == "$here/dist/monolite" ]]; then
    fail "$target is $(fact machine) and dist/monolite was built on $(uname -m): build it on a like machine and pass --binary"
fi

current="$(fact current)"
if [[ "$dry_run" == yes ]]; then
    say "dry run: $target would be left with"
    say "  ${hash:0:12} ($(wc -c <"$binary") bytes) in /opt/monolite/releases, in place of ${current:-nothing}"
    [[ "$(fact stored)" == yes ]] && say "  (that release is there already: it would not be copied)"
    say "  /etc/systemd/system/monolite.service, restarted, and up to $wait_s s to be ready"
    [[ -n "$current" ]] || say "  the user monolite, /var/lib/monolite, /etc/monolite/monolite.env (0600)"
    say "nothing was changed"
    exit 0
fi

staging="$(on_host stage)" || fail "can't make a directory on $target: is its disk full?"
# Only a directory of our own making may be removed again.
[[ "$staging" =~ ^/[A-Za-z0-9/._-]*monolite-deploy\.[A-Za-z0-9]+$ ]] ||
    fail "$target answered '$staging' for a directory: does its shell print a greeting? Silence it for non-interactive shells."
trap 'on_host unstage "$staging" || true' EXIT

files=("$here/systemd/monolite.service")
if [[ "$(fact stored)" != yes ]]; then
    say "copying ${hash:0:12} to $target"
    cp "$binary" "${staging_local:=$(mktemp -d)}/monolite"
    files+=("$staging_local/monolite")
fi
scp -q -o BatchMode=yes "${files[@]}" "$target:$staging/" ||
    fail "copying to $target failed: is its disk full? Nothing was changed there."
[[ -z "${staging_local:-}" ]] || rm -rf "$staging_local"

code=0
on_host install "$hash" "$prefix/" "$staging" "$wait_s" || code=$?
[[ "$code" -eq 0 ]] || exit "$code"
if [[ -z "$current" ]]; then
    cat <<NEXT

Next, on $target:
  sudo cat /var/lib/monolite/operator.key                     the operator's key
  sudo -u monolite /opt/monolite/monolite secret export --data /var/lib/monolite
                                                              keep it off the host: a restore asks for it
  sudo -u monolite /opt/monolite/monolite tenant create NAME --data /var/lib/monolite
  sudoedit /etc/monolite/monolite.env                         the replica, then: sudo systemctl restart monolite
For TLS put Caddy in front: the Caddyfile in this checkout has the domain to change.
NEXT
fi
