#!/usr/bin/env bash
# Runs tests of chaos/tests/cluster on the machine's own cluster, from its client host.
# usage: tests.sh [ARGUMENT...]     (of the test program: parts of names, --skip PART)
set -Eeuo pipefail
. "$(dirname "$0")/lib.sh"
need_root
is_up || die "no cluster is up: make cluster"
cd "$here/../.."
# One of the tests of bad input needs images with another clock. They take minutes, so whoever runs other tests does without.
case "$*" in
*"--skip bad_input"*) ;;
"" | *bad_input*) "$here/ahead.sh" ;;
esac
KUBECONFIG=$STATE/admin.kubeconfig PGBATON_KUBECTL="$BIN/kube kubectl" \
	exec nsenter --net=/run/netns/pgb-client \
	cargo test --release --locked -p pgbaton-chaos --test cluster -- --test-threads=1 --nocapture "$@"
