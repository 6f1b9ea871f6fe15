#!/usr/bin/env bash
# Brings up a real Kubernetes on this machine, as root: every host is a network namespace on one bridge, so no packet leaves the
# machine. Hosts: cp (control plane), n1, n2, ... (nodes), client (kube-proxy only: from there Services are used as in a pod).
# usage: up.sh [NODES]
set -Eeuo pipefail
. "$(dirname "$0")/lib.sh"
need_root
nodes=${1:-3}
[ ! -d "$STATE" ] || die "$STATE exists: a cluster runs, or was not taken down: make cluster-down"
mkdir -p "$STATE"/{log,pid,pki,volumes}
ip netns list | awk '{ print $1 }' >"$STATE/netns-before"
trap 'say "could not be brought up: see $STATE/log; make cluster-down removes what there is"' ERR

start() {
	local name=$1
	shift
	setsid "$@" >>"$STATE/log/$name.log" 2>&1 </dev/null &
	echo $! >"$STATE/pid/$name"
}

host() { # NAME IP
	ip netns add "pgb-$1"
	in_host lan ip link add "p-$1" type veth peer name eth0 netns "pgb-$1"
	in_host lan ip link set "p-$1" master br0 up # "ip link set p-NAME down" here cuts a host off from all others
	in_host "$1" ip link set lo up
	in_host "$1" ip addr add "$2/24" dev eth0
	in_host "$1" ip link set eth0 up
	in_host "$1" sysctl -qw net.ipv4.ip_forward=1
}

network() {
	local i j
	ip netns add pgb-lan
	in_host lan ip link add br0 type bridge
	in_host lan ip link set br0 up
	host cp 10.77.0.100
	host client 10.77.0.200
	in_host client ip route add default via 10.77.0.100
	for i in $(seq "$nodes"); do
		host "n$i" "10.77.0.$i"
		in_host "n$i" ip route add default via 10.77.0.100
		in_host cp ip route add "10.244.$i.0/24" via "10.77.0.$i"
		in_host client ip route add "10.244.$i.0/24" via "10.77.0.$i"
	done
	for i in $(seq "$nodes"); do
		for j in $(seq "$nodes"); do
			[ "$i" = "$j" ] || in_host "n$i" ip route add "10.244.$j.0/24" via "10.77.0.$j"
		done
	done
}

kubeconfig() { # NAME TOKEN
	cat >"$STATE/$1.kubeconfig" <<-E
		apiVersion: v1
		kind: Config
		clusters: [{name: pgbaton, cluster: {server: "https://10.77.0.100:6443", certificate-authority: $STATE/pki/apiserver.crt}}]
		users: [{name: $1, user: {token: $2}}]
		contexts: [{name: pgbaton, context: {cluster: pgbaton, user: $1}}]
		current-context: pgbaton
	E
	chmod 600 "$STATE/$1.kubeconfig"
}

control_plane() {
	local i token admin kube="$BIN/kube"
	openssl genrsa -out "$STATE/pki/sa.key" 2048 2>/dev/null
	admin=$(openssl rand -hex 16)
	(
		umask 077
		echo "$admin,admin,admin,system:masters" >"$STATE/pki/tokens.csv"
		for i in $(seq "$nodes"); do
			token=$(openssl rand -hex 16)
			echo "$token" >"$STATE/pki/n$i.token"
			echo "$token,system:node:n$i,n$i,system:nodes" >>"$STATE/pki/tokens.csv"
		done
	)
	"$here/component.sh" etcd
	within 30 in_host cp etcdctl --endpoints http://127.0.0.1:2379 endpoint health
	"$here/component.sh" apiserver
	within 60 test -f "$STATE/pki/apiserver.crt"
	kubeconfig admin "$admin"
	within 60 kubectl get --raw /readyz
	start controller-manager nsenter --net=/run/netns/pgb-cp "$kube" kube-controller-manager --kubeconfig="$STATE/admin.kubeconfig" \
		--service-account-private-key-file="$STATE/pki/sa.key" --root-ca-file="$STATE/pki/apiserver.crt" \
		--use-service-account-credentials=true --leader-elect=false
	start scheduler nsenter --net=/run/netns/pgb-cp "$kube" kube-scheduler --kubeconfig="$STATE/admin.kubeconfig" --leader-elect=false
	cat >"$STATE/Corefile" <<-E
		.:53 {
			errors
			health 127.0.0.1:8080
			ready 127.0.0.1:8181
			kubernetes cluster.local in-addr.arpa ip6.arpa {
				kubeconfig $STATE/admin.kubeconfig pgbaton
				ttl 1
			}
			cache 1
		}
	E
	start coredns nsenter --net=/run/netns/pgb-cp "$BIN/coredns" -conf "$STATE/Corefile"
}

# The client host is no node (nothing runs there), but kube-proxy wants to find one of its name.
client_host() {
	kubectl apply -f - <<-'E' >/dev/null
		apiVersion: v1
		kind: Node
		metadata: {name: client, labels: {pgbaton.dev/host: client}}
		spec: {unschedulable: true, taints: [{key: pgbaton.dev/host, value: client, effect: NoExecute}]}
	E
	kubectl patch node client --subresource=status --type=merge \
		-p '{"status":{"addresses":[{"type":"InternalIP","address":"10.77.0.200"}]}}' >/dev/null
	"$here/proxy.sh" client
}

dns_and_storage() {
	kubectl apply -f - <<-'E' >/dev/null
		apiVersion: v1
		kind: Service
		metadata: {name: kube-dns, namespace: kube-system}
		spec: {clusterIP: 10.96.0.10, ports: [{name: dns, port: 53, protocol: UDP}, {name: dns-tcp, port: 53, protocol: TCP}]}
		---
		apiVersion: discovery.k8s.io/v1
		kind: EndpointSlice
		metadata: {name: kube-dns, namespace: kube-system, labels: {kubernetes.io/service-name: kube-dns}}
		addressType: IPv4
		endpoints: [{addresses: [10.77.0.100], conditions: {ready: true}}]
		ports: [{name: dns, port: 53, protocol: UDP}, {name: dns-tcp, port: 53, protocol: TCP}]
		---
		apiVersion: storage.k8s.io/v1
		kind: StorageClass
		metadata: {name: standard, annotations: {storageclass.kubernetes.io/is-default-class: "true"}}
		provisioner: kubernetes.io/no-provisioner
		volumeBindingMode: WaitForFirstConsumer
		reclaimPolicy: Retain
	E
}

network
control_plane
for i in $(seq "$nodes"); do "$here/node.sh" "$i"; done
for i in $(seq "$nodes"); do "$here/proxy.sh" "n$i"; done
client_host
dns_and_storage
for i in $(seq "$nodes"); do within 60 kubectl wait --for=condition=Ready --timeout=1s "node/n$i"; done
say "Kubernetes $(kubectl version -o json | sed -n 's/.*"gitVersion": "\(v[^"]*\)".*/\1/p' | tail -1) with $nodes nodes; kubeconfig: $STATE/admin.kubeconfig"
