#!/usr/bin/env bash
# Installs what the cluster's programs need from Debian: etcd, containerd, tools. None of them is left running.
set -Eeuo pipefail
. "$(dirname "$0")/lib.sh"
need_root
packages=()
want() { command -v "$1" >/dev/null 2>&1 || packages+=("$2"); }
want etcd etcd-server
want etcdctl etcd-client
want containerd containerd
want runc runc
want iptables iptables
want conntrack conntrack
want ip iproute2
want debootstrap debootstrap
want buildah buildah
want gcc gcc
want openssl openssl
want mkfs.ext4 e2fsprogs
[ -x /usr/lib/cni/bridge ] || packages+=(containernetworking-plugins)
[ -f /usr/include/stdlib.h ] || packages+=(libc6-dev)
if [ ${#packages[@]} -gt 0 ]; then
	command -v apt-get >/dev/null || die "These packages are missing, and there is no apt-get: ${packages[*]}. Install what corresponds to them."
	say "installing ${packages[*]} ..."
	# A package that starts a service would meet ours: nothing may be started while they are installed.
	policy=/usr/sbin/policy-rc.d
	made=
	if [ ! -e "$policy" ]; then
		printf '#!/bin/sh\nexit 101\n' >"$policy"
		chmod 755 "$policy"
		made=1
	fi
	undo() { [ -z "$made" ] || rm -f "$policy"; }
	trap undo EXIT
	log=$(mktemp)
	if ! { apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends "${packages[@]}"; } >"$log" 2>&1; then
		tail -20 "$log" >&2
		die "apt-get could not install ${packages[*]} (above: its last lines)"
	fi
	rm -f "$log"
fi
# Kubernetes 1.34 needs Go 1.24. From 1.21 on, Go fetches the toolchain that a module asks for by itself.
if ! command -v go >/dev/null; then
	die "Go is missing: Kubernetes' components are built from Go modules. Install Go 1.21 or newer (it fetches the 1.24 that they need), and put it on PATH."
fi
