#!/usr/bin/env bash
# The machine's own Kubernetes with pgbaton in it: installs, builds and starts what is missing, then loads the binary and applies deploy/.
# usage: cluster.sh PGBATON_BINARY [NODES]
set -Eeuo pipefail
. "$(dirname "$0")/lib.sh"
binary=$(realpath "${1:?usage: cluster.sh PGBATON_BINARY [NODES]}")
need_root
"$here/setup.sh"
"$here/build.sh"
"$here/image.sh"
if ! is_up; then
	"$here/down.sh"
	"$here/up.sh" "${2:-3}"
fi
"$here/load.sh" "$binary"
"$here/deploy.sh"
say "pgbaton runs in namespace psql-namespace. Try:"
say "  export KUBECONFIG=$STATE/admin.kubeconfig; alias on='nsenter --net=/run/netns/pgb-client'"
say "  on $BIN/kube kubectl -n psql-namespace get pods,lease,svc"
say "  on $binary status -n psql-namespace"
