//! The commands of a page of docs/, run as a person would paste them.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use super::kubectl::root;
use super::place::{Place, pgbaton};

/// For one block, in seconds: it waits for pods.
const BLOCK: &str = "180";

/// What a person's shell has. `kubectl events --watch` is ended by hand, so it does not watch here; `pgbaton status` tells by its exit status
/// how the cluster is, which is no failure of the command.
const SHELL: &str = r#"
set -e
kubectl() {
    local words=() word
    for word in "$@"; do [ "$word" = --watch ] || words+=("$word"); done
    command $PGBATON_KUBECTL "${words[@]}"
}
pgbaton() { "$PGBATON" "$@" || echo "exit status $?"; }
less() { cat; }
"#;

pub struct Page {
    name: &'static str,
    text: String,
}

impl Page {
    pub fn of(name: &'static str) -> Self {
        let text = fs::read_to_string(root().join(name)).unwrap();
        Self { name, text }
    }

    /// The block of this language under the heading that begins so, counted from 0.
    pub fn block(&self, heading: &str, language: &str, number: usize) -> &str {
        let what = || format!("{}: {language} block {number} of '{heading}'", self.name);
        let blocks = self.blocks(heading, language);
        blocks
            .get(number)
            .copied()
            .unwrap_or_else(|| panic!("{} is not there", what()))
    }

    fn blocks(&self, heading: &str, language: &str) -> Vec<&str> {
        let sections = self.text.split("\n## ").skip(1);
        let mut of_it = sections.filter(|section| section.starts_with(heading));
        let section = of_it
            .next()
            .unwrap_or_else(|| panic!("{} has no section '{heading}'", self.name));
        assert!(of_it.next().is_none(), "{}: two sections '{heading}'", self.name);
        let fence = format!("```{language}\n");
        let blocks = section.split(fence.as_str()).skip(1);
        blocks
            .map(|rest| rest.split("```").next().unwrap_or(rest))
            .collect()
    }

    /// No block was forgotten.
    pub fn has_only(&self, language: &str, counted: &[(&str, usize)]) {
        let all = self.text.matches(&format!("```{language}\n")).count();
        for (heading, number) in counted {
            let found = self.blocks(heading, language).len();
            assert_eq!(found, *number, "{}: {language} blocks of '{heading}'", self.name);
        }
        let sum: usize = counted.iter().map(|(_, number)| number).sum();
        assert_eq!(sum, all, "{}: all its {language} blocks", self.name);
    }
}

/// The page's text for the namespace of this test.
pub fn here(place: &Place, text: &str) -> String {
    text.replace("psql-namespace", &place.namespace)
}

/// Runs a block in this folder; gives what it prints.
pub fn paste(place: &Place, folder: &Path, block: &str) -> String {
    let script = format!("{SHELL}{}", here(place, block));
    let kubectl = std::env::var("PGBATON_KUBECTL").unwrap_or_else(|_| "kubectl".to_owned());
    let out = Command::new("timeout")
        .args([BLOCK, "bash", "-c", &script])
        .current_dir(folder)
        .env("PGBATON_KUBECTL", kubectl)
        .env("PGBATON", pgbaton())
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&out.stdout).into_owned();
    let wrong = String::from_utf8_lossy(&out.stderr).into_owned();
    assert!(out.status.success(), "{}: {block}\n{said}\n{wrong}", out.status);
    said
}
