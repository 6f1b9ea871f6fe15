#!/bin/bash
# Does it bite? Plants each bug of tests/planted/bugs.txt in a copy of the tree, runs the tests that must find it, and appends to
# docs/evidence/planted.md, under the date and the commit, by which test it was found and how fast. What that file has of this commit is not
# run again.   scripts/planted.sh [PART_OF_A_NAME]
set -Eeuo pipefail
cd "$(dirname "$0")/.."
. scripts/measured.sh
root=$PWD
evidence=$root/docs/evidence/planted.md
bugs=$root/tests/planted/bugs.txt
only=${1:-}
about='Made by `make planted`: each bug of tests/planted/bugs.txt by itself in a copy, and the tests that found it. Seconds are those of the tests, without the compiler.'
table='| bug | invariant | found by | seconds |
| --- | --- | --- | --- |'

measured "${program[@]}" tests
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
copy=$work/copy
git clone --quiet --no-hardlinks . "$copy"
# Kept for the next run: compiling everything takes minutes.
# Each bug within a minute: a third of the simulator's seeds.
export SEEDS=${SEEDS:-350}
export CARGO_TARGET_DIR=${PLANTED_TARGET:-$root/target/planted}

# Blocks of the file, each in files of its own: N.name, N.invariant, N.file, N.tests, N.old, N.new.
awk -v out="$work/" '
    /^#/ { next }
    /^name: / { n++; base = out n; print substr($0, 7) > (base ".name"); next }
    /^invariant: / { print substr($0, 12) > (base ".invariant"); next }
    /^file: / { print substr($0, 7) > (base ".file"); next }
    /^tests: / { print substr($0, 8) > (base ".tests"); next }
    /^-/ { print substr($0, 2) > (base ".old"); next }
    /^\+/ { print substr($0, 2) > (base ".new"); next }
    { next }
    END { print n > (out "count") }' "$bugs"
count=$(cat "$work/count")

# run NUMBER: the tests, into $work/log; 0 when all pass.
run() {
    local one tests failed=0
    : >"$work/log"
    while IFS= read -r -d ';' one; do
        read -ra tests <<<"$one"
        (cd "$copy" && cargo test --release --locked --no-fail-fast "${tests[@]}") >>"$work/log" 2>&1 || failed=1
    done < <(tr '\n' ';' <"$work/$1.tests")
    return "$failed"
}

missed=0
for ((n = 1; n <= count; n++)); do
    name=$(cat "$work/$n.name")
    [[ "$name" == *"$only"* ]] || continue
    if recorded "$evidence" | grep -qF "| $name |"; then
        continue
    fi
    file=$copy/$(cat "$work/$n.file")
    cp "$file" "$work/before"
    if ! OLD=$work/$n.old NEW=$work/$n.new perl -0777 -i -pe '
        BEGIN { local $/; open O, "<", $ENV{OLD}; $o = <O>; open N, "<", $ENV{NEW}; $n = <N>; }
        $found = () = /\Q$o\E/g; s/\Q$o\E/$n/; END { $? = $found == 1 ? 0 : 1 }' "$file"; then
        say "error: the text of '$name' does not stand exactly once in $(cat "$work/$n.file"): bring tests/planted/bugs.txt up to date"
        cp "$work/before" "$file"
        missed=1
        continue
    fi
    say "planted: $name"
    if run "$n"; then
        found="**nobody**"
        missed=1
    elif grep -qE '^error(\[|: could not compile)' "$work/log"; then
        say "error: with '$name' it does not compile:"
        grep -E -A6 '^error' "$work/log" | head -20 >&2
        cp "$work/before" "$file"
        missed=1
        continue
    else
        found=$(sed -n 's/^test \(.*\) \.\.\. FAILED.*/`\1`/p' "$work/log" | sort -u | head -3 | paste -sd, | sed 's/,/, /g')
        found=${found:-a test that ended at once}
    fi
    seconds=$(sed -n 's/^test result:.*finished in \([0-9.]*\)s.*/\1/p' "$work/log" | paste -sd+ | sed 's/^$/0/' | awk -F+ '{ s = 0; for (i = 1; i <= NF; i++) s += $i; printf "%.1f", s }')
    heading "$evidence" 'Planted bugs' "$about" "$table"
    echo "| $name | $(cat "$work/$n.invariant") | $found | $seconds |" >>"$evidence"
    cp "$work/before" "$file"
done
say "recorded in $evidence"
exit "$missed"
