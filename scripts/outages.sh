#!/bin/bash
# Measures the outages of many runs and appends them to docs/evidence/outages.md, under the date and the commit. What that file already
# has of this commit is not measured again, so an interrupted run goes on where it was.
#   scripts/outages.sh PGBATON_CHAOS [FAULT:RUNS[:DURABILITY]]...    default: the list below (an hour or two)
set -Eeuo pipefail
cd "$(dirname "$0")/.."

say() { printf '%s\n' "$*" >&2; }

chaos=${1:?the first argument is the program pgbaton-chaos}
shift
evidence=docs/evidence/outages.md
trials=("$@")
if [ "${#trials[@]}" -eq 0 ]; then
    trials=(postmaster-kill:20 pod-kill:20 pod-delete:20 data-lost:20 switchover:10 sidecar-kill:10 standby-freeze:10)
    trials+=(postmaster-kill:10:async pod-delete:10:async switchover:10:async)
    for fault in $("$chaos" faults | cut -d' ' -f1); do
        case " ${trials[*]}" in
            *" $fault:"*) ;;
            *) trials+=("$fault:3") ;;
        esac
    done
fi

commit=$(git rev-parse --short=12 HEAD)
# A table under a commit that does not have what was measured would be worth nothing.
if [ -n "$(git status --porcelain -- . ':!docs/evidence')" ]; then
    say "error: there are changes that no commit has: commit them first (git status shows them)"
    exit 1
fi

heading() {
    if [ ! -f "$evidence" ]; then
        mkdir -p "$(dirname "$evidence")"
        printf '%s\n\n%s\n%s\n' '# Outages' \
            'Made by `make outages`: the longest time without an acknowledged write over all clients, three members on one machine, 8 clients.' \
            '"Well": nothing lost in sync durability, never two writers, whole again.' >"$evidence"
    fi
    # Rows go to the end of the file, so the last heading must be this commit's.
    if ! grep '^## ' "$evidence" | tail -n 1 | grep -q "commit $commit "; then
        printf '\n## %s, commit %s (%s cores)\n\n' "$(date -u +%Y-%m-%d)" "$commit" "$(nproc)" >>"$evidence"
        "$chaos" table --head </dev/null >>"$evidence"
    fi
}

# All lines of this commit.
recorded() {
    if [ -f "$evidence" ]; then
        awk -v commit="commit $commit " '/^## /{inside=index($0, commit)>0} inside' "$evidence"
    fi
}

failed=0
reports=$(mktemp)
trap 'rm -f "$reports"' EXIT
for trial in "${trials[@]}"; do
    IFS=: read -r fault runs durability <<<"$trial"
    durability=${durability:-sync}
    if recorded | grep -q "^| $fault | $durability | $runs |"; then
        say "$fault in $durability: $runs runs of commit $commit are recorded already"
        continue
    fi
    say "$fault in $durability, $runs times"
    if ! "$chaos" demo --json --durability "$durability" --fault "$fault" --repeat "$runs" >"$reports"; then
        say "$fault in $durability: not well, see above"
        failed=1
    fi
    if [ ! -s "$reports" ]; then
        say "error: the demo reported nothing: see above"
        exit 1
    fi
    heading
    "$chaos" table <"$reports" >>"$evidence"
done
say "recorded in $evidence"
exit "$failed"
