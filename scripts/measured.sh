# Sourced by the scripts that note what they measured: under which commit, and whether it is noted already.

say() { printf '%s\n' "$*" >&2; }

# What a measurement is of: the program, or its core alone.
# shellcheck disable=SC2034
program=(src Cargo.toml Cargo.lock rust-toolchain.toml .cargo) core=(src/core src/guard/protocol.rs)

# measured PATH...: sets `commit` to the last commit that changed one of these paths. A later commit that changed other files only, such as
# pages or evidence, is no reason to measure again. Ends the script when what is measured has changes that no commit has: its result would
# belong to none.
measured() {
    local paths=("$@")
    if [ -n "$(git status --porcelain -- "${paths[@]}")" ]; then
        say "error: what is measured has changes that no commit has: commit them first (git status shows them)"
        exit 1
    fi
    commit=$(git log -1 --format=%H -- "${paths[@]}")
    # Whatever the history looks like: it must be the very code that lies here.
    if [ -z "$commit" ] || ! git diff --quiet "$commit" HEAD -- "${paths[@]}"; then
        commit=HEAD
    fi
    commit=$(git rev-parse --short=12 "$commit")
}

# dated [FIELDS]: writes date and commit, and FIELDS with a comma behind each, into each JSON object of stdin, one a line.
dated() { sed "s/^{/{\"date\":\"$(date -u +%FT%TZ)\",\"commit\":\"$commit\",${1:-}/"; }

# recorded FILE: all lines below the headings of this commit in a page.
recorded() {
    if [ -f "$1" ]; then
        awk -v commit="commit $commit " '/^## /{inside=index($0, commit)>0} inside' "$1"
    fi
}

# heading FILE TITLE ABOUT TABLE: makes sure that the last heading in the page is this commit's, with the head of its table below: rows go to
# the end.
heading() {
    if [ ! -f "$1" ]; then
        mkdir -p "$(dirname "$1")"
        printf '# %s\n\n%s\n' "$2" "$3" >"$1"
    fi
    if ! grep '^## ' "$1" | tail -n 1 | grep -q "commit $commit "; then
        printf '\n## %s, commit %s (%s cores)\n\n%s\n' "$(date -u +%Y-%m-%d)" "$commit" "$(nproc)" "$4" >>"$1"
    fi
}
