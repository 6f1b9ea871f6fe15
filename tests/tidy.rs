//! The source keeps its own rules: a pure core, short files, short functions.

#![allow(clippy::unwrap_used, reason = "tests")]

use std::path::{Path, PathBuf};

const LONGEST_FILE: usize = 500;
const LONGEST_MAIN: usize = 30;
const LONGEST_FUNCTION: usize = 70;
/// Functions that are too long still: shorten them and take them off; nothing is added.
const TOO_LONG_STILL: [&str; 13] = [
    "src/runtime/mod.rs run",
    "src/http/status_tests.rs example",
    "src/http/metrics.rs register_gauges",
    "src/guard/server.rs start",
    "tests/postgres_classes.rs a_server_through_its_life",
    "tests/guard_pledge.rs a_promotion_takes_the_number_that_it_is_told",
    "tests/guard_life.rs a_database_is_made_started_and_stopped",
    "tests/guard_protocol.rs what_is_not_meant_for_this_server_is_refused",
    "tests/postgres_leader.rs names_are_in_force_only_when_everybody_obeys_them",
    "tests/postgres_leader.rs slots_archive_and_source",
    "chaos/src/local/demo.rs one_fault",
    "chaos/tests/local_rig.rs containers_pods_volumes_and_the_service_behave_as_in_kubernetes",
    "chaos/tests/local_rig.rs the_controller_follows_the_stateful_set",
];
/// What would give the core a clock, I/O or chance.
const IMPURE: [&str; 9] = [
    "tokio",
    "kube::",
    "std::net",
    "std::fs",
    "std::process",
    "std::env",
    "Instant",
    "SystemTime",
    "rand::",
];

fn rust_files(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            rust_files(&path, found);
        } else if path.extension().is_some_and(|e| e == "rs") {
            found.push(path);
        }
    }
}

fn all(folders: &[&str]) -> Vec<(String, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut found = Vec::new();
    for folder in folders {
        rust_files(&root.join(folder), &mut found);
    }
    assert!(found.len() > 3, "looked in the wrong place");
    let read = |path: PathBuf| {
        let text = std::fs::read_to_string(&path).unwrap();
        (path.strip_prefix(root).unwrap().display().to_string(), text)
    };
    found.into_iter().map(read).collect()
}

/// Without comments: prose may name what code may not use.
fn code(text: &str) -> String {
    let lines = text
        .lines()
        .map(|line| line.split("//").next().unwrap_or_default());
    lines.collect::<Vec<_>>().join("\n")
}

fn none(broken: &[String]) {
    assert!(broken.is_empty(), "{}", broken.join("\n"));
}

#[test]
fn the_core_is_pure() {
    let mut broken = Vec::new();
    for (path, text) in all(&["src/core"]) {
        for (number, line) in code(&text).lines().enumerate() {
            for word in IMPURE.iter().filter(|w| line.contains(**w)) {
                broken.push(format!("{path}:{}: '{word}' in the core", number + 1));
            }
        }
    }
    none(&broken);
}

#[test]
fn files_are_short() {
    let mut broken = Vec::new();
    for (path, text) in all(&["src", "tests", "chaos"]) {
        let lines = text.lines().count();
        let limit = if path == "src/main.rs" {
            LONGEST_MAIN
        } else {
            LONGEST_FILE
        };
        if lines > limit {
            broken.push(format!("{path}: {lines} lines, at most {limit}"));
        }
    }
    none(&broken);
}

/// Name, first line and length of every function that is longer than allowed. Relies on rustfmt: a body ends with a
/// brace that is indented as its `fn`.
fn long_functions(text: &str) -> Vec<(String, usize, usize)> {
    let lines: Vec<&str> = text.lines().collect();
    let mut found = Vec::new();
    for (first, line) in lines.iter().enumerate() {
        let body = line.trim_start();
        let indent = line.len() - body.len();
        let head: Vec<&str> = body.split_whitespace().collect();
        let Some(at) = head.iter().position(|w| *w == "fn") else {
            continue;
        };
        let plain = ["pub", "const", "async", "extern", "unsafe"];
        let is_head = head[..at]
            .iter()
            .all(|w| plain.contains(w) || w.starts_with("pub("));
        if !is_head || body.ends_with(';') || body.ends_with('}') {
            continue;
        }
        let closing = format!("{}}}", " ".repeat(indent));
        let length = lines[first..]
            .iter()
            .position(|l| *l == closing)
            .map_or(0, |n| n + 1);
        if length > LONGEST_FUNCTION {
            let name = head[at + 1].split(['(', '<']).next().unwrap_or_default();
            found.push((name.to_owned(), first + 1, length));
        }
    }
    found
}

#[test]
fn functions_are_short() {
    let mut broken = Vec::new();
    for (path, text) in all(&["src", "tests", "chaos"]) {
        for (name, first, length) in long_functions(&text) {
            if TOO_LONG_STILL.contains(&format!("{path} {name}").as_str()) {
                continue;
            }
            broken.push(format!(
                "{path}:{first}: {name} has {length} lines, at most {LONGEST_FUNCTION}"
            ));
        }
    }
    none(&broken);
}

#[test]
fn the_scanner_sees_what_is_too_long() {
    let body = "        work();\n".repeat(LONGEST_FUNCTION);
    let text = format!(
        "impl A {{\n    pub(crate) async fn long(&self) {{\n{body}    }}\n    fn short() {{\n    }}\n}}\n"
    );
    assert_eq!(
        long_functions(&text),
        [("long".to_owned(), 2, LONGEST_FUNCTION + 2)]
    );
}
