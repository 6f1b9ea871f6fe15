#!/usr/bin/env bash
# Runs every scenario on the machine's own cluster and appends a row for each to docs/evidence/chaos.md, with date and commit. What has a
# row of this commit is not run again: remove the row to repeat it. With scenarios as arguments (NAME:RUNS): these only.
# usage: all.sh RELEASE_DIRECTORY [SCENARIO:RUNS...]
set -Eeuo pipefail
. "$(dirname "$0")/lib.sh"
release=$(realpath "${1:?usage: all.sh RELEASE_DIRECTORY [SCENARIO:RUNS...]}")
shift
cd "$here/../.."
[ -z "$(git status --porcelain)" ] || die "there are uncommitted changes: a result must belong to a commit"
commit=$(git rev-parse --short HEAD)
file=docs/evidence/chaos.md
if [ $# = 0 ]; then
	set -- $("$release/pgbaton-chaos" cluster list | awk '{ print $1 ":1" }')
fi
is_up || "$here/cluster.sh" "$release/pgbaton"
mkdir -p "$(dirname "$file")"
[ -f "$file" ] || {
	echo "# Scenarios on a real Kubernetes"
	echo
	echo "Written by chaos/cluster/all.sh (make chaos-all): one row for each scenario and commit; three nodes on one machine. Times of clients"
	echo "through the Service, eight writers."
	echo
	"$release/pgbaton-chaos" table --head </dev/null |
		awk 'NR == 1 { print "| date | commit " $0 } NR == 2 { print "| --- | --- " $0 }'
} >"$file"
failed=0
for one in "$@"; do
	name=${one%%:*} runs=${one##*:}
	grep -q "^| [^|]* | $commit | $name " "$file" && continue
	lines=$(mktemp)
	"$here/chaos.sh" "$release/pgbaton-chaos" --json --repeat "$runs" --scenario "$name" >"$lines" || failed=1
	"$release/pgbaton-chaos" table <"$lines" | sed "s/^|/| $(date -u +%F) | $commit |/" >>"$file"
	rm -f "$lines"
done
say "recorded in $file"
exit "$failed"
