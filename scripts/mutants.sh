#!/bin/bash
# Does a test notice each small change of the core? Lets cargo-mutants change src/core in a copy, a file after the other, a process for each
# core, and appends to docs/evidence/mutants.jsonl, with date and commit, what happened to the mutants of each file. A file whose result
# stands there under this commit is not run again.
#   scripts/mutants.sh [PART_OF_A_FILE]
# Quick first: the unit tests, the stories and few of the simulator's seeds; those that live through it meet as many seeds as `make test` has.
set -Eeuo pipefail
cd "$(dirname "$0")/.."
. scripts/measured.sh

only=${1:-}
evidence=docs/evidence/mutants.jsonl
known=tests/mutants/known.txt
measured "${core[@]}" tests/simulation tests/core_phases.rs tests/mutants
command -v cargo-mutants >/dev/null || cargo install --locked cargo-mutants
mkdir -p "$(dirname "$evidence")"
touch "$evidence"
kept=${MUTANTS_TARGET:-$PWD/target/mutants}

done_already() { grep -F "\"commit\":\"$commit\"" "$evidence" | grep -qF "\"file\":\"$1\""; }

# copy DIRECTORY: the core as a package of its own.
copy() {
    mkdir -p "$1/src/guard" "$1/tests"
    rm -rf "$1/src/core" "$1/tests/simulation" "$1/docs"
    cp -R src/core "$1/src/core"
    cp src/guard/protocol.rs "$1/src/guard/protocol.rs"
    printf 'pub mod core;\npub mod guard {\n    pub mod protocol;\n}\n' >"$1/src/lib.rs"
    cp -R tests/simulation "$1/tests/simulation"
    cp tests/core_phases.rs "$1/tests/core_phases.rs"
    # Unit tests of the core compare pages with it.
    cp -R docs "$1/docs"
    cp tests/mutants/Cargo.toml Cargo.lock "$1/"
}

# mutate DIRECTORY FILE SEEDS [OPTION]...: cargo-mutants there; its exit status says what was found, which its files say better.
mutate() {
    local directory=$1 file=$2 seeds=$3
    shift 3
    (cd "$directory" && SEEDS=$seeds cargo mutants --in-place --baseline skip --timeout 300 --no-shuffle --colors never --file "$file" "$@") >"$directory/log" 2>&1 || true
    if [ ! -f "$directory/mutants.out/outcomes.json" ]; then
        cat "$directory/log" >&2
        return 1
    fi
}

count() { [ ! -f "$1" ] || grep -c . "$1" || true; }

# one DIRECTORY FILE: all mutants of the file, and a line of evidence.
one() {
    local directory=$1 file=$2 out=$1/mutants.out caught timeout unviable
    rm -rf "$out" "$out.old"
    mutate "$directory" "$file" 10
    caught=$(count "$out/caught.txt") timeout=$(count "$out/timeout.txt") unviable=$(count "$out/unviable.txt")
    if [ -s "$out/missed.txt" ]; then
        mutate "$directory" "$file" 1050 --iterate
        caught=$((${caught:-0} + $(count "$out/caught.txt")))
        timeout=$((${timeout:-0} + $(count "$out/timeout.txt")))
    fi
    # src/core/lag.rs:17:5: replace ... : the place goes with every edit.
    local missed
    missed=$(sed -E 's/^([^:]*):[0-9]+:[0-9]+: /\1: /; s/["\\]/\\&/g; s/.*/"&"/' "$out/missed.txt" | paste -sd, )
    printf '{"file":"%s","caught":%d,"timeout":%d,"unviable":%d,"missed":[%s]}\n' \
        "$file" "${caught:-0}" "${timeout:-0}" "${unviable:-0}" "$missed" | dated >>"$evidence"
    say "$file: caught ${caught:-0}, timeout ${timeout:-0}, does not compile ${unviable:-0}, missed $(count "$out/missed.txt")"
}

# worker NUMBER OF: every OF-th file.
worker() {
    local directory=$kept/$1 n=0 file
    copy "$directory"
    (cd "$directory" && SEEDS=10 cargo test --quiet) >"$directory/log" 2>&1 || { cat "$directory/log" >&2; return 1; }
    for file in "${files[@]}"; do
        n=$((n + 1))
        [ $((n % $2)) = "$1" ] || continue
        one "$directory" "$file"
    done
}

files=()
while IFS= read -r file; do
    [[ "$file" == *"$only"* ]] || continue
    done_already "$file" || files+=("$file")
done < <(find src/core -name '*.rs' ! -name '*_tests.rs' | sort)
processes=$(nproc)
pids=()
for ((w = 0; w < processes; w++)); do
    worker "$w" "$processes" &
    pids+=($!)
done
failed=0
for pid in "${pids[@]}"; do wait "$pid" || failed=1; done

# Survivors without a reason.
unknown=$(grep -F "\"commit\":\"$commit\"" "$evidence" | sed 's/.*"missed":\[//; s/\]}$//; s/","/\n/g; s/"//g' | sed '/^$/d' | sort -u |
    grep -vxF -f <(sed -n '/^#/d; s/ | .*//p' "$known") || true)
if [ -n "$unknown" ]; then
    say "error: no test notices these changes, and $known has no reason for them:"
    say "$unknown"
    failed=1
fi
exit "$failed"
