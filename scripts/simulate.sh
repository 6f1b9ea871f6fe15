#!/bin/bash
# Runs the simulator, a process for each core, until so many things have happened in seeds that were not run before: appends to
# docs/evidence/simulation.jsonl, with date and commit. An interrupted run goes on where it was.
# scripts/simulate.sh [THINGS]     default: 1000000000
set -Eeuo pipefail
cd "$(dirname "$0")/.."
. scripts/measured.sh

wanted=${1:-1000000000}
# Seeds of one process before its result is written down: about half a minute.
chunk=2000
evidence=docs/evidence/simulation.jsonl
measured "${core[@]}" tests/simulation
mkdir -p "$(dirname "$evidence")"
touch "$evidence"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cargo test --release --locked --test simulation --no-run --message-format=json |
    sed -n 's/.*"executable":"\([^"]*simulation-[^"]*\)".*/\1/p' >"$work/program"
program=$(tail -n 1 "$work/program")
[ -x "$program" ] || { say "error: the simulator was not built"; exit 1; }

happened() { sed -n "/\"commit\":\"$commit\"/s/.*\"happened\":\([0-9]*\).*/\1/p" "$evidence" | awk '{ s += $1 } END { printf "%d", s }'; }
# Far from the seeds of the tests, and no seed twice under one commit.
first() { sed -n "/\"commit\":\"$commit\"/s/.*\"from\":\([0-9]*\),\"seeds\":\([0-9]*\).*/\1 \2/p" "$evidence" | awk 'BEGIN { m = 10000000 } { if ($1 + $2 > m) m = $1 + $2 } END { printf "%d", m }'; }
processes=$(nproc)
while [ "$(happened)" -lt "$wanted" ]; do
    from=$(first)
    pids=()
    for ((n = 0; n < processes; n++)); do
        FROM=$((from + n * chunk)) SEEDS=$chunk "$program" --ignored --exact seeds::a_long_run --nocapture >"$work/$n" 2>"$work/$n.err" &
        pids+=($!)
    done
    failed=
    for ((n = 0; n < processes; n++)); do
        if wait "${pids[$n]}"; then
            grep '^{"from"' "$work/$n" | dated >>"$evidence"
        else
            failed=1
            cat "$work/$n" "$work/$n.err" >&2
        fi
    done
    if [ -n "$failed" ]; then
        say "error: a rule broke, or a cluster did not become whole: the smallest schedule and its story stand above; note the seed in tests/simulation/found.txt"
        exit 1
    fi
    say "$(happened) of $wanted things"
done
say "$(happened) things of commit $commit are in $evidence; no rule broke, every cluster became whole"
