#!/usr/bin/env bash
# Ends what up.sh started, by id, and removes its namespaces, mounts, control groups and state.
set -uo pipefail
. "$(dirname "$0")/lib.sh"
need_root
[ -d "$STATE/pid" ] || exit 0

# end NAME...: SIGCONT first, for what a fault froze.
end() {
	local name pid
	for name in "$@"; do
		pid=$(cat "$STATE/pid/$name" 2>/dev/null) || continue
		kill "$pid" 2>/dev/null && kill -CONT "$pid" 2>/dev/null
	done
	for name in "$@"; do
		pid=$(cat "$STATE/pid/$name" 2>/dev/null) || continue
		for _ in $(seq 50); do kill -0 "$pid" 2>/dev/null || break; sleep 0.1; done
		kill -KILL "$pid" 2>/dev/null
		rm -f "$STATE/pid/$name"
	done
}
names() { (cd "$STATE/pid" && ls -d $1 2>/dev/null); }

# Frozen control groups would keep their processes from ending.
for frozen in $(find /sys/fs/cgroup -path '*/pgb-n*' -name freezer.state 2>/dev/null); do echo THAWED >"$frozen"; done
for frozen in $(find /sys/fs/cgroup -path '*/pgb-n*' -name cgroup.freeze 2>/dev/null); do echo 0 >"$frozen"; done
end $(names 'proxy*') $(names 'kubelet*') scheduler controller-manager coredns apiserver
for node in "$STATE"/n*/; do
	socket=$node/containerd.sock
	[ -S "$socket" ] || continue
	timeout 20 ctr -a "$socket" -n k8s.io tasks ls -q 2>/dev/null |
		while read -r task; do timeout 20 ctr -a "$socket" -n k8s.io tasks kill -s KILL "$task"; done 2>/dev/null
done
sleep 0.5
end $(names 'containerd*') etcd
# What containerd left: the shims of its containers.
for pid in $(pgrep -f "containerd-shim.* -address $STATE/" 2>/dev/null); do kill -KILL "$pid" 2>/dev/null; done
awk -v s="$STATE/" 'index($2, s) == 1 { print $2 }' /proc/mounts | sort -r | xargs -r -n1 umount -l
for name in $(ip netns list | awk '$1 ~ /^pgb-/ { print $1 }'); do ip netns del "$name"; done
# Pods' namespaces that containerd had no time to remove. Others of this machine were there before.
for name in $(ip netns list | awk '$1 ~ /^cni-/ { print $1 }'); do
	grep -qsx "$name" "$STATE/netns-before" || ip netns del "$name"
done
for _ in $(seq 20); do
	find /sys/fs/cgroup -depth -type d -path '*/pgb-n*' -exec rmdir {} + 2>/dev/null
	[ -z "$(find /sys/fs/cgroup -type d -name 'pgb-n*' -print -quit 2>/dev/null)" ] && break
	sleep 0.1
done
rm -rf "$STATE"
