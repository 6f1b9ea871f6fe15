#!/usr/bin/env bash
# A volume for each member, as a machine's own disk: a directory that stays when the pod, its StatefulSet or its claim goes.
# usage: volumes.sh NAMESPACE MEMBER...
set -Eeuo pipefail
. "$(dirname "$0")/lib.sh"
namespace=${1:?usage: volumes.sh NAMESPACE MEMBER...}
shift
nodes=$(ls -d "$STATE"/n[0-9]* | wc -l)
for member in "$@"; do
	number=${member##*-}
	node=n$(((number - 1) % nodes + 1))
	mkdir -p "$STATE/volumes/$namespace/$member"
	kubectl apply -f - <<-E >/dev/null
		apiVersion: v1
		kind: PersistentVolume
		metadata: {name: $namespace-$member}
		spec:
		  capacity: {storage: 10Gi}
		  accessModes: [ReadWriteOnce]
		  persistentVolumeReclaimPolicy: Retain
		  storageClassName: standard
		  claimRef: {namespace: $namespace, name: data-$member-0}
		  local: {path: $STATE/volumes/$namespace/$member}
		  nodeAffinity:
		    required:
		      nodeSelectorTerms:
		      - matchExpressions: [{key: kubernetes.io/hostname, operator: In, values: [$node]}]
	E
done
