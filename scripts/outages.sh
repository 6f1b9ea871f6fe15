#!/bin/bash
# Measures the outages of many runs and appends them to a file under docs/evidence, under the date and the commit. What that file already
# has of this commit is not measured again, so an interrupted run goes on where it was.
#   scripts/outages.sh PGBATON_CHAOS [FAULT:RUNS[:DURABILITY[:MEMBERS]]]...           into outages.md; default: every fault (an hour or two)
#   scripts/outages.sh --bench PGBATON_CHAOS [FAULT:RUNS[:DURABILITY[:MEMBERS]]]...   into bench.md, beside the goals; default: those with goals
set -Eeuo pipefail
cd "$(dirname "$0")/.."

say() { printf '%s\n' "$*" >&2; }

bench=
if [ "${1:-}" = --bench ]; then
    bench=1
    shift
fi
chaos=${1:?the first argument is the program pgbaton-chaos}
shift
trials=("$@")
if [ -n "$bench" ]; then
    evidence=docs/evidence/bench.md
    title='# Outages beside the goals'
    about='Made by `make bench`, one machine, 8 clients, three members where no other number is said. A cluster is hit seven times at most, then the
next one is made: after three handovers within ten minutes for a dead server a member restarts in place, which is meant for crash loops.'
    table=(table --goals machine)
    batch=7
    if [ "${#trials[@]}" -eq 0 ]; then
        trials=(postmaster-kill:20 pod-kill:20 pod-freeze:20 server-hang:20 pod-delete:20 switchover:20 api-down:20 sidecar-kill:20)
        for members in 2 5; do
            trials+=("postmaster-kill:10:sync:$members" "pod-kill:10:sync:$members" "pod-freeze:10:sync:$members")
        done
    fi
else
    evidence=docs/evidence/outages.md
    title='# Outages'
    about='Made by `make outages`: the longest time without an acknowledged write over all clients, three members on one machine, 8 clients.
"Well": nothing lost in sync durability, never two writers, whole again.'
    table=(table)
    batch=1000
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
        printf '%s\n\n%s\n' "$title" "$about" >"$evidence"
    fi
    # Rows go to the end of the file, so the last heading must be this commit's.
    if ! grep '^## ' "$evidence" | tail -n 1 | grep -q "commit $commit "; then
        printf '\n## %s, commit %s (%s cores)\n\n' "$(date -u +%Y-%m-%d)" "$commit" "$(nproc)" >>"$evidence"
        "$chaos" "${table[@]}" --head </dev/null >>"$evidence"
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
    IFS=: read -r fault runs durability members <<<"$trial"
    durability=${durability:-sync}
    name=$fault
    [ -z "${members:-}" ] || name="$fault ($members members)"
    if recorded | grep -qF "| $name | $durability | $runs |"; then
        say "$name in $durability: $runs runs of commit $commit are recorded already"
        continue
    fi
    say "$name in $durability, $runs times"
    : >"$reports"
    left=$runs
    while [ "$left" -gt 0 ]; do
        now=$((left < batch ? left : batch))
        if ! "$chaos" demo --json --durability "$durability" --members "${members:-3}" --fault "$fault" --repeat "$now" >>"$reports"; then
            say "$name in $durability: not well, see above"
            failed=1
        fi
        left=$((left - now))
    done
    if [ ! -s "$reports" ]; then
        say "error: the demo reported nothing: see above"
        exit 1
    fi
    heading
    "$chaos" "${table[@]}" <"$reports" | sed "s/^| $fault |/| $name |/" >>"$evidence"
done
say "recorded in $evidence"
exit "$failed"
