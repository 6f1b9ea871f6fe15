//! The page from what is seen.

use super::*;
use crate::core::observe::{LeaseView, SeenLease};
use crate::core::phase::Phase;
use crate::core::record::{HistoryEntry, SyncSet};
use crate::core::types::{Term, Timeline};
use crate::core::why::Why as Reason;
use crate::guard::protocol::{Permit, Server};
use crate::peers::People;
use crate::runtime::fixtures;

fn row(number: u8, flush: u64) -> ReplicationRow {
    ReplicationRow {
        pid: 1,
        name: fixtures::member(number).data().standby_name(),
        streaming: true,
        flush: Some(Lsn(flush)),
        sync_priority: 1,
        replied_at_ms: None,
    }
}

fn primary(rows: Vec<ReplicationRow>) -> ServerView {
    ServerView::Primary {
        insert: Lsn(0x400),
        timeline: Timeline(1),
        names: String::new(),
        rows,
        wrote: true,
    }
}

/// postgres-1 leads, its permit has 5 s left by its own clock.
fn leader() -> PeerReport {
    let mut status = fixtures::status(1, &Server::Primary);
    status.now_boot_ms = 70_000;
    status.permit = Some(Permit {
        term: Term(3),
        deadline_boot_ms: 75_000,
    });
    PeerReport {
        guard: Some(status),
        server: Some(primary(vec![row(2, 0x400), row(3, 0x3F0)])),
        ..fixtures::standby(1)
    }
}

fn lease(record: Record) -> SeenLease {
    fixtures::lease(record)
}

/// As postgres-2 sees the three.
fn standby_sees(record: Record) -> (Observation, Sight) {
    let mut seen = fixtures::seen(2, Server::Standby, lease(record));
    let mut old = fixtures::heard(leader());
    old.asked_at = Millis(fixtures::NOW.0 - 700);
    seen.peers.insert(fixtures::name(1), old);
    let mut sight = Sight::new();
    sight.guard = seen.guard.clone();
    sight.peers = seen.peers.clone();
    (seen, sight)
}

fn shown(seen: &Observation, sight: &Sight, said: Vec<Said>) -> ClusterView {
    let settings = fixtures::settings(2);
    let decision = fixtures::decision(
        Phase::Following,
        Reason::Following {
            primary: fixtures::name(1),
        },
    );
    let mut page = first_page(&settings);
    page.why.text = decision.why.to_string();
    page.lease.holder = Some("postgres-1_u1".to_owned());
    view(&settings, &page, seen, sight, said)
}

#[test]
fn each_member_is_told_with_the_age_of_its_word() {
    let (seen, mut sight) = standby_sees(fixtures::record(3));
    sight
        .peer_trouble
        .insert(fixtures::name(3), "connection refused".to_owned());
    let view = shown(&seen, &sight, Vec::new());
    let [one, two, three] = &view.members[..] else {
        unreachable!("three")
    };
    assert_eq!((one.role, one.age_ms), (Role::Primary, Some(700)));
    assert!(one.recorded_primary && one.holds_lease && !one.serves);
    // What was left when it said so, less the time since then.
    assert_eq!(one.permit_left_ms, Some(4_300));
    assert_eq!(one.endpoint.as_deref(), Some("127.0.0.11:8008"));
    assert!(two.serves && two.sync == Sync::Sync);
    // The primary tells the lag, and it is as old as its word.
    assert_eq!((two.lag_bytes, two.lag_age_ms), (Some(0), Some(700)));
    assert_eq!((three.role, three.age_ms), (Role::Unknown, None));
    assert_eq!(three.error.as_deref(), Some("connection refused"));
    assert_eq!(three.lag_bytes, Some(0x10));
}

#[test]
fn sets_history_and_the_leaders_reason_are_shown() {
    let mut record = fixtures::record(3);
    record.sync_sets.insert(
        0,
        SyncSet {
            k: 1,
            standbys: [fixtures::member(2).data()].into(),
        },
    );
    for term in 1..=20 {
        record.add_history(HistoryEntry {
            term: Term(term),
            member: fixtures::name(1),
            why: String::new(),
            at_unix_ms: 0,
            lsn: Lsn(0),
            phases: Vec::new(),
        });
    }
    let (seen, mut sight) = standby_sees(record);
    let told = People::new("leading", "leading", "all well", Vec::new());
    sight.people.insert(fixtures::name(1), told);
    let view = shown(&seen, &sight, Vec::new());
    let recorded = view.record.as_ref().unwrap();
    assert_eq!((recorded.k, recorded.former_sets), (1, 1));
    assert_eq!(recorded.standbys, [fixtures::name(2)]);
    assert_eq!(view.members[2].sync, Sync::Former);
    assert_eq!(
        (view.history.len(), view.history[0].term),
        (TERMS_SHOWN, Term(20))
    );
    assert_eq!(
        (view.why.text.as_str(), view.why_of),
        ("all well", fixtures::name(1))
    );
    // A leader that does not answer has no word now.
    sight.peer_trouble.insert(fixtures::name(1), "silent".to_owned());
    assert_eq!(shown(&seen, &sight, Vec::new()).why_of, fixtures::name(2));
}

#[test]
fn warnings_of_all_members_are_shown_once_and_bounded() {
    let (seen, mut sight) = standby_sees(fixtures::record(3));
    let said = |text: &str, see: &str| Said {
        text: text.to_owned(),
        see: see.to_owned(),
    };
    let told = vec![said("same", "volume_full"), said("theirs", "no such heading")];
    sight
        .people
        .insert(fixtures::name(1), People::new("leading", "leading", "", told));
    let view = shown(&seen, &sight, vec![said("same", "volume_full")]);
    let warnings: Vec<_> = view
        .warnings
        .iter()
        .map(|w| (w.text.as_str(), w.see.as_str()))
        .collect();
    assert_eq!(warnings, [("same", "volume_full"), ("theirs", LOOK_FIRST)]);
    let many = (0..100).map(|n| said(&n.to_string(), "volume_full")).collect();
    assert_eq!(shown(&seen, &sight, many).warnings.len(), WARNINGS_MAX);
}

#[test]
fn many_members_are_counted_and_not_all_shown() {
    let (seen, mut sight) = standby_sees(fixtures::record(3));
    for number in 1..=60 {
        let name: MemberName = format!("other-{number}").parse().unwrap();
        sight.peer_trouble.insert(name, "silent".to_owned());
    }
    let view = shown(&seen, &sight, Vec::new());
    assert_eq!(
        (view.members.len(), view.more_members),
        (MEMBERS_MAX, 63 - MEMBERS_MAX)
    );
}

#[test]
fn without_a_record_nothing_is_made_up() {
    let (mut seen, sight) = standby_sees(fixtures::record(3));
    seen.lease = LeaseView::Unknown;
    let view = shown(&seen, &sight, Vec::new());
    assert_eq!((view.record, view.history.len()), (None, 0));
    assert!(
        view.members
            .iter()
            .all(|m| m.sync == Sync::Unknown && !m.recorded_primary)
    );
    let first = first(&fixtures::settings(2));
    assert_eq!(first.view.members.len(), 1);
}
