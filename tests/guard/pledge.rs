//! Pledges, positions and promotions (invariants 4, 5, 8).
use std::fs;
use std::time::Instant;

use crate::rig::{Rig, wait_for};
use nix::sys::signal::Signal;
use pgbaton::core::types::{Lsn, Position, Term, Timeline};
use pgbaton::guard::protocol::{Answer, DownReason, Order, Refusal, Server};

fn cause(answer: &Answer) -> Option<Refusal> {
    match answer {
        Answer::Refused { cause, .. } => Some(*cause),
        _ => None,
    }
}

/// The last record by pg_waldump's eyes.
fn dumped(rig: &Rig, timeline: u32) -> String {
    crate::rig::waldump(
        &rig.pgdata(),
        timeline,
        &rig.control("Latest checkpoint's REDO location"),
    )
}

fn caught_up(primary: &Rig, standby: &Rig) {
    let flush = primary.sql("select pg_current_wal_flush_lsn()");
    wait_for("the standby to catch up", || {
        let out = standby.psql(&format!("select pg_last_wal_replay_lsn() >= '{flush}'"));
        out.stdout.starts_with(b"t").then_some(())
    });
}

#[test]
fn a_standby_that_pledged_receives_nothing_more() {
    let primary = Rig::primary();
    let mut standby = Rig::standby_of(&primary, 1);
    primary.sql("insert into t values (1)");
    caught_up(&primary, &standby);
    let hint: Lsn = standby.sql("select pg_last_wal_receive_lsn()").parse().unwrap();
    // Worst case: replay stands still, so the startup process does not end its receiver by itself.
    standby.sql("select pg_wal_replay_pause()");
    primary.sql("insert into t select generate_series(1, 1000)");
    let began = Instant::now();
    let status = standby.must(2, Order::Pledge { hint: Some(hint) });
    eprintln!(
        "pledge of a standby with paused replay: {} ms",
        began.elapsed().as_millis()
    );
    let pledge = status.pledge.clone().unwrap();
    assert_eq!(pledge.term, Term(2));
    let position = pledge.position.unwrap();
    assert_eq!(position.timeline, Timeline(1));
    assert!(standby.titled("walreceiver").is_empty());
    assert!(position.last_record.0 + 1000 > hint.0);
    assert_eq!(status.following, None);
    primary.sql("insert into t select generate_series(1, 1000)");
    standby.sql("select pg_wal_replay_resume()");
    // Nothing of the old term any more.
    let end = |rig: &Rig| pgbaton::guard::wal::end_of_wal(&rig.pgdata(), None).unwrap();
    let late = standby.stamp(1);
    let follow = Order::Follow {
        upstream: primary.upstream("late"),
        slot: "slot".to_owned(),
        synchronous_standby_names: "x".to_owned(),
    };
    assert_eq!(
        cause(&standby.ask(&crate::rig::request(follow, Some(late)))),
        Some(Refusal::OldTerm)
    );
    standby.sql("select pg_reload_conf()");
    for _ in 0..20 {
        std::thread::sleep(std::time::Duration::from_millis(50));
        assert!(standby.titled("walreceiver").is_empty());
    }
    assert_eq!(end(&standby), position);
    // The same again answers the same; a restart of the guard forgets the position, not the pledge.
    assert_eq!(
        standby.must(2, Order::Pledge { hint: None }).pledge,
        Some(pledge.clone())
    );
    standby.kill_guard();
    wait_for("the server's end", || {
        standby.server_processes().is_empty().then_some(())
    });
    standby.start();
    let after = standby.status();
    assert_eq!(after.pledge.unwrap().term, Term(2));
    assert_eq!(after.highest_term, Term(2));
    let again = standby.must(2, Order::Pledge { hint: Some(hint) });
    assert_eq!(again.pledge, Some(pledge));
    // In its own term the new primary is followed.
    standby.follow(&primary, 2);
    caught_up(&primary, &standby);
}

#[test]
fn a_pledge_with_the_upstream_gone_is_quick_and_complete() {
    let mut primary = Rig::primary();
    let mut standby = Rig::standby_of(&primary, 1);
    let mut writers = primary.writers();
    wait_for("rows", || {
        (primary.sql("select count(*) from t") != "0").then_some(())
    });
    Rig::signal(primary.postmaster(), Signal::SIGKILL);
    writers.wait().unwrap();
    let began = Instant::now();
    let position = standby
        .must(2, Order::Pledge { hint: None })
        .pledge
        .unwrap()
        .position
        .unwrap();
    eprintln!(
        "pledge of a standby without upstream: {} ms",
        began.elapsed().as_millis()
    );
    assert_eq!(position.last_record.to_string(), dumped(&standby, 1));
    // The primary pledges as well: down, its WAL is read.
    let theirs = primary.must(2, Order::Pledge { hint: None });
    let rest = theirs.rest.clone().unwrap();
    assert_eq!(theirs.pledge.unwrap().position, Some(rest.position));
    assert!(!rest.clean);
    assert!(position.last_record <= rest.position.last_record);
    let refused = primary.order(
        1,
        Order::Permit {
            deadline_boot_ms: pgbaton::guard::clock::boot_ms() + 5000,
        },
    );
    assert_eq!(cause(&refused), Some(Refusal::OldTerm));
}

#[test]
fn a_pledge_ends_a_running_primary() {
    let mut primary = Rig::primary();
    let mut writers = primary.writers();
    wait_for("rows", || {
        (primary.sql("select count(*) from t") != "0").then_some(())
    });
    let began = Instant::now();
    let status = primary.must(4, Order::Pledge { hint: None });
    eprintln!(
        "pledge of a primary under load: {} ms",
        began.elapsed().as_millis()
    );
    assert!(primary.server_processes().is_empty());
    writers.wait().unwrap();
    assert_eq!(status.permit, None);
    assert!(matches!(
        status.server,
        Server::Down {
            reason: DownReason::Stopped,
            ..
        }
    ));
    assert!(primary.pgdata().join("standby.signal").exists());
    let position = status.pledge.unwrap().position.unwrap();
    assert_eq!(position.last_record.to_string(), dumped(&primary, 1));
    primary.permit(4, 120_000);
    let promote = primary.order(
        4,
        Order::Promote {
            timeline: Timeline(2),
        },
    );
    assert_eq!(cause(&promote), Some(Refusal::WrongState));
}

#[test]
fn a_frozen_standby_pledges_by_being_ended() {
    let primary = Rig::primary();
    let mut standby = Rig::standby_of(&primary, 1);
    for pid in standby.server_processes() {
        Rig::signal(pid, Signal::SIGSTOP);
    }
    let status = standby.must(2, Order::Pledge { hint: None });
    assert!(matches!(status.server, Server::Down { .. }));
    assert!(status.pledge.unwrap().position.is_some());
    assert!(standby.server_processes().is_empty());
}

#[test]
fn a_promotion_takes_the_number_that_it_is_told() {
    let mut primary = Rig::primary();
    let mut standby = Rig::standby_of(&primary, 1);
    let mut third = Rig::standby_of(&primary, 1);
    primary.sql("insert into t values (1)");
    caught_up(&primary, &standby);
    primary.must(
        1,
        Order::Stop {
            fast_ms: 20_000,
            hint: None,
        },
    );
    let rest = primary.status().rest.unwrap().position;

    standby.permit(2, 120_000);
    let early = standby.order(
        2,
        Order::Promote {
            timeline: Timeline(4),
        },
    );
    assert_eq!(cause(&early), Some(Refusal::NotPermitted), "no pledge yet");
    let held = standby
        .must(2, Order::Pledge { hint: None })
        .pledge
        .unwrap()
        .position
        .unwrap();
    assert_eq!(held, rest, "a clean stop sent all of it");
    let began = Instant::now();
    let status = standby.must(
        2,
        Order::Promote {
            timeline: Timeline(4),
        },
    );
    eprintln!("promotion: {} ms", began.elapsed().as_millis());
    assert_eq!(status.server, Server::Primary);
    standby.sql("insert into t values (2)");
    assert_eq!(
        standby.sql("show synchronous_standby_names"),
        "ANY 1 (\"nobody\")"
    );
    assert!(
        standby
            .sql("select pg_walfile_name(pg_current_wal_lsn())")
            .starts_with("00000004")
    );
    for barred in ["00000002.history", "00000003.history"] {
        let file = standby.pgdata().join("pg_wal").join(barred);
        assert_eq!(fs::metadata(file).unwrap().len(), 0);
    }
    assert!(!standby.pgdata().join("promote").exists());

    // The old primary follows; so does the third, across the switch in the middle of a segment.
    primary.follow(&standby, 2);
    third.follow(&standby, 2);
    for follower in [&primary, &third] {
        caught_up(&standby, follower);
        assert_eq!(follower.sql("select count(*) from t"), "2");
    }
    // WAL held is the new timeline's once there is some of it, and read the same by all.
    standby.sql("insert into t values (3)");
    caught_up(&standby, &third);
    let at = third
        .must(3, Order::Pledge { hint: None })
        .pledge
        .unwrap()
        .position
        .unwrap();
    assert_eq!(at.timeline, Timeline(4));
    third.sql("checkpoint");
    assert_eq!(at.last_record.to_string(), dumped(&third, 4));
    assert!(at.last_record > held.last_record);
    let status = standby.must(3, Order::Pledge { hint: None });
    assert!(at.pair() <= status.pledge.unwrap().position.unwrap().pair());

    // And promoted once more: numbers used before are refused.
    third.permit(3, 120_000);
    let used = third.order(
        3,
        Order::Promote {
            timeline: Timeline(4),
        },
    );
    assert_eq!(cause(&used), Some(Refusal::WrongState));
    third.must(
        3,
        Order::Promote {
            timeline: Timeline(5),
        },
    );
    third.sql("insert into t values (4)");
}

trait Compare {
    fn pair(&self) -> (u32, Lsn);
}

impl Compare for Position {
    fn pair(&self) -> (u32, Lsn) {
        (self.timeline.0, self.last_record)
    }
}

#[test]
fn a_history_file_alone_holds_no_wal() {
    let mut primary = Rig::primary();
    let mut standby = Rig::standby_of(&primary, 1);
    primary.sql("insert into t values (1)");
    caught_up(&primary, &standby);
    let history = standby.pgdata().join("pg_wal/00000002.history");
    fs::write(&history, "1\t0/2000000\tno recovery target specified\n").unwrap();
    let held = standby
        .must(2, Order::Pledge { hint: None })
        .pledge
        .unwrap()
        .position
        .unwrap();
    assert_eq!(held.timeline, Timeline(1));
    primary.must(
        1,
        Order::Stop {
            fast_ms: 20_000,
            hint: None,
        },
    );
    assert!(held.pair() <= primary.status().rest.unwrap().position.pair());
}
