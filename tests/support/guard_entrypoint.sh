#!/bin/bash
# Keeps the official image's contract: makes the database when there is none, then becomes the given command.
set -euo pipefail
if [ "${1:0:1}" = '-' ]; then set -- postgres "$@"; fi
if [ "$1" = postgres ] && [ ! -s "$PGDATA/PG_VERSION" ]; then
  initdb --pgdata="$PGDATA" --username="$POSTGRES_USER" --pwfile=<(printf '%s\n' "$POSTGRES_PASSWORD") \
    --auth-local=trust --auth-host=scram-sha-256 --no-sync --data-checksums >&2
  if [ -n "${TEST_SLOW_INIT:-}" ]; then sleep "$TEST_SLOW_INIT"; fi
  temporary="$(printf '%q ' "${@:2}") -c listen_addresses=''"
  pg_ctl -D "$PGDATA" -o "$temporary" -w start >&2
  for script in "$TEST_INITDB_D"/*.sql; do
    if [ -e "$script" ]; then
      psql -v ON_ERROR_STOP=1 -h "$TEST_SOCKETS" -p "$TEST_PORT" -U "$POSTGRES_USER" -d postgres -f "$script" >&2
    fi
  done
  pg_ctl -D "$PGDATA" -m fast -w stop >&2
fi
exec "$@"
