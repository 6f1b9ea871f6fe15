#!/usr/bin/env bash
# Gives the machine's own nodes the two images with tag suffix -ahead: PostgreSQL's and pgbaton's, in which every process sees a wall
# clock five minutes ahead (image/ahead.c). The dynamic linker loads that, so pgbaton is built once more, dynamically: some minutes the
# first time.
set -Eeuo pipefail
. "$(dirname "$0")/lib.sh"
need_root
is_up || die "no cluster is up: make cluster"
MAJOR=${MAJOR:-15} tag=${PGBATON_TAG:-0.1.0}
cd "$here/../.."
# In place of what .cargo/config.toml sets.
RUSTFLAGS="-C target-feature=-crt-static" \
	cargo build --release --locked -p pgbaton --bin pgbaton --target-dir target/dynamic
binary=$(echo target/dynamic/*/release/pgbaton)
# A static one would start, and see the true time.
ldd "$binary" >/dev/null 2>&1 || die "$binary is not linked dynamically"
export STORAGE_DRIVER=vfs BUILDAH_ISOLATION=chroot
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
gcc -shared -fPIC -O2 -Wall -o "$work/ahead.so" "$here/image/ahead.c" -ldl
strip --strip-debug -o "$work/pgbaton" "$binary"

# ahead NAME USER ENTRYPOINT: PostgreSQL's image with that clock, under another name.
ahead() {
	local name=$1 user=$2 entrypoint=$3 container
	container=$(buildah from -q "oci-archive:$IMAGES/postgres-$MAJOR.tar")
	buildah copy -q --chmod 755 "$container" "$work/ahead.so" /ahead.so >/dev/null
	buildah copy -q --chmod 755 "$container" "$work/pgbaton" /pgbaton >/dev/null
	buildah config --user "$user" --entrypoint "[\"$entrypoint\"]" --cmd "" --env LD_PRELOAD=/ahead.so --env AHEAD_SECONDS=300 "$container"
	buildah commit -q --rm "$container" "localhost/ahead" >/dev/null
	buildah push -q localhost/ahead "oci-archive:$work/ahead.tar:docker.io/library/$name-ahead"
	buildah rmi -f localhost/ahead >/dev/null
	for socket in "$STATE"/n*/containerd.sock; do
		ctr -a "$socket" -n k8s.io images import "$work/ahead.tar" >/dev/null
	done
	rm "$work/ahead.tar"
}
say "images with another clock ..."
ahead "postgres:15.0" "" docker-entrypoint.sh
ahead "pgbaton:$tag" 65532:65532 /pgbaton
