#!/bin/bash
# Stands in for pgbaton where only the rig itself is tested: its guard runs the image's entrypoint with no permit asked for, its sidecar
# does nothing.
set -Eeuo pipefail
case "$1" in
    guard)
        shift
        while [ "$1" != -- ]; do shift; done
        shift
        if [ "$(id -u)" = 0 ]; then
            exec setpriv --reuid=postgres --regid=postgres --init-groups "$@"
        fi
        exec "$@"
        ;;
    sidecar)
        env | sort >"$PGBATON_RUN_DIR/env"
        # PID 1 of a namespace ignores what it does not handle.
        trap 'exit 0' TERM
        sleep infinity &
        wait
        ;;
esac
