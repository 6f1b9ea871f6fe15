#!/usr/bin/env bash
# A volume for each member, as a machine's own disk: it stays when the pod, its StatefulSet or its claim goes. A file system of its own, so
# that it can be full; where this machine has no loop devices, a directory.
# usage: volumes.sh NAMESPACE MEMBER...
#        volumes.sh --remove NAMESPACE          (when the namespace is gone: all its volumes, with their data)
set -Eeuo pipefail
. "$(dirname "$0")/lib.sh"
if [ "${1:-}" = --remove ]; then
	namespace=${2:?usage: volumes.sh --remove NAMESPACE}
	kubectl get pv -o jsonpath='{range .items[*]}{.spec.claimRef.namespace} {.metadata.name}{"\n"}{end}' |
		awk -v n="$namespace" '$1 == n { print $2 }' | while read -r volume; do kubectl delete pv "$volume" --wait=false >/dev/null; done
	for directory in "$STATE/volumes/$namespace"/*/; do
		if mountpoint -q "$directory"; then umount "$directory" || umount -l "$directory"; fi
	done
	rm -rf "$STATE/volumes/${namespace:?}" "$STATE/volumes/$namespace".*.disk
	exit 0
fi
namespace=${1:?usage: volumes.sh NAMESPACE MEMBER...}
shift
nodes=$(ls -d "$STATE"/n[0-9]* | wc -l)
for member in "$@"; do
	number=${member##*-}
	node=n$(((number - 1) % nodes + 1))
	directory=$STATE/volumes/$namespace/$member
	if [ ! -d "$directory" ]; then
		mkdir -p "$directory"
		disk=$STATE/volumes/$namespace.$member.disk
		# Sparse: it takes what is written. Larger than all that a long run archives.
		truncate -s 16G "$disk"
		# Few inodes, made at once: the kernel would write them for minutes beside what is measured.
		if mkfs.ext4 -q -m 0 -N 65536 -J size=64 -E lazy_itable_init=0,lazy_journal_init=1 "$disk" && mount -o loop "$disk" "$directory" 2>/dev/null; then
			rmdir "$directory/lost+found"
		else
			rm -f "$disk"
			say "no loop device for the volume of $member: it is a directory, and cannot be filled"
		fi
	fi
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
		  local: {path: $directory}
		  nodeAffinity:
		    required:
		      nodeSelectorTerms:
		      - matchExpressions: [{key: kubernetes.io/hostname, operator: In, values: [$node]}]
	E
done
