#!/usr/bin/env bash
# Builds the images that the cluster's nodes need, as OCI archives in the cache: PostgreSQL laid out as the official image (Debian's
# packages, the entrypoint that the local rig uses too), and the pause container. No registry is asked.
# Cold some three minutes (debootstrap), nothing changed: at once.
set -Eeuo pipefail
. "$(dirname "$0")/lib.sh"
need_root
SUITE=${SUITE:-bookworm} MAJOR=${MAJOR:-15}
entrypoint=$here/../src/local/entrypoint.sh
sources=("$here/image.sh" "$here/image/Dockerfile" "$here/image/pause.c" "$entrypoint")
mkdir -p "$IMAGES"
if built "images-$MAJOR" "${sources[@]}" && [ -f "$IMAGES/postgres-$MAJOR.tar" ] && [ -f "$IMAGES/pause.tar" ]; then
	exit 0
fi
export STORAGE_DRIVER=vfs BUILDAH_ISOLATION=chroot

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
rootfs=$CACHE/rootfs-$SUITE-$MAJOR
if [ ! -f "$rootfs.complete" ]; then
	say "debootstrap of $SUITE with PostgreSQL $MAJOR ..."
	rm -rf "$rootfs"
	mirror=$(apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' | grep -m1 '/debian/$') ||
		die "apt-get names no Debian mirror: run apt-get update first"
	debootstrap --variant=minbase --include="postgresql-$MAJOR,locales" "$SUITE" "$rootfs" "$mirror" >"$CACHE/debootstrap.log" 2>&1 ||
		die "debootstrap failed: see $CACHE/debootstrap.log"
	touch "$rootfs.complete"
fi
say "images ..."
tar -C "$rootfs" --exclude=./var/cache/apt --exclude=./var/lib/apt/lists -cf "$work/base.tar" .
cp "$entrypoint" "$work/docker-entrypoint.sh"
chmod 755 "$work/docker-entrypoint.sh"
buildah bud -q --build-arg "MAJOR=$MAJOR" -f "$here/image/Dockerfile" -t "localhost/postgres:$MAJOR" "$work" >/dev/null
gcc -static -Os -o "$work/pause" "$here/image/pause.c"
pause=$(buildah from scratch)
buildah add "$pause" "$work/pause" /pause >/dev/null
buildah config --entrypoint '["/pause"]' "$pause"
buildah commit -q --rm "$pause" localhost/pause:1 >/dev/null
rm -f "$IMAGES/postgres-$MAJOR.tar" "$IMAGES/pause.tar"
# The name that the tutorial's manifests use: what they name must be what runs.
buildah push -q "localhost/postgres:$MAJOR" "oci-archive:$IMAGES/postgres-$MAJOR.tar:docker.io/library/postgres:15.0"
buildah push -q localhost/pause:1 "oci-archive:$IMAGES/pause.tar:localhost/pause:1"
buildah rmi -f "localhost/postgres:$MAJOR" localhost/pause:1 >/dev/null
note_built "images-$MAJOR" "${sources[@]}"
