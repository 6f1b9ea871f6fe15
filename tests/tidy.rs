//! The source keeps its own rules: a pure core, short files, short functions.

#![allow(clippy::unwrap_used, reason = "tests")]

use std::path::{Path, PathBuf};

const LONGEST_FILE: usize = 500;
const LONGEST_MAIN: usize = 30;
const LONGEST_FUNCTION: usize = 70;
/// Functions that are too long still: shorten them and take them off; nothing is added.
const TOO_LONG_STILL: [&str; 12] = [
    "src/runtime/mod.rs run",
    "src/http/status_tests.rs example",
    "src/guard/server.rs start",
    "tests/postgres/classes.rs a_server_through_its_life",
    "tests/guard/pledge.rs a_promotion_takes_the_number_that_it_is_told",
    "tests/guard/life.rs a_database_is_made_started_and_stopped",
    "tests/guard/protocol.rs what_is_not_meant_for_this_server_is_refused",
    "tests/postgres/leader.rs names_are_in_force_only_when_everybody_obeys_them",
    "tests/postgres/leader.rs slots_archive_and_source",
    "chaos/src/local/demo.rs one_fault",
    "chaos/tests/local_rig.rs containers_pods_volumes_and_the_service_behave_as_in_kubernetes",
    "chaos/tests/local_rig.rs the_controller_follows_the_stateful_set",
];
/// What would give the core a clock, I/O, threads or chance, and the shell around it, as paths.
const IMPURE: [&str; 26] = [
    "tokio",
    "kube",
    "hyper",
    "axum",
    "nix",
    "rand",
    "getrandom",
    "jiff",
    "tracing",
    "std::net",
    "std::fs",
    "std::io",
    "std::os",
    "std::process",
    "std::env",
    "std::thread",
    "std::sync",
    "std::time::Instant",
    "std::time::SystemTime",
    "crate::runtime",
    "crate::lease",
    "crate::kubernetes",
    "crate::postgres",
    "crate::http",
    "crate::peers",
    "crate::cli",
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

/// Every path in the code: of `use` trees, spelt out, and those in expressions. `super::` from `depth` folders below `src` is
/// made `crate::`.
fn paths(text: &str, depth: usize) -> Vec<String> {
    let code = code(text);
    let mut found = Vec::new();
    for statement in code.split("use ").skip(1) {
        let tree: String = statement
            .split(';')
            .next()
            .unwrap_or_default()
            .split_whitespace()
            .collect();
        spell_out("", &tree, &mut found);
    }
    let is_path = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == ':';
    found.extend(
        code.split(|c| !is_path(c))
            .filter(|word| word.contains("::"))
            .map(str::to_owned),
    );
    for path in &mut found {
        let supers = path.matches("super::").count();
        let is_up = supers > 0 && path.starts_with("super::") && supers >= depth;
        if is_up {
            *path = path.replace("super::", "");
            path.insert_str(0, "crate::");
        }
    }
    found
}

/// `a::{b, c::{d}}` as `a::b`, `a::c::d`.
fn spell_out(prefix: &str, tree: &str, found: &mut Vec<String>) {
    let Some((head, rest)) = tree.split_once('{') else {
        found.push(format!("{prefix}{tree}"));
        return;
    };
    let inner = rest.strip_suffix('}').unwrap_or(rest);
    let (mut depth, mut from) = (0, 0);
    for (at, c) in inner.char_indices().chain([(inner.len(), ',')]) {
        match c {
            '{' => depth += 1,
            '}' => depth -= 1,
            ',' if depth == 0 => {
                spell_out(&format!("{prefix}{head}"), &inner[from..at], found);
                from = at + 1;
            }
            _ => {}
        }
    }
}

fn impure(text: &str, depth: usize) -> Vec<String> {
    let begins = |path: &str, word: &str| {
        let path = path.strip_prefix("::").unwrap_or(path);
        path.strip_prefix(word)
            .is_some_and(|rest| rest.is_empty() || rest.starts_with("::") || rest.starts_with("as"))
    };
    let bad = |path: &String| {
        let by_name = ["Instant", "SystemTime"]
            .iter()
            .any(|n| path.ends_with(n) || path.starts_with(&format!("{n}::")));
        by_name || IMPURE.iter().any(|word| begins(path, word))
    };
    paths(text, depth).into_iter().filter(bad).collect()
}

#[test]
fn the_core_is_pure() {
    let mut broken = Vec::new();
    for (path, text) in all(&["src/core"]) {
        // src/core/x.rs is module core::x: two steps up is the crate.
        let depth = path.matches('/').count();
        for word in impure(&text, depth) {
            broken.push(format!("{path}: '{word}' in the core"));
        }
    }
    none(&broken);
}

#[test]
fn the_scanner_sees_what_is_impure() {
    for bad in [
        "use kube;",
        "use kube::Client;",
        "use std::{fmt, fs};",
        "use std::{\n    collections::BTreeMap,\n    time::{Duration, Instant},\n};",
        "use std::thread;",
        "fn a() { std::thread::sleep(b); }",
        "fn a() { getrandom::fill(&mut b); }",
        "use jiff::Timestamp;",
        "use crate::runtime::brain;",
        "use crate::{core::types::Term, postgres::Session};",
        "use super::super::lease::Baton;",
        "fn a() { crate::http::serve(); }",
        "use ::tokio::time;",
        "use tokio as t;",
    ] {
        assert!(!impure(bad, 2).is_empty(), "{bad}");
    }
    for good in [
        "use std::collections::BTreeMap;",
        "use std::time::Duration;",
        "use crate::guard::protocol::Status;",
        "use super::super::core::types::Term;",
        "fn a(lease: &SeenLease) { lease.term }",
        "// use tokio;",
        "use super::lease_view;",
    ] {
        assert!(impure(good, 2).is_empty(), "{good}: {:?}", impure(good, 2));
    }
}

/// Tests that a page names: `file.rs::test` anywhere, and after `Tests:` each long name in backticks behind its file.
fn named_tests(page: &str) -> Vec<(String, String)> {
    let mut named = Vec::new();
    for bullet in page.split("\n- ").flat_map(|b| b.split("\n\n")) {
        let lists = bullet.trim_start().starts_with("Tests:");
        let mut file = String::new();
        for word in bullet.split('`').skip(1).step_by(2) {
            if let Some((path, test)) = word.split_once(".rs::") {
                file = format!("{path}.rs");
                named.push((file.clone(), test.to_owned()));
            } else if word.ends_with(".rs") {
                word.clone_into(&mut file);
            } else if lists && !file.is_empty() && word.matches('_').count() >= 2 && !word.contains(' ') {
                named.push((file.clone(), word.to_owned()));
            }
        }
    }
    named
}

#[test]
fn the_tests_that_the_safety_pages_name_exist() {
    let files = all(&["src", "tests", "chaos"]);
    let mut broken = Vec::new();
    let pages = [("docs/safety.md", 60), ("docs/schedules.md", 30)];
    let named = pages.iter().flat_map(|(page, least)| {
        let text = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(page)).unwrap();
        let named = named_tests(&text);
        assert!(
            named.len() > *least,
            "only {} names were read in {page}",
            named.len()
        );
        named.into_iter().map(move |(file, test)| (*page, file, test))
    });
    for (page, file, test) in named {
        let name = test.rsplit("::").next().unwrap_or_default();
        let there = files.iter().any(|(path, text)| {
            let is_it = *path == file || path.ends_with(&format!("/{file}"));
            // A module's tests may lie in a file beside it.
            let beside = path.ends_with(&format!("/{}", file.replace(".rs", "_tests.rs")));
            (is_it || beside) && text.contains(&format!("fn {name}("))
        });
        if !there {
            broken.push(format!("{page} names {file}::{name}, which does not exist"));
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
        // Of a trait's method there may be a declaration only.
        let signature_ends = lines[first..].iter().find(|l| l.ends_with(['{', ';']));
        if signature_ends.is_some_and(|l| l.ends_with(';')) {
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
        "trait B {{\n    fn declared(\n        &self,\n    );\n{body}    }}\nimpl A {{\n    pub(crate) async fn long(&self) {{\n{body}    }}\n    \
         fn short() {{\n    }}\n}}\n"
    );
    assert_eq!(
        long_functions(&text),
        [("long".to_owned(), LONGEST_FUNCTION + 7, LONGEST_FUNCTION + 2)]
    );
}
