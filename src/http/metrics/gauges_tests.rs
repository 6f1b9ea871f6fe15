//! Gauges, by what they are set from.

use super::*;
use crate::core::probe::{Archive, Receiver, ServerView, Slot, StandbyView};
use crate::core::types::{Lsn, SystemId, Timeline};
use crate::http::status::tests::example;

fn scraped(set: impl Fn(&Gauges)) -> String {
    let gauges = Gauges::default();
    let mut registry = Registry::default();
    gauges.register(&mut registry);
    set(&gauges);
    let mut text = String::new();
    prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
    text
}

fn has(text: &str, lines: &[&str]) {
    for line in lines {
        assert!(text.lines().any(|l| l == *line), "{line} is not in\n{text}");
    }
}

fn server() -> ServerView {
    ServerView {
        system_identifier: SystemId(7),
        server_version_num: 150_018,
        timeline: Timeline(1),
        postmaster_start_unix_ms: 0,
        warnings: Vec::new(),
        fresh: true,
    }
}

fn standby(status: &str, lag_ms: Option<i64>) -> Probe {
    Probe::Standby(StandbyView {
        server: server(),
        receive_lsn: Some(Lsn(2)),
        replay_lsn: Some(Lsn(1)),
        replay_paused: false,
        receiver: Some(Receiver {
            pid: 1,
            status: status.to_owned(),
            host: None,
            port: None,
            slot: None,
            received_tli: None,
            flushed_lsn: None,
            latest_end_lsn: None,
            message_age_ms: None,
        }),
        conninfo_set: true,
        names: String::new(),
        lag_ms,
    })
}

fn slot(active: bool, wal_status: &str, retained: i64) -> Slot {
    Slot {
        name: "s".to_owned(),
        physical: true,
        temporary: false,
        active,
        restart_lsn: None,
        wal_status: Some(wal_status.to_owned()),
        retained_bytes: Some(retained),
    }
}

fn primary(slots: Vec<Slot>, failed_at: Option<i64>) -> Probe {
    Probe::Primary(PrimaryView {
        server: server(),
        insert_lsn: Lsn(1),
        flush_lsn: Lsn(1),
        names: String::new(),
        replication: Vec::new(),
        slots,
        archive: Archive {
            on: true,
            failed_count: 1,
            last_failed_wal: None,
            last_failed_unix_ms: failed_at,
            last_archived_unix_ms: Some(5),
        },
        health_write_ms: None,
        read_only: false,
    })
}

#[test]
fn lag_in_seconds_is_known_only_while_the_standby_streams() {
    let text = scraped(|g| g.show_server(Some(&standby("streaming", Some(1_500)))));
    has(&text, &["replication_streaming 1", "replication_lag_seconds 1.5"]);
    let text = scraped(|g| g.show_server(Some(&standby("waiting", Some(0)))));
    has(&text, &["replication_streaming 0", "replication_lag_seconds NaN"]);
    let text = scraped(|g| g.show_server(None));
    has(&text, &["replication_lag_seconds NaN"]);
    let text = scraped(|g| g.show_server(Some(&primary(Vec::new(), None))));
    has(&text, &["replication_streaming 0", "replication_lag_seconds 0.0"]);
}

#[test]
fn archive_and_slots_are_told_by_a_primary() {
    let slots = vec![
        slot(true, "reserved", 900),
        slot(false, "extended", 400),
        slot(false, "reserved", 300),
        slot(false, "lost", 5_000),
    ];
    let text = scraped(|g| g.show_server(Some(&primary(slots.clone(), Some(6)))));
    has(
        &text,
        &[
            "archive_failing 1",
            "slot_retained_bytes 400.0",
            "slots_idle 2",
            "slots_lost 1",
        ],
    );
    let text = scraped(|g| g.show_server(Some(&primary(Vec::new(), Some(4)))));
    has(&text, &["archive_failing 0", "slot_retained_bytes 0.0"]);
    let text = scraped(|g| g.show_server(Some(&standby("streaming", None))));
    has(&text, &["archive_failing 0", "slots_idle 0"]);
}

/// Each obstacle from a page, in the order in which they hide each other.
#[test]
fn why_a_takeover_would_not_succeed_has_one_word() {
    let mut page = example();
    assert_eq!(obstacle(&page), None);
    page.could_fail_over.answer.yes = false;
    page.could_fail_over.told_by = Some("postgres-2".parse().unwrap());
    let members = page.record.as_ref().unwrap().members.len();
    let alone = if members < 2 {
        Obstacle::no_other_member
    } else {
        Obstacle::no_fit_member
    };
    assert_eq!(obstacle(&page), Some(alone));
    let record = page.record.as_mut().unwrap();
    let mut second = record.members[0].clone();
    second.member = "postgres-9".parse().unwrap();
    record.members.push(second);
    assert_eq!(obstacle(&page), Some(Obstacle::no_fit_member));
    page.could_fail_over.told_by = None;
    page.lease.holder = Some("postgres-9_other".to_owned());
    assert_eq!(obstacle(&page), Some(Obstacle::leader_gone));
    page.lease.holder = Some(format!("{}_{}", page.member, page.pod_uid));
    assert_eq!(obstacle(&page), Some(Obstacle::no_fit_member));
    page.could_fail_over.stale = true;
    assert_eq!(obstacle(&page), Some(Obstacle::no_word));
    page.record.as_mut().unwrap().paused = true;
    assert_eq!(obstacle(&page), Some(Obstacle::paused));
    let text = scraped(|g| g.show(&page));
    has(
        &text,
        &[
            "failover_possible 0",
            "failover_obstacle{reason=\"paused\"} 1",
            "failover_obstacle{reason=\"no_word\"} 0",
        ],
    );
    page.record = None;
    page.lease.age_ms = Some(1);
    assert_eq!(obstacle(&page), Some(Obstacle::no_record));
    page.lease.age_ms = None;
    assert_eq!(obstacle(&page), Some(Obstacle::lease_not_seen));
}

#[test]
fn what_is_not_known_is_no_number() {
    let mut page = example();
    page.guard = None;
    page.postgres.lag_bytes = None;
    page.lease.contact_age_ms = None;
    let text = scraped(|g| g.show(&page));
    has(
        &text,
        &[
            "disk_free_bytes NaN",
            "disk_size_bytes NaN",
            "replication_lag_bytes NaN",
            "api_contact_age_seconds NaN",
            "permit_remaining_seconds 0.0",
        ],
    );
}

#[test]
fn versions_compare_as_numbers() {
    for (text, number) in [
        ("0.1.0", 1_000),
        ("0.10.2", 10_002),
        ("1.0.0", 1_000_000),
        ("1.2.3-rc1", 1_002_003),
        ("odd", 0),
    ] {
        assert_eq!(version_number(text), number, "{text}");
    }
}
