//! docs/runbook.md misses nothing: every phase, every `why`, every Event.

#![allow(clippy::unwrap_used, reason = "tests")]

use std::collections::BTreeSet;
use std::path::Path;

use pgbaton::core::action::ClaimEvidence;
use pgbaton::core::adoption::Adoption;
use pgbaton::core::proof::{NoProof, Proof};
use pgbaton::core::types::{Lsn, MemberName, Millis, SystemId, Term};
use pgbaton::core::why::{RejoinWay, StepDown, Why};

/// `action` of the Events: words beside the reasons in src/runtime/events.rs.
const ACTIONS: [&str; 18] = [
    "Adopt",
    "Archive",
    "Ask",
    "Claim",
    "Compare",
    "Follow",
    "Initialise",
    "Look",
    "Patch",
    "Probe",
    "Promote",
    "Rejoin",
    "Replicate",
    "Restart",
    "Start",
    "StepDown",
    "Wait",
    "Write",
];
/// What a section of something that can ask for a person has.
const PARTS: [&str; 3] = ["**pgbaton:** ", "**You:** ", "**Not:** "];

fn read(path: &str) -> String {
    std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(path)).unwrap()
}

fn runbook() -> String {
    read("docs/runbook.md")
}

/// The section under `### NAME`; none: there is none.
fn section<'a>(page: &'a str, name: &str) -> Option<&'a str> {
    let rest = page.split_once(&format!("\n### {name}\n"))?.1;
    Some(rest.split("\n#").next().unwrap_or(rest))
}

fn has_row(page: &str, name: &str) -> bool {
    page.lines()
        .any(|line| line.starts_with(&format!("| {name} |")) && line.matches('|').count() > 2)
}

fn snake_case(name: &str) -> String {
    let mut snake = String::new();
    for letter in name.chars() {
        if letter.is_ascii_uppercase() && !snake.is_empty() {
            snake.push('_');
        }
        snake.push(letter.to_ascii_lowercase());
    }
    snake
}

/// Names of an enum's variants, as serde writes them. Relies on rustfmt: variants are indented by four spaces.
fn variants(source: &str, name: &str) -> BTreeSet<String> {
    let body = source.split_once(&format!("pub enum {name} {{\n")).unwrap().1;
    let body = body.split("\n}").next().unwrap();
    let lines = body.lines().filter_map(|line| line.strip_prefix("    "));
    let names = lines.filter(|line| line.starts_with(|c: char| c.is_ascii_uppercase()));
    names
        .map(|line| snake_case(line.split(|c: char| !c.is_ascii_alphanumeric()).next().unwrap()))
        .collect()
}

fn code(why: &Why) -> String {
    let value = serde_json::to_value(why).unwrap();
    value["code"].as_str().unwrap().to_owned()
}

fn name(text: &str) -> MemberName {
    text.parse().unwrap()
}

/// One of each.
fn all() -> Vec<Why> {
    let mut all = of_a_leader();
    all.extend(of_a_takeover());
    all.extend(of_anybody());
    all
}

fn of_a_leader() -> Vec<Why> {
    let text = String::new;
    vec![
        Why::Leading,
        Why::ChangingSyncSet {
            to: text(),
            waiting_for: text(),
        },
        Why::ServerStarting,
        Why::ServerUnhealthy { for_ms: 1_000 },
        Why::ServerFull,
        Why::VolumeFull {
            free: 1,
            nobody_because: text(),
        },
        Why::LoginFailed { text: text() },
        Why::RecoveryNotFlushed {
            position: Lsn(1),
            k: 1,
        },
        Why::RestartInPlace {
            nobody_because: text(),
        },
        Why::HandingOver {
            to: None,
            reason: StepDown::ServerDied,
        },
    ]
}

fn of_a_takeover() -> Vec<Why> {
    let (to, missing) = (name("postgres-1"), NoProof::EmptySet);
    vec![
        Why::Claiming {
            evidence: ClaimEvidence::Expired,
        },
        Why::CollectingPledges { missing: None },
        Why::Installing {
            proof: Proof::Quorums,
        },
        Why::Promoting,
        Why::NoProofInTime {
            missing: missing.clone(),
        },
        Why::HandingToTheOneAhead { to: to.clone() },
        Why::HandingToAnother { to, missing },
        Why::Pledged { term: Term(1) },
        Why::NotTakingOver {
            because: String::new(),
        },
        Why::WaitingForExpiry { remaining: Millis(1) },
        Why::Paused,
    ]
}

fn of_anybody() -> Vec<Why> {
    let (primary, text, for_ms) = (name("postgres-1"), String::new, 1_000);
    vec![
        Why::NoLeaseSeenYet,
        Why::GuardNotHeard,
        Why::GuardSilent { for_ms },
        Why::LeaseAbsent,
        Why::LeaseDamaged { how: text() },
        Why::LeaseBehind {
            term: Term(1),
            leader: primary.clone(),
            leads: Term(2),
        },
        Why::Adoption(Adoption::Looking),
        Why::WritingRecordBack { how: text() },
        Why::ForeignData {
            ours: SystemId(1),
            cluster: SystemId(2),
        },
        Why::WaitingForFirstPrimary,
        Why::AnotherMarkedFirst { by: text() },
        Why::Initialising,
        Why::Following {
            primary: primary.clone(),
        },
        Why::NotStreaming {
            primary: primary.clone(),
            for_ms,
        },
        Why::Rejoining {
            way: RejoinWay::Rewind,
            primary,
            position: None,
            failed: None,
        },
        Why::RejoinFailed { error: text() },
    ]
}

#[test]
fn every_reason_is_in_the_runbook() {
    let (page, all) = (runbook(), all());
    let codes: BTreeSet<String> = all.iter().map(code).collect();
    let written = variants(&read("src/core/why.rs"), "Why");
    assert_eq!(codes, written, "one of each in `all`");
    let mut missing = Vec::new();
    for why in &all {
        let code = format!("`{}`", code(why));
        if !why.needs_person() {
            if !has_row(&page, &code) {
                missing.push(format!("a row '| {code} | ... |'"));
            }
            continue;
        }
        let Some(section) = section(&page, &code) else {
            missing.push(format!("a section '### {code}'"));
            continue;
        };
        for part in PARTS.iter().filter(|part| !section.contains(**part)) {
            missing.push(format!("'{part}' under '### {code}'"));
        }
    }
    assert!(
        missing.is_empty(),
        "docs/runbook.md lacks\n{}",
        missing.join("\n")
    );
}

#[test]
fn every_phase_is_in_the_runbook() {
    let page = runbook();
    let phases = variants(&read("src/core/phase.rs"), "Phase");
    assert!(phases.len() > 10, "{phases:?}");
    for phase in phases {
        assert!(
            has_row(&page, &format!("`{phase}`")),
            "no row '| `{phase}` | ... |'"
        );
    }
}

/// Words in quotes that begin with a capital and are one word: reasons and actions of Events.
fn event_words(source: &str) -> BTreeSet<&str> {
    let code = source.split("#[cfg(test)]").next().unwrap();
    let is_word = |text: &&str| {
        text.len() > 2
            && text.starts_with(|c: char| c.is_ascii_uppercase())
            && text.chars().all(|c| c.is_ascii_alphabetic())
    };
    code.lines()
        .flat_map(|line| line.split('"').skip(1).step_by(2))
        .filter(is_word)
        .collect()
}

#[test]
fn every_event_is_in_the_runbook() {
    let (page, source) = (runbook(), read("src/runtime/events.rs"));
    let reasons: BTreeSet<&str> = event_words(&source)
        .into_iter()
        .filter(|word| !ACTIONS.contains(word))
        .collect();
    assert!(reasons.len() > 15, "{reasons:?}");
    for reason in reasons {
        assert!(
            has_row(&page, &format!("`{reason}`")),
            "no row '| `{reason}` | ... |'"
        );
    }
}

#[test]
fn the_scanner_sees_what_is_missing() {
    let page = "\n### `one`\n\n**You:** look.\n\n### `two`\ntext\n## Rows\n| `three` | it is |\n";
    assert!(section(page, "`one`").unwrap().contains("**You:** "));
    assert!(!section(page, "`two`").unwrap().contains("Rows"));
    assert!(section(page, "`three`").is_none() && has_row(page, "`three`") && !has_row(page, "`one`"));
    let source = "/// X.\npub enum Why {\n    /// A.\n    NotSo {\n        /// B.\n        Field: u8,\n    },\n    Two,\n}\n";
    let found: Vec<String> = variants(source, "Why").into_iter().collect();
    assert_eq!(found, ["not_so", "two"]);
    let words = event_words("(\"NoProof\", \"Claim\", \"two words\", \"lower\")\n#[cfg(test)]\n\"Hidden\"");
    assert_eq!(words.into_iter().collect::<Vec<_>>(), ["Claim", "NoProof"]);
}
