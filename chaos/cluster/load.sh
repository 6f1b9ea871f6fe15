#!/usr/bin/env bash
# Gives every node the images: PostgreSQL and pause from the cache, and pgbaton's made of the static binary by deploy/Dockerfile.
# usage: load.sh PGBATON_BINARY [TAG]
set -Eeuo pipefail
. "$(dirname "$0")/lib.sh"
need_root
binary=${1:?usage: load.sh PGBATON_BINARY [TAG]}
tag=${2:-0.1.0}
archive=$STATE/pgbaton-$tag.tar
"$here/image-pgbaton.sh" "$binary" "$archive" "$tag"

# import SOCKET FILE...: only what the node does not have; pgbaton's always, its tag may stand for another binary now.
import() {
	local socket=$1 file
	for file in "$archive" "$IMAGES"/pause.tar "$IMAGES"/postgres-*.tar; do
		[ "$file" != "$archive" ] && [ -e "$(dirname "$socket")/has-$(basename "$file")" ] && continue
		ctr -a "$socket" -n k8s.io images import "$file" >/dev/null
		touch "$(dirname "$socket")/has-$(basename "$file")"
	done
}
pids=()
for socket in "$STATE"/n*/containerd.sock; do
	import "$socket" &
	pids+=($!)
done
for pid in "${pids[@]}"; do wait "$pid"; done
