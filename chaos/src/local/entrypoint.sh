#!/bin/bash
# Test entrypoint of the local rig. It keeps what the official image documents of its own entrypoint, so that the guard meets the
# same contract: the database is initialised only when PG_VERSION is missing, with POSTGRES_USER, POSTGRES_PASSWORD, POSTGRES_DB,
# POSTGRES_INITDB_ARGS; then a temporary server that listens on its Unix socket only runs the files of the initialisation
# directory; then the command is executed in place of this shell. Beside the image's variables it knows INITDB_DIRECTORY
# (the image's is /docker-entrypoint-initdb.d, which a plain machine does not have).
set -Eeuo pipefail

: "${PGDATA:?PGDATA must name the data directory}"
INITDB_DIRECTORY=${INITDB_DIRECTORY:-/docker-entrypoint-initdb.d}

# Arguments alone mean the server.
if [ "${1:0:1}" = '-' ]; then
    set -- postgres "$@"
fi

# The image gives PGDATA to its user when it starts as root; PostgreSQL itself refuses root.
if [ "$1" = postgres ] && [ "$(id -u)" = 0 ]; then
    mkdir -p "$PGDATA"
    chown -R postgres "$PGDATA"
    exec setpriv --reuid=postgres --regid=postgres --init-groups "$BASH_SOURCE" "$@"
fi

# Whether the words ask for something else than a server.
wants_help() {
    local word
    for word in "$@"; do
        case "$word" in
            -'?' | --help | --describe-config | -V | --version) return 0 ;;
        esac
    done
    return 1
}

create_database() {
    local password_file
    if [ -z "${POSTGRES_PASSWORD:-}" ] && [ "${POSTGRES_HOST_AUTH_METHOD:-}" != trust ]; then
        echo "Error: the database is not initialised and POSTGRES_PASSWORD is not set: set it, or POSTGRES_HOST_AUTH_METHOD=trust" >&2
        exit 1
    fi
    password_file=$(mktemp)
    printf '%s\n' "${POSTGRES_PASSWORD:-}" >"$password_file"
    local arguments=(--username="$POSTGRES_USER" --pwfile="$password_file")
    if [ -z "${POSTGRES_PASSWORD:-}" ]; then
        arguments=(--username="$POSTGRES_USER")
    fi
    # The words of these variables are meant to be split, quotes in them respected.
    eval "initdb \"\${arguments[@]}\" ${POSTGRES_INITDB_ARGS:-}"
    rm -f "$password_file"
}

# The temporary server's socket directory stands in line 5 of postmaster.pid, whatever the configuration says.
sql() {
    psql --no-psqlrc --no-password --set ON_ERROR_STOP=1 --username "$POSTGRES_USER" \
        --host "$(sed -n 5p "$PGDATA/postmaster.pid")" --port "$(sed -n 4p "$PGDATA/postmaster.pid")" "$@"
}

run_initialisation_files() {
    local file
    for file in "$INITDB_DIRECTORY"/*; do
        case "$file" in
            *.sh)
                echo "running $file"
                if [ -x "$file" ]; then "$file"; else . "$file"; fi
                ;;
            *.sql)
                echo "running $file"
                sql --dbname "$POSTGRES_DB" --file "$file"
                ;;
            *.sql.gz)
                echo "running $file"
                gunzip -c "$file" | sql --dbname "$POSTGRES_DB"
                ;;
        esac
    done
}

if [ "$1" = postgres ] && ! wants_help "$@"; then
    POSTGRES_USER=${POSTGRES_USER:-postgres}
    POSTGRES_DB=${POSTGRES_DB:-$POSTGRES_USER}
    export POSTGRES_USER POSTGRES_DB
    mkdir -p "$PGDATA"
    chmod 0700 "$PGDATA"
    if [ ! -s "$PGDATA/PG_VERSION" ]; then
        create_database
        server=("$@")
        options=$(printf '%q ' "${server[@]:1}" -c listen_addresses=)
        pg_ctl --pgdata "$PGDATA" --options "$options" --wait start
        if [ "$POSTGRES_DB" != postgres ]; then
            printf 'CREATE DATABASE :"db";\n' | sql --dbname postgres --set db="$POSTGRES_DB"
        fi
        run_initialisation_files
        pg_ctl --pgdata "$PGDATA" --mode fast --wait stop
        echo "PostgreSQL init process complete; ready for start up."
    else
        echo "PostgreSQL Database directory appears to contain a database; Skipping initialization"
    fi
fi

exec "$@"
