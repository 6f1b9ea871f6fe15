#!/bin/bash
# Random faults on one machine, one after the other, on a new cluster every ten: appends the report of each to docs/evidence/soak.jsonl, with
# date and commit. An interrupted soak goes on where it was.   scripts/soak.sh PGBATON_CHAOS [RUNS]     default: 200
set -Eeuo pipefail
cd "$(dirname "$0")/.."

say() { printf '%s\n' "$*" >&2; }

chaos=${1:?the first argument is the program pgbaton-chaos}
runs=${2:-200}
evidence=docs/evidence/soak.jsonl
commit=$(git rev-parse --short=12 HEAD)
if [ -n "$(git status --porcelain -- . ':!docs/evidence')" ]; then
    say "error: there are changes that no commit has: commit them first (git status shows them)"
    exit 1
fi
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
    "$chaos" demo --json --durability sync --fault random --repeat "$now" |
        sed "s/^{/{\"date\":\"$(date -u +%FT%TZ)\",\"commit\":\"$commit\",/" >>"$evidence" || failed=1
    if [ "$(recorded)" = "$before" ]; then
        say "error: nothing was reported: see above"
        exit 1
    fi
done
bad=$(grep "\"commit\":\"$commit\"" "$evidence" | grep -vc '"lost":0,"two_writable":false.*"not_whole":\[\]' || true)
say "$(recorded) runs of commit $commit are in $evidence; not well: $bad"
exit "$failed"
