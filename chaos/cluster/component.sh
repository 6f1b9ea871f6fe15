#!/usr/bin/env bash
# Starts etcd or the API server; faults that end one of them start it again with this.
# usage: component.sh etcd|apiserver
set -Eeuo pipefail
. "$(dirname "$0")/lib.sh"
case ${1:?} in
etcd)
	command=(etcd --data-dir "$STATE/etcd" --listen-client-urls http://127.0.0.1:2379 --advertise-client-urls http://127.0.0.1:2379
		--listen-peer-urls http://127.0.0.1:2380 --unsafe-no-fsync)
	;;
apiserver)
	command=("$BIN/kube" kube-apiserver --etcd-servers=http://127.0.0.1:2379 --cert-dir="$STATE/pki" --bind-address=0.0.0.0
		--advertise-address=10.77.0.100 --secure-port=6443 --service-cluster-ip-range=10.96.0.0/16
		--service-account-issuer=https://kubernetes.default.svc --service-account-key-file="$STATE/pki/sa.key"
		--service-account-signing-key-file="$STATE/pki/sa.key" --token-auth-file="$STATE/pki/tokens.csv"
		--authorization-mode=Node,RBAC --allow-privileged --kubelet-preferred-address-types=InternalIP)
	;;
*) die "component.sh: etcd or apiserver, not $1" ;;
esac
setsid nsenter --net=/run/netns/pgb-cp "${command[@]}" >>"$STATE/log/$1.log" 2>&1 </dev/null &
echo $! >"$STATE/pid/$1"
