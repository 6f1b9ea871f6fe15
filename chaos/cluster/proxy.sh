#!/usr/bin/env bash
# Starts kube-proxy on a host.
# usage: proxy.sh HOST
set -Eeuo pipefail
. "$(dirname "$0")/lib.sh"
name=${1:?usage: proxy.sh HOST}
cat >"$STATE/proxy-$name.yaml" <<-E
	apiVersion: kubeproxy.config.k8s.io/v1alpha1
	kind: KubeProxyConfiguration
	mode: iptables
	clientConnection: {kubeconfig: $STATE/admin.kubeconfig}
	hostnameOverride: $name
	clusterCIDR: 10.244.0.0/16
	conntrack: {maxPerCore: 0, min: 0, tcpCloseWaitTimeout: 0s, tcpEstablishedTimeout: 0s}
E
setsid nsenter "--net=/run/netns/pgb-$name" "$BIN/kube" kube-proxy --config="$STATE/proxy-$name.yaml" \
	>>"$STATE/log/proxy-$name.log" 2>&1 </dev/null &
echo $! >"$STATE/pid/proxy-$name"
