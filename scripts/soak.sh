#!/bin/bash
# Random faults, one run after the other: appends the report of each to a file under docs/evidence, with date and commit. An interrupted soak
# goes on where it was.
#   scripts/soak.sh PGBATON_CHAOS [RUNS]             one machine, a new cluster every ten, into soak.jsonl; default: 200
#   scripts/soak.sh --cluster PGBATON_CHAOS [RUNS]   the machine's own Kubernetes (make cluster), into soak-cluster.jsonl; default: 50
set -Eeuo pipefail
cd "$(dirname "$0")/.."
. scripts/measured.sh

cluster=
if [ "${1:-}" = --cluster ]; then
    cluster=1
    shift
fi
chaos=${1:?the first argument is the program pgbaton-chaos}
evidence=docs/evidence/soak.jsonl default=200
[ -z "$cluster" ] || evidence=docs/evidence/soak-cluster.jsonl default=50
runs=${2:-$default}
some_runs() {
    if [ -n "$cluster" ]; then
        chaos/cluster/chaos.sh "$chaos" --json --scenario random --repeat "$1"
    else
        "$chaos" demo --json --durability sync --fault random --repeat "$1"
    fi
}
# On a real Kubernetes the manifests are part of it.
measured "${program[@]}" chaos ${cluster:+deploy}
mkdir -p "$(dirname "$evidence")"
touch "$evidence"
recorded() { grep -c "\"commit\":\"$commit\"" "$evidence" || true; }
failed=0
# Each turn records at least one run, or ends here.
while [ "$(recorded)" -lt "$runs" ]; do
    before=$(recorded)
    now=$((runs - before))
    now=$((now < 10 ? now : 10))
    say "runs $((before + 1)) to $((before + now)) of $runs"
    some_runs "$now" |
        dated >>"$evidence" || failed=1
    if [ "$(recorded)" = "$before" ]; then
        say "error: nothing was reported: see above"
        exit 1
    fi
done
bad=$(grep "\"commit\":\"$commit\"" "$evidence" | grep -vc '"lost":0,"two_writable":false.*"not_whole":\[\]' || true)
say "$(recorded) runs of commit $commit are in $evidence; not well: $bad"
exit "$failed"
