#!/bin/bash
# Alerts and real faults.
#   scripts/monitoring.sh record [NAME,...]   records clusters through faults into deploy/monitoring/tests (all, or the named ones)
#   scripts/monitoring.sh evidence            drives real Prometheus through faults, and appends what the alerts did to docs/evidence/monitoring.md
set -Eeuo pipefail
cd "$(dirname "$0")/.."

say() { printf '%s\n' "$*" >&2; }
run() { "${CARGO:-cargo}" test --release --locked -p pgbaton-chaos --test monitoring "$@"; }

# This code under a lower version, for a member that is older than its peers. Crates are shared with the programs under test, which are put
# back in their place afterwards.
older() {
    local copy target=${CARGO_TARGET_DIR:-$PWD/target}
    # Not below this folder: cargo would take the flags of both configurations.
    copy=$(mktemp -d)
    mkdir -p target/older
    git archive HEAD | tar -x -C "$copy"
    sed -i 's/^version = "[0-9.]*"$/version = "0.0.9"/' "$copy/Cargo.toml"
    sed -i '/^name = "pgbaton\(-chaos\)\?"$/{n;s/^version = .*/version = "0.0.9"/}' "$copy/Cargo.lock"
    say "building pgbaton under the version 0.0.9"
    (cd "$copy" && CARGO_TARGET_DIR=$target "${CARGO:-cargo}" build --release --locked --workspace --bin pgbaton)
    rm -rf "$copy"
    cp "$target"/*/release/pgbaton target/older/pgbaton
    "${CARGO:-cargo}" build --release --locked --workspace --bins
}

case ${1:-} in
record)
    [ -z "${2:-}" ] || export PGBATON_RECORD=$2
    if [[ ",${2:-older}," == *,older,* ]]; then
        if [ -z "${PGBATON_OLDER:-}" ]; then
            older
            export PGBATON_OLDER=$PWD/target/older/pgbaton
        fi
    fi
    "${CARGO:-cargo}" build --release --locked --workspace --bins
    run record::record -- --ignored --exact --nocapture
    ;;
evidence)
    evidence=docs/evidence/monitoring.md
    commit=$(git rev-parse --short=12 HEAD)
    if [ -n "$(git status --porcelain -- . ':!docs/evidence')" ]; then
        say "error: there are changes that no commit has: commit them first (git status shows them)"
        exit 1
    fi
    table=$(mktemp)
    trap 'rm -f "$table"' EXIT
    PGBATON_MONITORING_TABLE=$table run live:: -- --nocapture
    [ -s "$evidence" ] || printf '# Alerts through faults\n\nWhat `make monitoring-evidence` saw of real Prometheus. Newest last.\n' >"$evidence"
    printf '\n## %s, commit %s\n\n' "$(date -u +%F)" "$commit" | cat - "$table" >>"$evidence"
    say "recorded in $evidence"
    ;;
*)
    say "usage: scripts/monitoring.sh record [NAME,...] | evidence"
    exit 2
    ;;
esac
