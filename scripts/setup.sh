#!/bin/bash
# Installs what the build, the demo and the tests need and this machine lacks: PostgreSQL's server programs, util-linux and procps, a C
# linker. Only on Debian and its kin, and only with the right to (root, or sudo without a password); else it says what to install.
# Does nothing when nothing is missing. Debian's own database cluster is not created, and nothing that runs is stopped.
#   scripts/setup.sh              everything above
#   scripts/setup.sh cargo-deny   the checker of `make lint`
#   scripts/setup.sh prometheus   Prometheus and promtool, for the tests of metrics, rules and dashboard; prints the directory that has both
#   scripts/setup.sh browser      what the live page is tested with: Chromium, and axe-core (into target/, checked against its hash)
set -Eeuo pipefail
cd "$(dirname "$0")/.."

say() { printf '%s\n' "$*" >&2; }
have() { command -v "$1" >/dev/null 2>&1; }

install_cargo_deny() {
    if have cargo-deny; then return; fi
    say "installing cargo-deny (once)"
    cargo install --locked cargo-deny
}

# Debian's package, only unpacked: installed, it would start a server of its own, and need root. PGBATON_PROMETHEUS names a directory
# that has both programs already.
prometheus_programs() {
    local directory tools promtool unpacked
    if [ -n "${PGBATON_PROMETHEUS:-}" ]; then
        for tools in prometheus promtool; do
            if [ ! -x "$PGBATON_PROMETHEUS/$tools" ]; then
                say "error: PGBATON_PROMETHEUS=$PGBATON_PROMETHEUS has no $tools. Name a directory with both, or unset it."
                exit 1
            fi
        done
        echo "$PGBATON_PROMETHEUS"
        return
    fi
    promtool=$(command -v promtool || true)
    if [ -n "$promtool" ] && [ -x "$(dirname "$promtool")/prometheus" ]; then
        dirname "$promtool"
        return
    fi
    tools=$(realpath "$(dirname "$0")/..")/target/tools
    directory=$tools/prometheus/usr/bin
    mkdir -p "$tools"
    exec 9>"$tools/lock"
    flock 9
    if [ ! -x "$directory/promtool" ]; then
        if ! have apt-get || ! have dpkg-deb; then
            say "error: this machine has no Prometheus with promtool, and no apt-get to fetch Debian's package 'prometheus' with."
            say "Install Prometheus 2.42 or newer, and put both programs on PATH or name their directory with PGBATON_PROMETHEUS."
            exit 1
        fi
        say "fetching Debian's package 'prometheus' (20 MB) into target/tools; it is not installed"
        unpacked=$(mktemp -d "$tools/unpacking.XXXXXX")
        if ! (cd "$unpacked" && apt-get download prometheus >&2); then
            say "error: apt-get could not download the package 'prometheus' (above: why; 'apt-get update' as root if its lists are old)."
            say "Or put prometheus and promtool on PATH, or name their directory with PGBATON_PROMETHEUS."
            rm -rf "$unpacked"
            exit 1
        fi
        dpkg-deb -x "$unpacked"/prometheus_*.deb "$unpacked/prometheus"
        rm -rf "$tools/prometheus"
        mv "$unpacked/prometheus" "$tools/prometheus"
        rm -rf "$unpacked"
    fi
    echo "$directory"
}

# What the guard, the rig and the tests run; Debian has them in two packages (server and client) and `postgresql` brings both.
programs=(postgres initdb pg_ctl pg_basebackup pg_rewind pg_controldata pg_waldump psql pgbench)

# Prints the programs that a directory lacks.
lacks() {
    local program
    for program in "${programs[@]}"; do
        [ -x "$1/$program" ] || printf '%s ' "$program"
    done
}

# One directory must have them all, as one version's.
have_postgresql() {
    local directory
    for directory in /usr/lib/postgresql/*/bin ${PATH//:/ }; do
        if [ -z "$(lacks "$directory")" ]; then return 0; fi
    done
    return 1
}

missing_for_browser() {
    [ -n "${PGBATON_CHROMIUM:-}" ] || have chromium || echo chromium
    have npm || echo npm
}

# It judges how accessible a page is. Its licence (MPL-2.0) lets it be used here; it is not handed on.
axe=axe-core@4.14.1
axe_sha512=1477dafa598d8d065f273d6af302aa203c02e83131707b7fa648cd41bd3d6b734f8c22a0dab86ee6a6f64b8afbe804b214d36db85a2826965edfb3a0b9d546b5
fetch_axe() {
    local to=target/axe-core tmp
    if [ -f "$to/$axe_sha512" ]; then return; fi
    say "fetching $axe (once)"
    tmp=$(mktemp -d)
    npm pack --silent --pack-destination "$tmp" "$axe" >/dev/null
    if ! echo "$axe_sha512  $(echo "$tmp"/axe-core-*.tgz)" | sha512sum --check --status; then
        say "error: what the registry gave for $axe is not what was pinned here: nothing was installed"
        rm -rf "$tmp"
        exit 1
    fi
    rm -rf "$to" && mkdir -p "$to"
    tar -xzf "$tmp"/axe-core-*.tgz -C "$to" --strip-components=1 package/axe.min.js package/LICENSE
    touch "$to/$axe_sha512"
    rm -rf "$tmp"
}

missing_packages() {
    [ -n "${PGBATON_BINDIR:-}" ] || have_postgresql || echo postgresql
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

# Debian's package makes and starts a cluster of its own unless its configuration forbids it, so that comes first. Whatever the file
# says about it now stays as it is: the last line of a name counts, and the file is put back at the end, however that comes.
createcluster=/etc/postgresql-common/createcluster.conf

forbid_main_cluster() {
    install postgresql-common
    saved=$(mktemp)
    cp "$createcluster" "$saved"
    trap restore_main_cluster EXIT
    trap 'exit 130' INT
    trap 'exit 143' TERM HUP
    echo 'create_main_cluster = false' | "${as_root[@]}" tee -a "$createcluster" >/dev/null
    if [ "$(pg_conftool "$createcluster" show -bs create_main_cluster)" != off ]; then
        say "error: $createcluster does not take 'create_main_cluster = false', and PostgreSQL's package would start a cluster of its own."
        say "Nothing was installed but postgresql-common. Set it there by hand, then run this again."
        exit 1
    fi
}

# The content only: owner and mode stay.
restore_main_cluster() {
    "${as_root[@]}" tee "$createcluster" <"$saved" >/dev/null
    rm -f "$saved"
}

if [ "${1:-}" = cargo-deny ]; then
    install_cargo_deny
    exit
fi

if [ "${1:-}" = prometheus ]; then
    prometheus_programs
    exit
fi

if ! have cargo; then
    say "error: no Rust toolchain: install one from https://rustup.rs, or a package of cargo 1.91 or newer"
    exit 1
fi

if [ -n "${PGBATON_BINDIR:-}" ] && [ -n "$(lacks "$PGBATON_BINDIR")" ]; then
    say "error: PGBATON_BINDIR=$PGBATON_BINDIR lacks: $(lacks "$PGBATON_BINDIR")"
    say "Name a directory with all of PostgreSQL's programs, or unset it: then Debian's are used."
    exit 1
fi

list=missing_packages
if [ "${1:-}" = browser ]; then list=missing_for_browser; fi
mapfile -t packages < <("$list" | tr ' ' '\n')
if [ "${#packages[@]}" -eq 0 ]; then
    if [ "${1:-}" = browser ]; then fetch_axe; fi
    exit 0
fi

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
if [ "${1:-}" = browser ]; then fetch_axe; fi
