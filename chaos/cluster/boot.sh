#!/usr/bin/env bash
# Boots a node all of whose processes were killed: what a machine keeps in memory is gone, what it has on its disk is there.
# usage: boot.sh NUMBER
set -Eeuo pipefail
. "$(dirname "$0")/lib.sh"
need_root
i=${1:?usage: boot.sh NUMBER}
D=$STATE/n$i
[ -d "$D" ] || die "there is no node n$i in $STATE"
# Mounts of containers and pods, the memory of emptyDirs with them; then /run, and the packet filter.
awk -v a="$D/" 'index($2, a) == 1 { print $2 }' /proc/mounts | sort -r | xargs -r -n1 umount -l
rm -rf "$D/run"
in_host "n$i" iptables -F
in_host "n$i" iptables -t nat -F
in_host lan ip link set "p-n$i" up
"$here/node.sh" "$i"
"$here/proxy.sh" "n$i"
