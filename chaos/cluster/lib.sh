# Sourced by the scripts of this directory: where things are, and how programs are started and waited for.

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# What is built once (Kubernetes, images), outside the checkout.
CACHE=${PGBATON_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/pgbaton}
# What belongs to the cluster that runs. Short: paths of sockets in it must stay below 108 bytes.
STATE=${PGBATON_CLUSTER_STATE:-/var/tmp/pgbaton-cluster}
BIN=$CACHE/bin
IMAGES=$CACHE/images

say() { printf '%s\n' "$*" >&2; }
die() {
	say "$@"
	exit 1
}

need_root() {
	[ "$(id -u)" = 0 ] || die "A real Kubernetes on this machine needs root (network namespaces, containerd): run it as root, or set KUBECONFIG to use a cluster that you have."
}

# within SECONDS COMMAND...: waits until the command succeeds.
within() {
	local deadline=$((SECONDS + $1)) seconds=$1
	shift
	until "$@" >/dev/null 2>&1; do
		[ "$SECONDS" -lt "$deadline" ] || die "not within $seconds s: $*"
		sleep 0.1
	done
}

# nsenter, not "ip netns exec": the latter mounts a new /sys and so hides the cgroups from runc and kubelet.
in_host() {
	local name=$1
	shift
	nsenter --net="/run/netns/pgb-$name" "$@"
}

kubectl() { in_host cp "$BIN/kube" kubectl --kubeconfig "$STATE/admin.kubeconfig" "$@"; }

# Whether the cluster runs; a state without processes is left over from a machine that was restarted. A zombie has no program.
is_up() { [ -f "$STATE/pid/apiserver" ] && readlink "/proc/$(cat "$STATE/pid/apiserver")/exe" >/dev/null 2>&1; }

# built NAME FILE...: whether NAME was built from these very files; note_built NAME FILE... says so.
stamp_of() { cat "$@" | sha256sum | cut -d' ' -f1; }
built() { local name=$1; shift; [ "$(cat "$CACHE/$name.stamp" 2>/dev/null)" = "$(stamp_of "$@")" ]; }
note_built() { local name=$1; shift; stamp_of "$@" >"$CACHE/$name.stamp"; }
