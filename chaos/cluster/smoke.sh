#!/usr/bin/env bash
# What must hold of deploy/ on a real Kubernetes for a commit: its manifests, the API server's contract, the tutorial, adoption and the way
# back, and scenarios.
# A cluster that is up is used and left; else one is brought up and taken down again.
# usage: smoke.sh RELEASE_DIRECTORY
set -Eeuo pipefail
. "$(dirname "$0")/lib.sh"
release=$(realpath "${1:?usage: smoke.sh RELEASE_DIRECTORY}")
need_root
made=
is_up || made=1
finish() {
	local rc=$?
	if [ -n "$made" ]; then
		[ "$rc" = 0 ] || cp -r "$STATE/log" "$artefacts/cluster-log" 2>/dev/null
		"$here/down.sh"
	fi
	[ "$rc" = 0 ] || say "cluster-smoke failed; what is known of it: $artefacts"
	exit "$rc"
}
artefacts=$(mktemp -d "${TMPDIR:-/tmp}/pgbaton-smoke.XXXXXX")
trap finish EXIT
"$here/cluster.sh" "$release/pgbaton"
export PGBATON_KUBECTL="$BIN/kube kubectl"
cd "$here/../.."
cargo test --release --locked -p pgbaton-chaos --test deploy
# The contract of the embedded API server, kept by the real one.
PGBATON_CONTRACT_KUBECONFIG=$STATE/admin.kubeconfig nsenter --net=/run/netns/pgb-client \
	cargo test --release --locked -p pgbaton-chaos --test api_contract
# Overlays, bad input and rollouts take some minutes more: all.sh has them.
"$here/tests.sh" --skip overlays --skip bad_input --skip rollout
scenarios=(sts-delete sts-delete-empty pod-delete container-kill node-cut api-cut drain switchover)
"$here/chaos.sh" "$release/pgbaton-chaos" --artefacts "$artefacts" $(printf -- '--scenario %s ' "${scenarios[@]}")
rm -rf "$artefacts"
