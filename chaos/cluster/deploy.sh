#!/usr/bin/env bash
# Applies the overlay "tutorial" as README.md tells it, and waits until all members are ready.
# usage: deploy.sh [NAMESPACE]
set -Eeuo pipefail
. "$(dirname "$0")/lib.sh"
namespace=${1:-psql-namespace}
kubectl get namespace "$namespace" >/dev/null 2>&1 || kubectl create namespace "$namespace" >/dev/null
kubectl -n "$namespace" get secret postgresql >/dev/null 2>&1 ||
	kubectl -n "$namespace" create secret generic postgresql \
		--from-literal=POSTGRES_USER=postgresadmin --from-literal=POSTGRES_PASSWORD="$(openssl rand -hex 12)" \
		--from-literal=POSTGRES_DB=postgresdb --from-literal=REPLICATION_USER=replicationuser \
		--from-literal=REPLICATION_PASSWORD="$(openssl rand -hex 12)" >/dev/null
"$here/volumes.sh" "$namespace" postgres-1 postgres-2 postgres-3
kubectl apply -k "$here/../../deploy/overlays/tutorial" >/dev/null
for member in 1 2 3; do
	within 180 kubectl -n "$namespace" wait --for=condition=Ready --timeout=1s "pod/postgres-$member-0"
done
