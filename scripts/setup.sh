#!/bin/bash
# Installs what the build, the demo and the tests need and this machine lacks: PostgreSQL's server programs, util-linux and procps, a C
# linker. Only on Debian and its kin, and only with the right to (root, or sudo without a password); else it says what to install.
# Does nothing when nothing is missing. Debian's own database cluster is not created, and nothing that runs is stopped.
#   scripts/setup.sh              everything above
#   scripts/setup.sh cargo-deny   the checker of `make lint`
set -Eeuo pipefail

say() { printf '%s\n' "$*" >&2; }
have() { command -v "$1" >/dev/null 2>&1; }

install_cargo_deny() {
    if have cargo-deny; then return; fi
    say "installing cargo-deny (once)"
    cargo install --locked cargo-deny
}

have_postgresql() {
    local directory
    for directory in ${PGBATON_BINDIR:+"$PGBATON_BINDIR"} /usr/lib/postgresql/*/bin ${PATH//:/ }; do
        if [ -x "$directory/postgres" ] && [ -x "$directory/initdb" ] && [ -x "$directory/pg_rewind" ]; then return 0; fi
    done
    return 1
}

missing_packages() {
    have_postgresql || echo postgresql
    { have unshare && have nsenter && have setpriv; } || echo util-linux
    have ps || echo procps
    have cc || echo gcc libc6-dev
    have make || echo make
}

install() {
    local command=("${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install --yes --no-install-recommends "$@")
    if ! "${command[@]}" >&2; then
        say "the lists of packages may be old: updating them"
        "${as_root[@]}" apt-get update >&2
        "${command[@]}" >&2
    fi
}

# Debian's package makes and starts a cluster of its own unless its configuration forbids it, so that comes first.
forbid_main_cluster() {
    local file=/etc/postgresql-common/createcluster.conf
    install postgresql-common
    if ! grep -qs '^[[:space:]]*create_main_cluster' "$file"; then
        echo 'create_main_cluster = false' | "${as_root[@]}" tee -a "$file" >/dev/null
    fi
}

if [ "${1:-}" = cargo-deny ]; then
    install_cargo_deny
    exit
fi

if ! have cargo; then
    say "error: no Rust toolchain: install one from https://rustup.rs, or a package of cargo 1.91 or newer"
    exit 1
fi

mapfile -t packages < <(missing_packages | tr ' ' '\n')
if [ "${#packages[@]}" -eq 0 ]; then exit 0; fi

as_root=()
if [ "$(id -u)" -ne 0 ]; then as_root=(sudo -n); fi
if ! have apt-get; then
    say "error: this machine lacks: ${packages[*]} (names of Debian's packages) and has no apt-get"
    say "Install them with this system's own tools and run this again. PostgreSQL elsewhere? Set PGBATON_BINDIR to its bin directory."
    exit 1
fi
if [ "$(id -u)" -ne 0 ] && ! { have sudo && sudo -n true 2>/dev/null; }; then
    say "error: this machine lacks: ${packages[*]}, and you may not install packages. Ask for, or run:"
    say "  sudo apt-get install --no-install-recommends postgresql-common"
    say "  echo create_main_cluster = false | sudo tee -a /etc/postgresql-common/createcluster.conf"
    say "  sudo apt-get install --no-install-recommends ${packages[*]}"
    exit 1
fi

say "installing ${packages[*]} with apt-get"
for package in "${packages[@]}"; do
    if [ "$package" = postgresql ]; then forbid_main_cluster; fi
done
install "${packages[@]}"
