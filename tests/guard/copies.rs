//! What a copy may do to the disk, to the data that is there, and to the cluster while it is made.
use std::fs;
use std::process::{Child, Command, Stdio};

use crate::programs::{Programs, snapshot};
use crate::rig::{Rig, wait_for};
use pgbaton::guard::protocol::{DataState, Order};

/// A member with data of its own, down, and its programs.
fn member(primary: &Rig) -> (Rig, Programs) {
    let mut rig = Rig::new();
    let programs = Programs::first_in_path(&mut rig);
    rig.start();
    let order = rig.clone_order(primary, 1);
    rig.must(1, order);
    assert_eq!(rig.await_operation(rig.sequence), None, "{}", rig.log());
    (rig, programs)
}

#[test]
fn a_clone_of_unknown_size_is_judged_before_the_first_byte() {
    let primary = Rig::primary();
    let (mut rig, programs) = member(&primary);
    let data_id = rig.status().data_id;
    let before = snapshot(&rig.pgdata());
    // The source is larger than any disk.
    programs.stall(
        "pg_basebackup",
        "echo '     0/900719925474099 kB (0%), 0/1 tablespace' >&2",
    );
    let order = rig.clone_order(&primary, 1);
    rig.must(1, order);
    let error = rig.await_operation(rig.sequence).unwrap();
    assert!(
        error.contains("bytes are free") || error.contains("are free: nothing was copied"),
        "{error}"
    );
    assert_eq!(rig.status().data_id, data_id);
    assert_eq!(snapshot(&rig.pgdata()), before);
}

#[test]
fn progress_and_notes_of_a_clone_are_told() {
    let primary = Rig::primary();
    let (mut rig, programs) = member(&primary);
    programs.hold(
        "pg_basebackup",
        "for n in 0 5 11 12 25; do echo \"$n/100 kB ($n%), 0/1 tablespace\" >&2; done",
        "exec \"$REAL\" \"$@\"",
    );
    let mut order = rig.clone_order(&primary, 1);
    if let Order::Clone { notes, .. } = &mut order {
        notes.push("tablespace fast lies outside".to_owned());
    }
    rig.must(1, order);
    programs.await_stall(&rig);
    let status = rig.await_status("progress", |s| {
        s.operation.as_ref().is_some_and(|o| o.bytes_done == 25 * 1024)
    });
    assert_eq!(status.operation.unwrap().bytes_total, Some(100 * 1024));
    assert_eq!(status.warning, "tablespace fast lies outside");
    let told = |percent: &str| {
        let log = rig.log();
        log.matches(&format!("percent={percent}")).count()
    };
    wait_for("the log's line", || (told("25") == 1).then_some(()));
    assert_eq!((told("5 "), told("11"), told("12")), (0, 1, 0), "{}", rig.log());
    programs.let_go();
    assert_eq!(rig.await_operation(rig.sequence), None);
    assert_eq!(rig.status().warning, "", "told until it was done");
}

#[test]
fn a_copy_of_a_term_that_is_over_is_dropped() {
    let primary = Rig::primary();
    let (mut rig, programs) = member(&primary);
    let data_id = rig.status().data_id;
    let before = snapshot(&rig.pgdata());
    programs.hold("pg_basebackup", "\"$REAL\" \"$@\" || exit", "exit 0");
    let order = rig.clone_order(&primary, 1);
    rig.must(1, order);
    programs.await_stall(&rig);
    let sequence = rig.sequence;
    // Somebody else may lead from now on.
    rig.must(2, Order::NoteTerm);
    programs.let_go();
    let error = rig.await_operation(sequence).unwrap();
    assert!(error.contains("term 2 has begun"), "{error}");
    assert_eq!(rig.status().data_id, data_id);
    assert_eq!(snapshot(&rig.pgdata()), before);
}

#[test]
fn data_that_came_during_a_clone_is_not_replaced() {
    let primary = Rig::primary();
    let mut rig = Rig::new();
    let programs = Programs::first_in_path(&mut rig);
    rig.start();
    programs.hold("pg_basebackup", "\"$REAL\" \"$@\" || exit", "exit 0");
    let order = rig.clone_order(&primary, 1);
    rig.must(1, order);
    programs.await_stall(&rig);
    fs::write(rig.pgdata().join("restored-by-hand"), "").unwrap();
    programs.let_go();
    let error = rig.await_operation(rig.sequence).unwrap();
    assert!(error.contains("somebody else put data"), "{error}");
    assert!(rig.pgdata().join("restored-by-hand").exists());
    assert_eq!(rig.status().data, DataState::Incomplete);
}

/// A client whose commit waits for a standby.
fn commit_that_waits(primary: &Rig) -> Child {
    Command::new(crate::rig::bin_dir().join("psql"))
        .args([
            "-X",
            "-q",
            "-h",
            "127.0.0.1",
            "-U",
            crate::rig::SUPERUSER,
            "-d",
            "postgres",
        ])
        .args(["-c", "set synchronous_commit = on; insert into t values (0)"])
        .arg("-p")
        .arg(primary.port.to_string())
        .stdin(Stdio::null())
        .spawn()
        .unwrap()
}

/// Schedule 12: `pg_basebackup -X stream` confirms WAL to its source; under a member's name it released a waiting commit.
#[test]
fn a_clone_confirms_no_commit_and_dies_with_its_guard() {
    let mut primary = Rig::primary();
    primary.sql("insert into t select generate_series(1, 200000)");
    let mut rig = Rig::new();
    let programs = Programs::first_in_path(&mut rig);
    rig.start();
    programs.replace("pg_basebackup", "exec \"$REAL\" \"$@\" --max-rate=64k");
    primary.must(
        1,
        Order::SetNames {
            synchronous_standby_names: "ANY 1 (\"postgres_2_0123456789abcdef\")".to_owned(),
        },
    );
    let order = rig.clone_order(&primary, 1);
    rig.must(1, order);
    // The stream of WAL is a connection of its own.
    wait_for("the clone's stream", || {
        let seen = primary.sql(
            "select count(*) from pg_stat_replication where application_name = 'clone' and state = 'streaming'",
        );
        (seen == "1").then_some(())
    });
    let states = primary.sql("select string_agg(distinct sync_state, ',') from pg_stat_replication");
    assert_eq!(states, "async");
    let mut commit = commit_that_waits(&primary);
    wait_for("the commit to wait", || {
        let waits = primary.sql("select count(*) from pg_stat_activity where wait_event = 'SyncRep'");
        (waits == "1").then_some(())
    });
    // The clone's stream gets the commit's WAL and confirms it; the commit waits on.
    let lsn = primary.sql("select pg_current_wal_flush_lsn()");
    wait_for("the clone to confirm", || {
        let flushed = format!(
            "select coalesce(bool_or(flush_lsn >= '{lsn}'), false) from pg_stat_replication where application_name = 'clone'"
        );
        (primary.sql(&flushed) == "t").then_some(())
    });
    std::thread::sleep(std::time::Duration::from_millis(300));
    assert_eq!(
        commit.try_wait().unwrap(),
        None,
        "the commit was confirmed by a clone"
    );
    rig.kill_guard();
    wait_for("the clone's walsenders to end", || {
        let left = primary.sql("select count(*) from pg_stat_activity where backend_type = 'walsender'");
        (left == "0").then_some(())
    });
    assert_eq!(commit.try_wait().unwrap(), None);
    commit.kill().unwrap();
    commit.wait().unwrap();
    // What was copied until then is no database.
    rig.start();
    assert_eq!(rig.status().data, DataState::Empty);
    assert!(!rig.base().join("data/pgbaton/clone").exists());
}
