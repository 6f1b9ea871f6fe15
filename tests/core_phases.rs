//! The table of transitions: complete, without doubles, and shown in docs/transitions.md (`UPDATE=1` writes it anew).

#![allow(clippy::unwrap_used, reason = "tests")]

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use pgbaton::core::action::ClaimEvidence;
use pgbaton::core::adoption::{Adoption, Obstacle};
use pgbaton::core::phase::{Phase, TRANSITIONS, allowed};
use pgbaton::core::proof::{NoProof, Proof};
use pgbaton::core::types::{Lsn, MemberName, Millis, Position, SystemId, Term, Timeline};
use pgbaton::core::why::{RejoinWay, StepDown, Why};

const PHASES: [Phase; 12] = [
    Phase::Starting,
    Phase::Damaged,
    Phase::Uninitialised,
    Phase::Initialising,
    Phase::Adopting,
    Phase::Leading,
    Phase::HandingOver,
    Phase::Taking,
    Phase::Following,
    Phase::Pledged,
    Phase::Rejoining,
    Phase::Stranded,
];

fn member(name: &str) -> MemberName {
    name.parse().unwrap()
}

/// Numbers the reasons: a new one does not compile until it is told here, and is missed until it has an example.
fn number(why: &Why) -> usize {
    match why {
        Why::NoLeaseSeenYet => 0,
        Why::GuardNotHeard => 1,
        Why::GuardSilent { .. } => 2,
        Why::LeaseAbsent => 3,
        Why::LeaseDamaged { .. } => 4,
        Why::WritingRecordBack { .. } => 5,
        Why::ForeignData { .. } => 6,
        Why::WaitingForFirstPrimary => 7,
        Why::Initialising => 8,
        Why::Leading => 9,
        Why::ChangingSyncSet { .. } => 10,
        Why::ServerStarting => 11,
        Why::ServerUnhealthy { .. } => 12,
        Why::RestartInPlace { .. } => 13,
        Why::Claiming { .. } => 14,
        Why::CollectingPledges { .. } => 15,
        Why::Installing { .. } => 16,
        Why::Promoting => 17,
        Why::NoProofInTime { .. } => 18,
        Why::HandingToTheOneAhead { .. } => 19,
        Why::HandingOver { .. } => 20,
        Why::Pledged { .. } => 21,
        Why::Following { .. } => 22,
        Why::NotStreaming { .. } => 23,
        Why::Rejoining { .. } => 24,
        Why::RejoinFailed { .. } => 25,
        Why::NotTakingOver { .. } => 26,
        Why::WaitingForExpiry { .. } => 27,
        Why::Paused => 28,
        Why::HandingToAnother { .. } => 29,
        Why::ServerFull => 30,
        Why::LoginFailed { .. } => 31,
        Why::RecoveryNotFlushed { .. } => 32,
        Why::AnotherMarkedFirst { .. } => 33,
        Why::Adoption(_) => 34,
        Why::LeaseBehind { .. } => 35,
        Why::VolumeFull { .. } => 36,
    }
}

/// An example of each reason of a leader, or before there is one.
fn reasons_to_lead() -> Vec<Why> {
    let how = || "it carries no record".to_owned();
    vec![
        Why::NoLeaseSeenYet,
        Why::GuardNotHeard,
        Why::GuardSilent { for_ms: 1200 },
        Why::LeaseAbsent,
        Why::LeaseDamaged { how: how() },
        Why::WritingRecordBack { how: how() },
        Why::ForeignData {
            ours: SystemId(1),
            cluster: SystemId(2),
        },
        Why::WaitingForFirstPrimary,
        Why::Initialising,
        Why::Leading,
        Why::ChangingSyncSet {
            to: "ANY 1 (\"postgres_2_…\")".to_owned(),
            waiting_for: "the record".to_owned(),
        },
        Why::ServerStarting,
        Why::ServerUnhealthy { for_ms: 1200 },
        Why::RestartInPlace {
            nobody_because: "there is no other member".to_owned(),
        },
    ]
}

/// An example of each reason of the others.
fn reasons_to_follow() -> Vec<Why> {
    let primary = || member("postgres-1");
    let position = Some(Position {
        timeline: Timeline(2),
        last_record: Lsn(0x0300_0060),
    });
    vec![
        Why::Claiming {
            evidence: ClaimEvidence::Expired,
        },
        Why::CollectingPledges {
            missing: Some(NoProof::CandidateNotPledged),
        },
        Why::Installing {
            proof: Proof::Quorums,
        },
        Why::Promoting,
        Why::NoProofInTime {
            missing: NoProof::EmptySet,
        },
        Why::HandingToTheOneAhead {
            to: member("postgres-3"),
        },
        Why::HandingOver {
            to: Some(member("postgres-2")),
            reason: StepDown::PodEnds,
        },
        Why::Pledged { term: Term(7) },
        Why::Following { primary: primary() },
        Why::NotStreaming {
            primary: primary(),
            for_ms: 1200,
        },
        Why::Rejoining {
            way: RejoinWay::Rewind,
            primary: primary(),
            position,
            failed: Some("pg_rewind from postgres-1 failed (exit status 1)".to_owned()),
        },
        Why::RejoinFailed {
            error: "no space left on device".to_owned(),
        },
        Why::NotTakingOver {
            because: "postgres-3 goes first".to_owned(),
        },
        Why::WaitingForExpiry {
            remaining: Millis(4200),
        },
        Why::Paused,
        Why::HandingToAnother {
            to: member("postgres-3"),
            missing: NoProof::ServerNotReady,
        },
    ]
}

/// An example of each reason that asks for a person's look at a leader or at settings.
fn reasons_to_look() -> Vec<Why> {
    vec![
        Why::ServerFull,
        Why::LoginFailed {
            text: "password authentication failed for user \"postgres\"".to_owned(),
        },
        Why::RecoveryNotFlushed {
            position: Lsn(0x0300_0060),
            k: 1,
        },
        Why::AnotherMarkedFirst {
            by: "postgres-1_5f2a".to_owned(),
        },
        Why::Adoption(Adoption::FollowsPlain {
            primary: member("postgres-1"),
            next: Some("postgres-3-0".to_owned()),
        }),
        Why::LeaseBehind {
            term: Term(3),
            leader: member("postgres-2"),
            leads: Term(4),
        },
        Why::VolumeFull {
            free: 4_096,
            nobody_because: "postgres-2: its volume has only 8192 bytes left".into(),
        },
    ]
}

/// Every stage of an adoption; a new one does not compile until it is told here.
fn stages() -> Vec<Adoption> {
    let primary = || member("postgres-1");
    let why = || "its name postgres-2 leads nowhere: no pod of it runs".to_owned();
    let all = vec![
        Adoption::Looking,
        Adoption::CannotLook {
            why: "the right to list StatefulSets in namespace default is missing".to_owned(),
        },
        Adoption::FollowsPlain {
            primary: primary(),
            next: None,
        },
        Adoption::FollowsPlain {
            primary: primary(),
            next: Some("postgres-3-0".to_owned()),
        },
        Adoption::NobodyWrites {
            asked: vec![primary(), member("postgres-3")],
            followed: Some("postgres-1".to_owned()),
        },
        Adoption::SeveralWrite {
            members: vec![primary(), member("postgres-3")],
        },
        Adoption::Installing,
        Adoption::Ordered,
        Adoption::PodEnds,
        Adoption::By {
            by: "postgres-1_5f2a".to_owned(),
        },
        Adoption::DataElsewhere {
            member: member("postgres-2"),
        },
        Adoption::NotAdopted { primary: primary() },
        Adoption::Joining { primary: primary() },
        Adoption::Waits {
            obstacle: Obstacle::Silent {
                member: member("postgres-2"),
                why: why(),
                scaled_down: false,
            },
        },
    ];
    for stage in &all {
        match stage {
            Adoption::Looking | Adoption::CannotLook { .. } | Adoption::FollowsPlain { .. } => {}
            Adoption::NobodyWrites { .. } | Adoption::SeveralWrite { .. } | Adoption::Waits { .. } => {}
            Adoption::Installing | Adoption::Ordered | Adoption::PodEnds | Adoption::By { .. } => {}
            Adoption::DataElsewhere { .. } | Adoption::NotAdopted { .. } | Adoption::Joining { .. } => {}
        }
    }
    all
}

/// Everything that stands against a primary's data, as above.
fn obstacles() -> Vec<Obstacle> {
    let m = || member("postgres-2");
    let all = vec![
        Obstacle::NotLooked,
        Obstacle::CannotLook {
            why: "the right to list StatefulSets in namespace default is missing".to_owned(),
        },
        Obstacle::OwnEndUnknown,
        Obstacle::TakesWrites { member: m() },
        Obstacle::Silent {
            member: m(),
            why: "connection refused".to_owned(),
            scaled_down: false,
        },
        Obstacle::Silent {
            member: m(),
            why: String::new(),
            scaled_down: true,
        },
        Obstacle::Foreign {
            member: m(),
            system_identifier: SystemId(2),
        },
        Obstacle::SecondPrimary { member: m() },
        Obstacle::Incomplete { member: m() },
        Obstacle::HoldsMore {
            member: m(),
            theirs: "0/3000060 on timeline 2".to_owned(),
        },
        Obstacle::EndUnknown { member: m() },
        Obstacle::Replicas {
            member: m(),
            replicas: 2,
        },
        Obstacle::LaterTerm { member: m() },
        Obstacle::Ordered { member: m() },
        Obstacle::Another {
            by: "postgres-2_77aa".to_owned(),
        },
        Obstacle::LastTry,
    ];
    for obstacle in &all {
        match obstacle {
            Obstacle::NotLooked | Obstacle::CannotLook { .. } | Obstacle::OwnEndUnknown => {}
            Obstacle::TakesWrites { .. } | Obstacle::Silent { .. } | Obstacle::Foreign { .. } => {}
            Obstacle::SecondPrimary { .. } | Obstacle::Incomplete { .. } | Obstacle::HoldsMore { .. } => {}
            Obstacle::EndUnknown { .. } | Obstacle::Replicas { .. } | Obstacle::LaterTerm { .. } => {}
            Obstacle::Ordered { .. } | Obstacle::Another { .. } | Obstacle::LastTry => {}
        }
    }
    all
}

fn tagged(value: &impl serde::Serialize, tag: &str) -> String {
    let value = serde_json::to_value(value).unwrap();
    value[tag].as_str().unwrap().to_owned()
}

fn reasons() -> Vec<Why> {
    let mut all = reasons_to_lead();
    all.extend(reasons_to_follow());
    all.extend(reasons_to_look());
    all
}

fn code(why: &Why) -> String {
    let value = serde_json::to_value(why).unwrap();
    value["code"].as_str().unwrap().to_owned()
}

fn rendered() -> String {
    let mut text = String::from(
        "# Phases and reasons\n\nMade from `src/core/phase.rs` and `src/core/why.rs` by `UPDATE=1 cargo test --release \
         --test core_phases`; the test fails when this page is stale.\n\n## Phases\n\n```mermaid\nstateDiagram-v2\n    \
         [*] --> Starting\n",
    );
    for t in TRANSITIONS {
        let _ = writeln!(text, "    {:?} --> {:?}", t.from, t.to);
    }
    text.push_str("```\n\n| from | to | when |\n| --- | --- | --- |\n");
    for t in TRANSITIONS {
        let _ = writeln!(text, "| {:?} | {:?} | {} |", t.from, t.to, t.when);
    }
    text.push_str("\n## Reasons\n\nEach with an example of its text.\n\n| code | text |\n| --- | --- |\n");
    for why in reasons() {
        let _ = writeln!(
            text,
            "| `{}` | {} |",
            code(&why),
            why.to_string().replace('|', "\\|")
        );
    }
    text.push_str(
        "\n## Adoption in place\n\nThe stages of `adoption` (`stage`), and what stands against a primary's data (`obstacle` of `waits`).\n\n\
         | stage or obstacle | text |\n| --- | --- |\n",
    );
    for stage in stages() {
        let _ = writeln!(text, "| `{}` | {stage} |", tagged(&stage, "stage"));
    }
    for obstacle in obstacles() {
        let _ = writeln!(
            text,
            "| `waits`: `{}` | {obstacle} |",
            tagged(&obstacle, "obstacle")
        );
    }
    text
}

#[test]
fn the_page_is_fresh() {
    let page = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/transitions.md");
    if std::env::var_os("UPDATE").is_some() {
        std::fs::write(page, rendered()).unwrap();
    }
    let written = std::fs::read_to_string(page).unwrap_or_default();
    assert!(
        written == rendered(),
        "docs/transitions.md is stale: UPDATE=1 cargo test --release --test core_phases"
    );
}

#[test]
fn every_phase_is_reachable_and_can_be_left() {
    let mut reached = BTreeSet::from([Phase::Starting]);
    for _ in PHASES {
        let next = TRANSITIONS
            .iter()
            .filter(|t| reached.contains(&t.from))
            .map(|t| t.to);
        let next: Vec<Phase> = next.collect();
        reached.extend(next);
    }
    assert_eq!(reached, BTreeSet::from(PHASES));
    for phase in PHASES {
        assert!(
            TRANSITIONS.iter().any(|t| t.from == phase),
            "{phase:?} is never left"
        );
        assert!(allowed(phase, phase) && (phase == Phase::Starting || allowed(phase, Phase::Starting)));
    }
}

#[test]
fn every_change_is_listed_once_and_explained() {
    let mut seen: BTreeMap<(Phase, Phase), &str> = BTreeMap::new();
    for t in TRANSITIONS {
        assert_ne!(t.from, t.to);
        assert!(!t.when.is_empty() && !t.when.contains('|'));
        assert!(
            seen.insert((t.from, t.to), t.when).is_none(),
            "{:?} to {:?} twice",
            t.from,
            t.to
        );
    }
}

#[test]
fn every_reason_has_its_own_code_and_a_text() {
    let all = reasons();
    let numbers: Vec<usize> = all.iter().map(number).collect();
    let in_order: Vec<usize> = (0..all.len()).collect();
    assert_eq!(numbers, in_order, "each reason has an example");
    let codes: BTreeSet<String> = all.iter().map(code).collect();
    assert_eq!(codes.len(), all.len());
    for why in &all {
        let text = why.to_string();
        assert!(text.len() > 4 && !text.contains('\n'), "{why:?}: {text}");
    }
}
