#!/usr/bin/env bash
# Runs the tests that smoke.sh leaves out (test-overlays, test-bad_input, test-rollout) and every scenario on the machine's own cluster, and appends a row
# for each to docs/evidence/chaos.md, with date and commit: scenarios whose outages are compared ten times, the others once. What has a row
# of this commit is not run again: remove the row to repeat it. With arguments (NAME:RUNS): these only. With --bench: the scenarios that the design
# has a goal for, and the control `nothing`, ten times each, beside the goals and with the phases, into docs/evidence/bench-cluster.md.
# usage: all.sh [--bench] RELEASE_DIRECTORY [SCENARIO:RUNS...]
set -Eeuo pipefail
. "$(dirname "$0")/lib.sh"
bench=
if [ "${1:-}" = --bench ]; then
	bench=1
	shift
fi
release=$(realpath "${1:?usage: all.sh RELEASE_DIRECTORY [SCENARIO:RUNS...]}")
shift
cd "$here/../.."
. scripts/measured.sh
measured "${program[@]}" chaos deploy
file=docs/evidence/chaos.md title="# Scenarios on a real Kubernetes" by="make chaos-all" table=(table)
if [ -n "$bench" ]; then
	file=docs/evidence/bench-cluster.md title="# Outages beside the goals, on a real Kubernetes" by="make bench-cluster" table=(table --goals cluster)
	[ $# != 0 ] || set -- nothing:10 switchover:10 pod-delete:10 drain:10 postmaster-kill:10 pod-kill:10 pod-freeze:10 node-cut:10 sidecar-kill:10 api-stop:10
fi
ten="nothing switchover pod-delete sts-delete container-kill sidecar-kill node-cut"
full=
if [ $# = 0 ]; then
	full=1
	set -- test-overlays:1 test-bad_input:1 test-rollout:1 \
		$("$release/pgbaton-chaos" cluster list | awk -v ten=" $ten " '{ print $1 ":" (index(ten, " " $1 " ") ? 10 : 1) }')
fi
is_up || "$here/cluster.sh" "$release/pgbaton"
mkdir -p "$(dirname "$file")"
[ -f "$file" ] || {
	echo "$title"
	echo
	echo "Written by chaos/cluster/all.sh ($by): one row for each scenario and commit; three nodes on one machine. Times of clients"
	echo "through the Service, eight writers."
	echo
	"$release/pgbaton-chaos" "${table[@]}" --head </dev/null |
		awk 'NR == 1 { print "| date | commit " $0 } NR == 2 { print "| --- | --- " $0 }'
} >"$file"
# row_of_tests NAME LOG: how many there are and passed; the other columns are of scenarios.
row_of_tests() {
	awk -v name="$1" -v head="| $(date -u +%F) | $commit |" '
		/^test result: / { passed += $4; all += $4 + $6 }
		END { printf "%s %s | sync | %d | %d | | | | | | | |\n", head, name, all, passed }' "$2"
}
failed=0
for one in "$@"; do
	name=${one%%:*} runs=${one##*:}
	grep -q "^| [^|]* | $commit | $name " "$file" && continue
	lines=$(mktemp)
	case $name in
	test-*)
		"$here/tests.sh" "${name#test-}::" 2>&1 | tee "$lines" >&2 || failed=1
		row_of_tests "$name" "$lines" >>"$file"
		rm -f "$lines"
		continue
		;;
	esac
	"$here/chaos.sh" "$release/pgbaton-chaos" --json --repeat "$runs" --scenario "$name" >"$lines" || failed=1
	"$release/pgbaton-chaos" "${table[@]}" <"$lines" | sed "s/^|/| $(date -u +%F) | $commit |/" >>"$file"
	rm -f "$lines"
done
say "recorded in $file"
# A full run is the table of the page: from its heading to the end.
page=docs/chaos.md
if [ -n "$full" ]; then
	{
		sed '/^## The last full run$/,$d' "$page"
		echo "## The last full run"
		echo
		echo "$(date -u +%F), commit $commit, by \`make chaos-all\`."
		echo
		grep -m1 '^| date ' "$file"
		grep -m1 '^| --- ' "$file"
		grep "^| [^|]* | $commit | " "$file"
	} >"$page.new"
	mv "$page.new" "$page"
	say "and in $page"
fi
exit "$failed"
