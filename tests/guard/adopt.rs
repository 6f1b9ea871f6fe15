//! Data that was made without pgbaton: told, left alone, and made a member's only by order. Made here as the tutorial does: initdb, and
//! pg_basebackup -R.
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::time::SystemTime;

use crate::rig::{PASSWORD, REPLICA, REPLICA_PASSWORD, Rig, SUPERUSER, as_postgres, is_root, wait_for};
use pgbaton::core::types::{Lsn, Timeline};
use pgbaton::guard::protocol::{Answer, DataState, Order, Refusal, Server, Status};

/// PGDATA's parent belongs to PostgreSQL's user, as a volume does.
fn own(rig: &Rig) {
    if is_root() {
        let user = nix::unistd::User::from_name("postgres").unwrap().unwrap();
        let (uid, gid) = (user.uid.as_raw(), user.gid.as_raw());
        std::os::unix::fs::chown(rig.base().join("data"), Some(uid), Some(gid)).unwrap();
    }
}

fn run(command: &mut std::process::Command) {
    let out = command.output().unwrap();
    let text = String::from_utf8_lossy(&out.stderr).into_owned();
    assert!(out.status.success(), "{command:?}: {text}");
}

fn plain_start(rig: &Rig) {
    let options = format!("-c config_file={}", rig.base().join("postgresql.conf").display());
    run(as_postgres("pg_ctl")
        .args(["-w", "-s", "-l", "/dev/null", "-o", &options, "-D"])
        .arg(rig.pgdata())
        .arg("start")
        .stdout(std::process::Stdio::null()));
}

fn plain_stop(rig: &Rig, mode: &str) {
    run(as_postgres("pg_ctl")
        .args(["-w", "-s", "-m", mode, "-D"])
        .arg(rig.pgdata())
        .arg("stop"));
}

/// A running primary without a guard.
fn plain_primary() -> Rig {
    let rig = Rig::new();
    own(&rig);
    let password = rig.base().join("sock/password");
    fs::write(&password, format!("{PASSWORD}\n")).unwrap();
    run(as_postgres("initdb")
        .args(["-U", SUPERUSER, "-A", "trust", "--pwfile"])
        .arg(&password)
        .arg("-D")
        .arg(rig.pgdata()));
    plain_start(&rig);
    let quoted = REPLICA_PASSWORD.replace('\'', "''");
    rig.sql(&format!(
        "create user {REPLICA} replication login password '{quoted}'"
    ));
    rig.sql("create table t(i int)");
    rig.sql("insert into t select generate_series(1, 1000)");
    rig
}

/// A running standby of `source` without a guard.
fn plain_standby(source: &Rig) -> Rig {
    let rig = Rig::new();
    own(&rig);
    run(as_postgres("pg_basebackup")
        .args(["-h", "127.0.0.1", "-p", &source.port.to_string(), "-U", REPLICA])
        .args(["-Fp", "-Xs", "-R", "-c", "fast", "-D"])
        .arg(rig.pgdata())
        .env("PGPASSWORD", REPLICA_PASSWORD));
    plain_start(&rig);
    wait_for("the standby streams", || {
        let rows = source.sql("select count(*) from pg_stat_replication where state = 'streaming'");
        (rows != "0").then_some(())
    });
    rig
}

/// Every file of PGDATA with its size and time.
fn listing(directory: &Path) -> BTreeMap<String, (u64, SystemTime)> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(directory).unwrap().flatten() {
        let (path, meta) = (entry.path(), entry.metadata().unwrap());
        if meta.is_dir() {
            found.extend(listing(&path));
        } else {
            let name = path.display().to_string();
            found.insert(name, (meta.len(), meta.modified().unwrap()));
        }
    }
    found
}

fn await_end(rig: &Rig) -> Status {
    rig.await_status("the end of WAL", |s| {
        s.found.as_ref().is_some_and(|f| f.end.is_some())
    })
}

fn is_wrong_state(answer: &Answer) -> bool {
    let cause = Refusal::WrongState;
    matches!(answer, Answer::Refused { cause: c, .. } if *c == cause)
}

fn follow(source: &Rig, name: &str) -> Order {
    Order::Follow {
        upstream: source.upstream(name),
        slot: String::new(),
        synchronous_standby_names: "ANY 1 (\"nobody\")".to_owned(),
    }
}

fn streams(source: &Rig, name: &str) {
    wait_for("it streams", || {
        let sql = "select application_name from pg_stat_replication where state = 'streaming'";
        let names = source.sql(sql);
        names.lines().any(|n| n == name).then_some(())
    });
}

fn state_file(rig: &Rig) -> serde_json::Value {
    let text = fs::read_to_string(rig.base().join("data/pgbaton/state.json")).unwrap();
    serde_json::from_str(&text).unwrap()
}

/// Nothing starts it, whatever is ordered; nothing is written into it.
fn refuses_to_start(rig: &mut Rig) {
    rig.permit(1, 120_000);
    for order in [
        Order::StartPrimary {
            synchronous_standby_names: String::new(),
        },
        Order::StandAlone {
            synchronous_standby_names: String::new(),
        },
        Order::Initialise,
    ] {
        let answer = rig.order(1, order);
        assert!(is_wrong_state(&answer), "{answer:?}");
    }
}

#[test]
fn a_primarys_data_is_told_left_alone_and_started_only_when_adopted() {
    let mut rig = plain_primary();
    plain_stop(&rig, "fast");
    let checkpoint: Lsn = rig.control("Latest checkpoint location").parse().unwrap();
    let before = listing(&rig.pgdata());
    rig.start();
    let status = await_end(&rig);
    let found = status.found.clone().unwrap();
    assert_eq!((status.data, status.data_id.clone()), (DataState::Complete, None));
    assert!(!found.standby && status.rest.as_ref().unwrap().clean);
    assert_eq!(status.rest.as_ref().unwrap().position.last_record, checkpoint);
    assert_eq!(found.history, [(Timeline(1), Lsn(0))]);
    let end = found.end.unwrap();
    assert!(end > checkpoint && end.0 - checkpoint.0 < 200, "{end}");
    refuses_to_start(&mut rig);
    rig.must(
        1,
        Order::Stop {
            fast_ms: 0,
            hint: None,
        },
    );
    rig.must(1, Order::Pledge { hint: None });
    rig.kill_guard();
    rig.start();
    await_end(&rig);
    assert_eq!(listing(&rig.pgdata()), before);
    // Adopted, it is still known for a primary's until it has been started.
    let adopted = rig.must(2, Order::Adopt);
    let data_id = adopted.data_id.clone().unwrap();
    assert_eq!(adopted.found.as_ref().unwrap().end, Some(end));
    rig.kill_guard();
    rig.start();
    let again = await_end(&rig);
    assert_eq!(again.data_id, Some(data_id.clone()));
    assert!(!again.found.unwrap().standby);
    rig.must(
        2,
        Order::Stop {
            fast_ms: 0,
            hint: None,
        },
    );
    let stopped = rig.status();
    assert!(
        !stopped.found.unwrap().standby,
        "standby.signal of a fence says nothing of it"
    );
    rig.permit(2, 120_000);
    let names = String::new();
    rig.must(
        2,
        Order::StartPrimary {
            synchronous_standby_names: names,
        },
    );
    let runs = rig.await_status("a primary", |s| s.server == Server::Primary);
    assert_eq!((runs.found, runs.data_id), (None, Some(data_id)));
    assert_eq!(rig.sql("select count(*) from t"), "1000");
}

#[test]
fn a_guard_that_dies_while_it_adopts_finishes() {
    let mut rig = plain_primary();
    plain_stop(&rig, "immediate");
    rig.start();
    let status = await_end(&rig);
    assert!(!status.rest.unwrap().clean);
    let data_id = rig.must(1, Order::Adopt).data_id;
    rig.kill_guard();
    // As if it had died between the state file and the mark.
    fs::remove_file(rig.pgdata().join("pgbaton.data_id")).unwrap();
    rig.start();
    let after = await_end(&rig);
    assert_eq!(after.data_id, data_id);
    assert!(!after.found.unwrap().standby);
    assert!(rig.pgdata().join("pgbaton.data_id").exists());
    rig.permit(1, 120_000);
    let names = String::new();
    rig.must(
        1,
        Order::StartPrimary {
            synchronous_standby_names: names,
        },
    );
    rig.await_status("a primary", |s| s.server == Server::Primary);
    assert_eq!(
        rig.sql("select count(*) from t"),
        "1000",
        "crash recovery in place"
    );
    assert_eq!(state_file(&rig)["adopting"], serde_json::Value::Null);
}

#[test]
fn a_standbys_data_goes_on_following_and_joins_as_it_is() {
    let mut primary = plain_primary();
    let mut standby = plain_standby(&primary);
    plain_stop(&standby, "fast");
    standby.start();
    let found = standby
        .await_status("it is found", |s| s.found.is_some())
        .found
        .unwrap();
    assert!(found.standby);
    assert_eq!(found.upstream.as_deref(), Some("127.0.0.1"));
    // The primary that has no guard has no slot for it either; the password leaves postgresql.auto.conf.
    let started = standby.must(0, follow(&primary, "walreceiver"));
    assert_eq!(started.data_id, None);
    standby.await_status("a standby", |s| s.server == Server::Standby);
    streams(&primary, "walreceiver");
    let auto = fs::read_to_string(standby.pgdata().join("postgresql.auto.conf")).unwrap();
    assert!(
        !auto.contains("primary_conninfo") && !auto.contains("wo'rd"),
        "{auto}"
    );
    assert!(!standby.pgdata().join("pgbaton.data_id").exists());
    primary.sql("insert into t select generate_series(1, 500)");

    plain_stop(&primary, "fast");
    primary.start();
    let end = await_end(&primary).found.unwrap().end.unwrap();
    // A fast stop sends everything to its standbys: what both call the end is the same place.
    let sql = "select greatest(pg_last_wal_receive_lsn(), pg_last_wal_replay_lsn())";
    wait_for("the standby has all", || {
        let held: Lsn = standby.sql(sql).parse().unwrap();
        (held == end).then_some(())
    });
    let pledged = standby.must(1, Order::Pledge { hint: None }).pledge.unwrap();
    let rest = primary.status().rest.unwrap().position;
    assert_eq!(pledged.position, Some(rest));

    primary.permit(1, 300_000);
    primary.must(1, Order::Adopt);
    let names = String::new();
    primary.must(
        1,
        Order::StartPrimary {
            synchronous_standby_names: names,
        },
    );
    primary.await_status("a primary", |s| s.server == Server::Primary);
    let pid = standby.postmaster();
    let adopted = standby.must(1, Order::Adopt);
    assert!(adopted.data_id.is_some() && adopted.found.is_none() && adopted.server == Server::Standby);
    standby.must(1, follow(&primary, "postgres_2_new"));
    streams(&primary, "postgres_2_new");
    assert_eq!(standby.postmaster(), pid, "nothing was restarted");
    primary.sql("insert into t values (0)");
    wait_for("the rows are there", || {
        (standby.sql("select count(*) from t") == "1501").then_some(())
    });
    standby.kill_guard();
    standby.start();
    let known = standby.status();
    assert_eq!((known.data_id, known.found), (adopted.data_id, None));
}
