//! Data, programs and sources of different major versions never meet, and nothing is changed when they would.
use std::fs;

use crate::programs::{Programs, snapshot};
use crate::rig::{Rig, wait_for};
use pgbaton::core::types::Timeline;
use pgbaton::guard::control::major_version;
use pgbaton::guard::protocol::{Answer, DataState, Order, Refusal, Server};

const NAMES: &str = "ANY 1 (\"nobody\")";

/// A `postgres` that claims to be of this version, and otherwise is the real one.
fn claims(version: u32) -> String {
    format!(
        "if [ \"$1\" = --version ]; then echo \"postgres (PostgreSQL) {version}.1\"; exit; fi\nexec \"$REAL\" \"$@\""
    )
}

fn refused(answer: &Answer, says: &[&str]) {
    match answer {
        Answer::Refused {
            cause: Refusal::WrongState,
            reason,
            ..
        } => {
            for part in says {
                assert!(reason.contains(part), "'{part}' in {reason}");
            }
        }
        other => panic!("{other:?}"),
    }
}

fn stop(rig: &mut Rig) {
    let order = Order::Stop {
        fast_ms: 20_000,
        hint: None,
    };
    rig.must(1, order);
}

fn restart(rig: &mut Rig) {
    rig.kill_guard();
    wait_for("the end of all", || {
        rig.server_processes().is_empty().then_some(())
    });
    rig.start();
}

fn every_start(source: &Rig) -> Vec<Order> {
    let names = || NAMES.to_owned();
    vec![
        Order::StartPrimary {
            synchronous_standby_names: names(),
        },
        Order::StandAlone {
            synchronous_standby_names: names(),
        },
        Order::Follow {
            upstream: source.upstream("w"),
            slot: "s".to_owned(),
            synchronous_standby_names: names(),
        },
        Order::Rewind {
            upstream: source.upstream("r"),
            timeline: Timeline(1),
            source_major: None,
        },
    ]
}

#[test]
fn data_of_another_major_version_is_not_started_and_not_touched() {
    let mut rig = Rig::new();
    let programs = Programs::first_in_path(&mut rig);
    rig.start();
    rig.initialise();
    let major = major_version(&rig.pgdata()).unwrap();
    rig.start_primary(1, "");
    rig.sql("insert into t values (1)");
    stop(&mut rig);
    programs.replace("postgres", &claims(99));
    restart(&mut rig);
    let versions = [
        format!("is of PostgreSQL {major}"),
        "is of PostgreSQL 99".to_owned(),
    ];
    let says = [versions[0].as_str(), &versions[1], "Run an image of PostgreSQL"];
    let warned = rig.await_status("a warning", |s| !s.warning.is_empty());
    assert!(
        says.iter().all(|s| warned.warning.contains(s)),
        "{}",
        warned.warning
    );
    let before = snapshot(&rig.pgdata());
    rig.permit(1, 60_000);
    for order in every_start(&rig) {
        refused(&rig.order(1, order), &says);
        assert!(rig.server_processes().is_empty());
    }
    assert_eq!(snapshot(&rig.pgdata()), before);
    // Not even when it is no usable database: it is somebody's data.
    fs::rename(rig.pgdata().join("global/pg_control"), rig.base().join("kept")).unwrap();
    rig.await_status("incomplete", |s| s.data == DataState::Incomplete);
    let before = snapshot(&rig.pgdata());
    refused(&rig.order(1, Order::Initialise), &says);
    assert_eq!(snapshot(&rig.pgdata()), before);
    fs::rename(rig.base().join("kept"), rig.pgdata().join("global/pg_control")).unwrap();
    // With the right programs it is what it was. A program that tells nothing is PostgreSQL's to judge.
    programs.replace(
        "postgres",
        "if [ \"$1\" = --version ]; then sleep 600; fi\nexec \"$REAL\" \"$@\"",
    );
    restart(&mut rig);
    assert_eq!(rig.status().warning, "");
    rig.start_primary(1, "");
    assert_eq!(rig.sql("select count(*) from t"), "1");
}

#[test]
fn a_source_of_another_major_version_is_not_copied() {
    let primary = Rig::primary();
    let mut standby = Rig::new();
    let programs = Programs::first_in_path(&mut standby);
    standby.start();
    let major = major_version(&primary.pgdata()).unwrap();
    let own = format!("is of PostgreSQL {major}");
    let clone = |rig: &Rig, told| {
        let mut order = rig.clone_order(&primary, 1);
        if let Order::Clone { source_major, .. } = &mut order {
            *source_major = told;
        }
        order
    };
    let order = clone(&standby, Some(99));
    refused(
        &standby.order(1, order),
        &["postgres-1 runs PostgreSQL 99", &own, "same major version"],
    );
    // A source that nobody could ask tells by its copy.
    programs.replace(
        "pg_basebackup",
        "\"$REAL\" \"$@\" || exit\nwhile [ \"$1\" != --pgdata ]; do shift; done\necho 99 > \"$2/PG_VERSION\"",
    );
    let order = clone(&standby, None);
    standby.must(1, order);
    let error = standby.await_operation(standby.sequence).unwrap();
    assert!(
        error.contains("the copy is of PostgreSQL 99") && error.contains(&own),
        "{error}"
    );
    assert_eq!(standby.status().data, DataState::Empty);
    programs.restore("pg_basebackup");
    let order = clone(&standby, Some(major));
    standby.must(1, order);
    assert_eq!(standby.await_operation(standby.sequence), None);
    let before = snapshot(&standby.pgdata());
    let rewind = |source_major| Order::Rewind {
        upstream: primary.upstream("r"),
        timeline: Timeline(1),
        source_major,
    };
    refused(
        &standby.order(1, rewind(Some(99))),
        &["postgres-1 runs PostgreSQL 99", &own],
    );
    assert_eq!(snapshot(&standby.pgdata()), before);
    standby.follow(&primary, 1);
    standby.await_status("a standby", |s| s.server == Server::Standby);
}

#[test]
fn a_rewind_that_pg_rewind_cannot_do_leaves_it_to_a_clone() {
    let mut rig = Rig::new();
    let programs = Programs::first_in_path(&mut rig);
    rig.start();
    rig.initialise();
    fs::write(rig.pgdata().join("PG_VERSION"), "14\n").unwrap();
    programs.replace("postgres", &claims(14));
    restart(&mut rig);
    let before = snapshot(&rig.pgdata());
    let order = Order::Rewind {
        upstream: rig.upstream("r"),
        timeline: Timeline(1),
        source_major: Some(14),
    };
    refused(
        &rig.order(1, order),
        &["PostgreSQL 14 has no --config-file", "a clone is made instead"],
    );
    assert_eq!(snapshot(&rig.pgdata()), before);
    assert_eq!(rig.status().data, DataState::Complete);
}
