#!/usr/bin/env bash
# Builds pgbaton's image of the static binary by deploy/Dockerfile, as an OCI archive.
# usage: image-pgbaton.sh PGBATON_BINARY ARCHIVE [TAG]
set -Eeuo pipefail
. "$(dirname "$0")/lib.sh"
binary=${1:?usage: image-pgbaton.sh PGBATON_BINARY ARCHIVE [TAG]}
archive=$(realpath -m "${2:?usage: image-pgbaton.sh PGBATON_BINARY ARCHIVE [TAG]}")
tag=${3:-0.1.0}
command -v buildah >/dev/null || die "buildah is missing (Debian: apt-get install buildah). With Docker or Podman: deploy/README.md"
export STORAGE_DRIVER=vfs BUILDAH_ISOLATION=chroot
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
# Debug information is for whoever builds it: nodes and people need a quarter of the size.
strip --strip-debug -o "$work/pgbaton" "$binary"
revision=$(git -C "$here" rev-parse --short HEAD 2>/dev/null || echo unknown)
buildah bud -q --build-arg "VERSION=$tag" --build-arg "REVISION=$revision" -f "$here/../../deploy/Dockerfile" \
	-t "localhost/pgbaton:$tag" "$work" >/dev/null
rm -f "$archive"
buildah push -q "localhost/pgbaton:$tag" "oci-archive:$archive:docker.io/library/pgbaton:$tag"
buildah rmi -f "localhost/pgbaton:$tag" >/dev/null
