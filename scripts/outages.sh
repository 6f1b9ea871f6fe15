#!/bin/bash
# Measures the outages of many runs and appends them to a file under docs/evidence, under the date and the commit. What that file already
# has of this commit is not measured again, so an interrupted run goes on where it was.
#   scripts/outages.sh PGBATON_CHAOS [TRIAL]...           into outages.md; default: every fault (an hour or two)
#   scripts/outages.sh --bench PGBATON_CHAOS [TRIAL]...   into bench.md, beside the goals; default: those with goals, and what stands beside them
# TRIAL: FAULT[,FAULT...]:RUNS[:DURABILITY[:MEMBERS[:DATA]]]. Several faults take turns on one cluster, each of them so many times. DATA: small, dirty
# (pgbaton-chaos demo --data dirty), backlog (--backlog).
set -Eeuo pipefail
cd "$(dirname "$0")/.."
. scripts/measured.sh

bench=
if [ "${1:-}" = --bench ]; then
    bench=1
    shift
fi
chaos=${1:?the first argument is the program pgbaton-chaos}
shift
trials=("$@")
# A member that is hit for the fourth time within ten minutes, its server dead each time, restarts in place: that is meant for crash loops, and not
# what is measured here. Two members take turns, so the seventh kill on one cluster may be somebody's fourth.
batch=6
if [ -n "$bench" ]; then
    evidence=docs/evidence/bench.md
    title='Outages beside the goals'
    about='Made by `make bench`, one machine, 8 clients, three members and a small database where nothing else is said. A cluster is hit six times at most by
a fault, then the next one is made: after three handovers within ten minutes for a dead server a member restarts in place, which is meant for
crash loops. Dirty database: pgbench at scale 100, shared_buffers 1 GB, with pgbench writing all the time beside the clients that measure. Replay backlog:
a long query held replay back on every standby until it had so much WAL to replay, and ended as the fault came.'
    table=(table --goals machine)
    if [ "${#trials[@]}" -eq 0 ]; then
        trials=(nothing:10 postmaster-kill:20 pod-kill:20 pod-freeze:20 server-hang:20 pod-delete:20 switchover:20 api-down:20 sidecar-kill:20)
        for members in 2 5; do
            trials+=("postmaster-kill:10:sync:$members" "pod-kill:10:sync:$members" "pod-freeze:10:sync:$members")
        done
        for away in standby-away standby-leaves; do
            trials+=("$away-postmaster-kill,$away-pod-kill:5")
        done
        for data in dirty backlog; do
            trials+=("postmaster-kill,pod-kill,switchover:5:sync:3:$data")
        done
    fi
else
    evidence=docs/evidence/outages.md
    title='Outages'
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
measured "${program[@]}" chaos

# row_of FAULT: how its row begins, as 'pgbaton-chaos table' names it.
row_of() {
    local setting=()
    [ "$members" = 3 ] || setting+=("$members members")
    case $data in
        dirty) setting+=("dirty database") ;;
        backlog) setting+=("replay backlog") ;;
    esac
    local IFS=,
    local shown=${setting[*]}
    printf '| %s%s | %s | %s |' "$1" "${shown:+ (${shown//,/, })}" "$durability" "$runs"
}

# missing FAULT...: whether a row of one of them is not there.
missing() {
    local fault
    for fault in "$@"; do
        recorded "$evidence" | grep -qF "$(row_of "$fault")" || return 0
    done
    return 1
}

failed=0
reports=$(mktemp)
trap 'rm -f "$reports"' EXIT
for trial in "${trials[@]}"; do
    IFS=: read -r names runs durability members data <<<"$trial"
    durability=${durability:-sync} members=${members:-3} data=${data:-small}
    IFS=, read -ra faults <<<"$names"
    if ! missing "${faults[@]}"; then
        say "$trial: recorded already of commit $commit"
        continue
    fi
    say "$trial"
    case $data in
        small | dirty) options=(--data "$data") ;;
        backlog) options=(--backlog) ;;
        *) say "error: '$data' in $trial is not small, dirty or backlog"; exit 1 ;;
    esac
    for fault in "${faults[@]}"; do
        options+=(--fault "$fault")
    done
    : >"$reports"
    left=$runs
    while [ "$left" -gt 0 ]; do
        now=$((left < batch ? left : batch))
        if ! "$chaos" demo --json --durability "$durability" --members "$members" "${options[@]}" --repeat "$now" >>"$reports"; then
            say "$trial: not well, see above"
            failed=1
        fi
        left=$((left - now))
    done
    if [ ! -s "$reports" ]; then
        say "error: the demo reported nothing: see above"
        exit 1
    fi
    heading "$evidence" "$title" "$about" "$("$chaos" "${table[@]}" --head </dev/null)"
    "$chaos" "${table[@]}" <"$reports" >>"$evidence"
    if [ "$failed" = 0 ] && missing "${faults[@]}"; then
        say "error: the rows that $evidence has now do not begin with '$(row_of "${faults[0]}")': this script would not know them again"
        exit 1
    fi
done
say "recorded in $evidence"
exit "$failed"
