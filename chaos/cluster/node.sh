#!/usr/bin/env bash
# Starts containerd and the kubelet of a node whose host is there, and gives it the images.
# usage: node.sh NUMBER
set -Eeuo pipefail
. "$(dirname "$0")/lib.sh"
i=${1:?}
D=$STATE/n$i
mkdir -p "$D/cni"

start() {
	local name=$1
	shift
	setsid nsenter "--net=/run/netns/pgb-n$i" "$@" >>"$STATE/log/$name.log" 2>&1 </dev/null &
	echo $! >"$STATE/pid/$name"
}

configuration() {
	cat >"$D/kubeconfig" <<-E
		apiVersion: v1
		kind: Config
		clusters: [{name: pgbaton, cluster: {server: "https://10.77.0.100:6443", certificate-authority: $STATE/pki/apiserver.crt}}]
		users: [{name: n$i, user: {token: $(cat "$STATE/pki/n$i.token")}}]
		contexts: [{name: pgbaton, context: {cluster: pgbaton, user: n$i}}]
		current-context: pgbaton
	E
	cat >"$D/cni/10-bridge.conflist" <<-E
		{"cniVersion":"0.4.0","name":"pods","plugins":[
		 {"type":"bridge","bridge":"cni0","isGateway":true,"ipMasq":false,"hairpinMode":true,
		  "ipam":{"type":"host-local","dataDir":"$D/ipam","ranges":[[{"subnet":"10.244.$i.0/24"}]],"routes":[{"dst":"0.0.0.0/0"}]}},
		 {"type":"portmap","capabilities":{"portMappings":true}}]}
	E
	# restrict_oom_score_adj: without CAP_SYS_RESOURCE runc cannot lower a pause container's score to -998 and dies with
	# "can't get final child's PID from pipe: EOF".
	cat >"$D/containerd.toml" <<-E
		version = 2
		root = "$D/images"
		state = "$D/run"
		[grpc]
		  address = "$D/containerd.sock"
		[plugins."io.containerd.grpc.v1.cri"]
		  sandbox_image = "localhost/pause:1"
		  stream_server_address = "127.0.0.1"
		  restrict_oom_score_adj = true
		  [plugins."io.containerd.grpc.v1.cri".cni]
		    bin_dir = "/usr/lib/cni"
		    conf_dir = "$D/cni"
	E
	# podLogsDir: kubelets of one machine must not share /var/log/pods, each deletes what it does not know.
	cat >"$D/kubelet.yaml" <<-E
		apiVersion: kubelet.config.k8s.io/v1beta1
		kind: KubeletConfiguration
		containerRuntimeEndpoint: unix://$D/containerd.sock
		cgroupDriver: cgroupfs
		cgroupRoot: /pgb-n$i
		enforceNodeAllocatable: []
		failSwapOn: false
		authentication: {anonymous: {enabled: true}, webhook: {enabled: false}}
		authorization: {mode: AlwaysAllow}
		clusterDNS: ["10.96.0.10"]
		clusterDomain: cluster.local
		resolvConf: ""
		evictionHard: {nodefs.available: "1%", imagefs.available: "1%"}
		# A machine whose disk is rather full would lose images that no registry can give again (the pause image among them).
		imageGCHighThresholdPercent: 100
		imageGCLowThresholdPercent: 99
		serializeImagePulls: false
		podLogsDir: $D/pods
	E
	# The node's own control group, in each controller (cgroup v1) or in the one tree (v2).
	local c f
	for c in /sys/fs/cgroup/*/ /sys/fs/cgroup/; do
		if [ -e "$c/cgroup.procs" ]; then mkdir -p "$c/pgb-n$i"; fi
	done
	if [ -d /sys/fs/cgroup/cpuset ]; then
		for f in cpuset.cpus cpuset.mems; do cat "/sys/fs/cgroup/cpuset/$f" >"/sys/fs/cgroup/cpuset/pgb-n$i/$f"; done
	fi
}

[ -f "$D/kubelet.yaml" ] || configuration
start "containerd-n$i" containerd -c "$D/containerd.toml"
# kubelet ends if containerd's socket is not there yet.
within 30 ctr -a "$D/containerd.sock" version
start "kubelet-n$i" "$BIN/kube" kubelet --config="$D/kubelet.yaml" --kubeconfig="$D/kubeconfig" --root-dir="$D/kubelet" \
	--node-ip="10.77.0.$i" --hostname-override="n$i"
