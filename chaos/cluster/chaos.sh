#!/usr/bin/env bash
# Runs scenarios on the machine's own cluster, from its client host; with KUBECONFIG set, what is possible on the cluster that it names.
# usage: chaos.sh PGBATON_CHAOS [ARGUMENT...]     (arguments of 'pgbaton-chaos cluster run')
set -Eeuo pipefail
. "$(dirname "$0")/lib.sh"
chaos=$(realpath "${1:?usage: chaos.sh PGBATON_CHAOS [ARGUMENT...]}")
shift
if [ -n "${KUBECONFIG:-}" ]; then
	exec "$chaos" cluster run "$@"
fi
need_root
is_up || die "no cluster is up: make cluster"
KUBECONFIG=$STATE/admin.kubeconfig PGBATON_KUBECTL="$BIN/kube kubectl" \
	exec nsenter --net=/run/netns/pgb-client "$chaos" cluster run --state "$STATE" --scripts "$here" "$@"
