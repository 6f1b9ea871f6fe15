//! Clones and rewinds: whole or not at all, at whichever step the guard dies (invariant 11).
use std::fs;
use std::time::{Duration, Instant};

use crate::rig::{REPLICA_PASSWORD, Rig, wait_for};
use pgbaton::core::types::{SystemId, Term, Timeline};
use pgbaton::guard::protocol::{Answer, DataState, Order, Refusal, Secret, Server};

fn stop(rig: &mut Rig, term: u64) {
    rig.must(
        term,
        Order::Stop {
            fast_ms: 20_000,
            hint: None,
        },
    );
}

/// Starts what is there as a standby of nobody and counts rows.
fn rows(rig: &mut Rig, term: u64) -> String {
    rig.must(
        term,
        Order::StandAlone {
            synchronous_standby_names: "x".to_owned(),
        },
    );
    rig.await_status("a standby", |s| s.server == Server::Standby);
    rig.sql("select count(*) from t")
}

#[test]
fn a_clone_becomes_a_new_member_that_follows() {
    let primary = Rig::primary();
    primary.sql("insert into t select generate_series(1, 1000)");
    primary.sql("alter system set primary_conninfo = 'host=x'");
    let mut standby = Rig::standby_of(&primary, 3);
    let status = standby.status();
    assert_eq!(status.data, DataState::Complete);
    assert_eq!(status.system_identifier, Some(primary.system_identifier()));
    assert_ne!(status.data_id, primary.status().data_id);
    assert_eq!(status.highest_term, Term(3));
    wait_for("the rows", || {
        (standby.psql("select count(*) from t").stdout == b"1000\n").then_some(())
    });
    let shown = standby.sql("show primary_conninfo");
    assert!(
        shown.contains("application_name='walreceiver_1'") && !shown.contains(REPLICA_PASSWORD),
        "{shown}"
    );
    assert_eq!(standby.titled("walreceiver").len(), 1);
    let passfile = standby.base().join("run/passfile");
    assert!(fs::read_to_string(&passfile).unwrap().contains("repl"));
    let mode = std::os::unix::fs::PermissionsExt::mode(&fs::metadata(&passfile).unwrap().permissions());
    assert_eq!(mode & 0o777, 0o600);
    assert!(!standby.base().join("run/passfile.clone").exists());
    for file in [
        "data/pgdata/postgresql.auto.conf",
        "data/pgbaton/postgresql.conf",
        "data/pgbaton/state.json",
        "log",
    ] {
        let text = fs::read_to_string(standby.base().join(file)).unwrap();
        assert!(
            !text.contains(REPLICA_PASSWORD) && !text.contains("wo'rd"),
            "{file}"
        );
    }
    // Over the old data again: a new life each time.
    let first = standby.status().data_id;
    standby.must(4, Order::Pledge { hint: None });
    stop(&mut standby, 4);
    // Its server has recovered the copy: from now on the end of its WAL says what it holds.
    let stopped = standby.status();
    assert!(!stopped.fresh_copy && stopped.rest.is_some(), "{stopped:?}");
    let order = standby.clone_order(&primary, 1);
    standby.must(4, order);
    assert_eq!(standby.await_operation(standby.sequence), None);
    let second = standby.status();
    assert!(second.fresh_copy && second.rest.is_none(), "{second:?}");
    assert_ne!(second.data_id, first);
    assert_eq!(
        (second.pledge, second.knows_term, second.highest_term),
        (None, false, Term(4))
    );
    assert!(!standby.base().join("data/pgdata.old").exists());
    assert_eq!(rows(&mut standby, 4), "1000");
}

#[test]
fn a_clone_that_is_not_what_was_wanted_changes_nothing() {
    let primary = Rig::primary();
    let mut standby = Rig::standby_of(&primary, 1);
    let data_id = standby.status().data_id;
    let running = standby.clone_order(&primary, 1);
    let answer = standby.order(1, running);
    assert!(
        matches!(
            answer,
            Answer::Refused {
                cause: Refusal::WrongState,
                ..
            }
        ),
        "{answer:?}"
    );
    stop(&mut standby, 1);
    let good = |rig: &Rig| match rig.clone_order(&primary, 1) {
        Order::Clone {
            upstream,
            system_identifier,
            ..
        } => (upstream, system_identifier),
        _ => unreachable!(),
    };
    let (upstream, system_identifier) = good(&standby);
    let mut wrong_password = upstream.clone();
    wrong_password.password = Secret("wrong-secret".to_owned());
    let order = |upstream, system_identifier, timeline, bytes, replace| Order::Clone {
        upstream,
        system_identifier,
        timeline: Timeline(timeline),
        bytes,
        replace,
        source_major: None,
        notes: Vec::new(),
    };
    for (order, says) in [
        (order(upstream.clone(), SystemId(7), 1, None, false), "wanted 7"),
        (
            order(upstream.clone(), system_identifier, 9, None, false),
            "wanted 9",
        ),
        (
            order(wrong_password, system_identifier, 1, None, false),
            "password authentication failed",
        ),
    ] {
        standby.must(1, order);
        let error = standby.await_operation(standby.sequence).unwrap();
        assert!(error.contains(says) && !error.contains("wrong-secret"), "{error}");
        assert_eq!(standby.status().data_id, data_id);
    }
    let huge = order(upstream, system_identifier, 1, Some(1 << 60), false);
    let answer = standby.order(1, huge);
    assert!(
        matches!(
            answer,
            Answer::Refused {
                cause: Refusal::NoSpace,
                ..
            }
        ),
        "{answer:?}"
    );
    assert_eq!(rows(&mut standby, 1), "0");
}

#[test]
fn a_clone_in_place_of_data_that_leaves_no_room() {
    let primary = Rig::primary();
    primary.sql("insert into t values (1)");
    let mut standby = Rig::standby_of(&primary, 1);
    stop(&mut standby, 1);
    let mut order = standby.clone_order(&primary, 1);
    if let Order::Clone { bytes, replace, .. } = &mut order {
        (*bytes, *replace) = (Some(1 << 60), true);
    }
    standby.must(1, order);
    assert_eq!(standby.await_operation(standby.sequence), None);
    assert_eq!(rows(&mut standby, 1), "1");
}

#[test]
fn a_killed_clone_leaves_the_old_data_or_the_new() {
    let primary = Rig::primary();
    primary.sql("insert into t select generate_series(1, 200000)");
    let mut standby = Rig::standby_of(&primary, 1);
    wait_for("the rows", || {
        (standby.psql("select count(*) from t").stdout == b"200000\n").then_some(())
    });
    stop(&mut standby, 1);
    let mut renewed = 0;
    for round in 0..14u64 {
        let old = standby.status().data_id;
        let order = standby.clone_order(&primary, 1);
        standby.must(1, order);
        let began = Instant::now();
        if round >= 6 {
            // Around the last steps: the copy is being marked, synced, renamed, the old one removed.
            let ready = standby.base().join("data/pgbaton/clone/standby.signal");
            let state = standby.base().join("data/pgbaton/state.json");
            wait_for("the last steps", || {
                let swapping = fs::read_to_string(&state).is_ok_and(|s| !s.contains("\"swap\": null"));
                (ready.exists() || swapping || standby.status().operation.is_none()).then_some(())
            });
            std::thread::sleep(Duration::from_micros((round - 6) * 700));
        } else {
            std::thread::sleep(Duration::from_millis(round * 60));
        }
        standby.kill_guard();
        eprintln!("killed after {} ms", began.elapsed().as_millis());
        standby.start();
        let status = standby.status();
        assert_eq!(status.data, DataState::Complete, "round {round}");
        renewed += u32::from(status.data_id != old);
        assert!(!standby.base().join("data/pgbaton/clone").exists());
        assert!(!standby.base().join("data/pgdata.old").exists());
        assert_eq!(rows(&mut standby, 1), "200000", "round {round}");
        stop(&mut standby, 1);
    }
    eprintln!("{renewed} of 14 killed clones ended as the new data");
}

/// An old primary with rows that the new one does not have.
fn diverged() -> (Rig, Rig) {
    let mut old = Rig::primary();
    let mut new = Rig::standby_of(&old, 1);
    old.sql("insert into t select generate_series(1, 10000)");
    let flush = old.sql("select pg_current_wal_flush_lsn()");
    wait_for("the standby to catch up", || {
        let out = new.psql(&format!("select pg_last_wal_replay_lsn() >= '{flush}'"));
        out.stdout.starts_with(b"t").then_some(())
    });
    new.must(2, Order::Pledge { hint: None });
    old.sql("insert into t select generate_series(1, 50000)");
    old.must(
        1,
        Order::Stop {
            fast_ms: 0,
            hint: None,
        },
    );
    new.permit(2, 600_000);
    new.must(
        2,
        Order::Promote {
            timeline: Timeline(2),
        },
    );
    new.sql("insert into t values (0)");
    new.sql("checkpoint");
    (old, new)
}

fn rewind_order(new: &Rig) -> Order {
    Order::Rewind {
        upstream: new.upstream("rewind"),
        timeline: Timeline(2),
        source_major: None,
    }
}

#[test]
fn a_rewound_server_follows_the_new_primary() {
    let (mut old, new) = diverged();
    let data_id = old.status().data_id;
    // One that cannot even begin leaves all as it was.
    let mut order = rewind_order(&new);
    if let Order::Rewind { upstream, .. } = &mut order {
        upstream.password = Secret("wrong".to_owned());
    }
    old.must(2, order);
    let error = old.await_operation(old.sequence).unwrap();
    assert!(error.contains("PGDATA is as it was"), "{error}");
    assert_eq!(
        (old.status().data, old.status().data_id),
        (DataState::Complete, data_id.clone())
    );

    let began = Instant::now();
    old.must(2, rewind_order(&new));
    assert_eq!(old.await_operation(old.sequence), None, "{}", old.log());
    eprintln!("rewind: {} ms", began.elapsed().as_millis());
    let status = old.status();
    assert_eq!(status.data, DataState::Complete);
    assert_ne!(status.data_id, data_id);
    assert!(!status.knows_term && status.pledge.is_none());
    old.follow(&new, 2);
    wait_for("the rows", || {
        (old.psql("select count(*) from t").stdout == b"10001\n").then_some(())
    });
    assert!(!old.titled("walreceiver").is_empty());
}

#[test]
fn a_killed_rewind_is_known_as_such() {
    let (mut old, new) = diverged();
    let first = old.status().data_id;
    let mut seen = Vec::new();
    for round in 0..6u64 {
        if old.status().data != DataState::Complete {
            break;
        }
        old.must(2, rewind_order(&new));
        std::thread::sleep(Duration::from_millis(round * 45));
        old.kill_guard();
        wait_for("the end of all", || {
            old.server_processes().is_empty().then_some(())
        });
        old.start();
        let status = old.status();
        match status.data {
            // Killed before it was marked, or done.
            DataState::Complete => assert!(status.data_id.is_some()),
            DataState::Incomplete => assert_eq!(status.data_id, None),
            DataState::Empty => panic!("lost"),
        }
        seen.push(status.data);
    }
    eprintln!("killed rewinds: {seen:?}");
    if old.status().data == DataState::Incomplete {
        let again = old.order(2, rewind_order(&new));
        assert!(
            matches!(
                again,
                Answer::Refused {
                    cause: Refusal::WrongState,
                    ..
                }
            ),
            "{again:?}"
        );
        let order = old.clone_order(&new, 2);
        old.must(2, order);
        assert_eq!(old.await_operation(old.sequence), None, "{}", old.log());
    }
    if old.status().data_id == first {
        old.must(2, rewind_order(&new));
        assert_eq!(old.await_operation(old.sequence), None, "{}", old.log());
    }
    old.follow(&new, 2);
    wait_for("the rows", || {
        (old.psql("select count(*) from t").stdout == b"10001\n").then_some(())
    });
}
