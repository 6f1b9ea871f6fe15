#!/bin/bash
# Looks at a cluster at which nothing is done and appends what it cost, and whether anybody took over, to a file under docs/evidence, with
# date and commit.
#   scripts/rest.sh PGBATON_CHAOS                 two minutes at rest, into rest.jsonl
#   scripts/rest.sh --tps PGBATON_CHAOS           pgbench with and without sidecars and guards at work, twenty times each, into tps.jsonl
#   scripts/rest.sh --calm PGBATON_CHAOS [TIME]   an hour of full processor load with an API server 2 s late and 8 clients, into calm.jsonl
set -Eeuo pipefail
cd "$(dirname "$0")/.."
. scripts/measured.sh

evidence=docs/evidence/rest.jsonl command=rest options=(--for 2m)
if [ "${1:-}" = --tps ]; then
    shift
    evidence=docs/evidence/tps.jsonl command=tps options=(--pairs 20)
elif [ "${1:-}" = --calm ]; then
    shift
    evidence=docs/evidence/calm.jsonl options=(--for "${2:-1h}" --busy --api-latency 2s --clients 8)
fi
chaos=${1:?the first argument is the program pgbaton-chaos}
measured "${program[@]}" chaos
mkdir -p "$(dirname "$evidence")"
if grep -qs "\"commit\":\"$commit\",\"for\":\"${options[1]}\"" "$evidence"; then
    say "$evidence has it of commit $commit already"
    exit 0
fi
report=$(mktemp)
trap 'rm -f "$report"' EXIT
failed=0
"$chaos" "$command" "${options[@]}" >"$report" || failed=1
if [ ! -s "$report" ]; then
    say "error: nothing was reported: see above"
    exit 1
fi
dated "\"for\":\"${options[1]}\"," <"$report" | tee -a "$evidence"
say "recorded in $evidence"
exit "$failed"
