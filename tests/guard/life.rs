//! The guard and its server from initdb to the container's end.
use std::fs;
use std::time::Duration;

use crate::rig::{PASSWORD, REPLICA_PASSWORD, Rig, wait_for};
use nix::sys::signal::Signal;
use pgbaton::core::types::{Position, Term};
use pgbaton::guard::protocol::{Answer, DataState, DownReason, Order, Refusal, Server};

fn down(server: &Server) -> Option<DownReason> {
    match server {
        Server::Down { reason, .. } => Some(*reason),
        _ => None,
    }
}

#[test]
fn a_database_is_made_started_and_stopped() {
    let mut rig = Rig::new();
    rig.start();
    let status = rig.status();
    assert_eq!((status.data, status.knows_term), (DataState::Empty, false));
    assert_eq!(down(&status.server), Some(DownReason::NotStarted));
    // Nothing without a permit.
    let refused = rig.order(1, Order::Initialise);
    assert!(
        matches!(
            refused,
            Answer::Refused {
                cause: Refusal::NotPermitted,
                ..
            }
        ),
        "{refused:?}"
    );
    assert!(fs::read_dir(rig.pgdata()).unwrap().next().is_none());
    rig.initialise();
    let status = rig.status();
    assert!(status.knows_term && status.data_id.is_some() && status.system_identifier.is_some());
    assert_eq!(status.highest_term, Term(1));
    assert!(down(&status.server).is_some());

    rig.start_primary(1, "");
    rig.sql("insert into t values (1)");
    // pgbaton's settings win over the user's file, the user's others stay.
    for (name, value) in [
        ("primary_conninfo", ""),
        ("synchronous_standby_names", ""),
        ("max_wal_senders", "10"),
        ("wal_log_hints", "on"),
        ("max_connections", "40"),
        ("recovery_target_timeline", "latest"),
    ] {
        assert_eq!(rig.sql(&format!("show {name}")), value, "{name}");
    }
    assert_eq!(
        rig.sql("show hba_file"),
        rig.base().join("pg_hba.conf").display().to_string()
    );
    rig.must(
        1,
        Order::SetNames {
            synchronous_standby_names: r#"ANY 1 ("a_1","it's")"#.to_owned(),
        },
    );
    wait_for("the names by reload", || {
        (rig.sql("show synchronous_standby_names") == r#"ANY 1 ("a_1","it's")"#).then_some(())
    });

    let status = rig.must(
        1,
        Order::Stop {
            fast_ms: 20_000,
            hint: None,
        },
    );
    assert_eq!(down(&status.server), Some(DownReason::Stopped));
    assert!(rig.pgdata().join("standby.signal").exists());
    assert_eq!(status.permit, None, "a stop gives up the permit");
    let rest = status.rest.unwrap();
    assert!(rest.clean);
    assert_eq!(
        rest.position.last_record.to_string(),
        rig.control("Latest checkpoint location")
    );
    let read = pgbaton::guard::wal::end_of_wal(&rig.pgdata(), None).unwrap();
    assert_eq!(read, rest.position, "read from disk and told by pg_control");
    let again = rig.order(
        1,
        Order::StartPrimary {
            synchronous_standby_names: String::new(),
        },
    );
    assert!(
        matches!(
            again,
            Answer::Refused {
                cause: Refusal::NotPermitted,
                ..
            }
        ),
        "{again:?}"
    );
    assert!(rig.server_processes().is_empty());
    rig.start_primary(1, "");
    assert_eq!(rig.sql("select count(*) from t"), "1");
    no_password_lies_about(&rig);
}

fn no_password_lies_about(rig: &Rig) {
    let mut places = vec![rig.log()];
    for dir in ["data/pgbaton", "data/pgdata"] {
        for entry in fs::read_dir(rig.base().join(dir)).unwrap().flatten() {
            places.push(String::from_utf8_lossy(&fs::read(entry.path()).unwrap_or_default()).into_owned());
        }
    }
    for pid in rig.server_processes() {
        places.push(pgbaton::guard::processes::title(pid));
    }
    for secret in [PASSWORD, REPLICA_PASSWORD] {
        assert!(!places.iter().any(|p| p.contains(secret)));
    }
}

#[test]
fn a_crashed_primary_is_told_at_once_and_started_again() {
    let mut rig = Rig::primary();
    let mut writers = rig.writers();
    wait_for("rows", || {
        (rig.sql("select count(*) from t") != "0").then_some(())
    });
    Rig::signal(rig.postmaster(), Signal::SIGKILL);
    let status = rig.await_status("the crash", |s| down(&s.server).is_some());
    assert_eq!(down(&status.server), Some(DownReason::Crashed));
    assert!(
        rig.server_processes().is_empty(),
        "no backend outlives its postmaster"
    );
    writers.wait().unwrap();
    assert!(status.permit.is_some());
    assert!(
        !rig.pgdata().join("standby.signal").exists(),
        "the permit lives: a restart in place is meant"
    );
    rig.start_primary(1, "");
    rig.sql("insert into t values (1)");
}

/// What the kernel does to a backend when memory is short. PostgreSQL would start again by itself, and show what its crash recovery brought
/// to light before a standby has it.
#[test]
fn a_killed_backend_ends_the_server_for_good() {
    let mut rig = Rig::primary();
    let is_writer = |pid: &i32| {
        let title = fs::read_to_string(format!("/proc/{pid}/cmdline"));
        title.is_ok_and(|t| t.contains("walwriter"))
    };
    let postmaster = rig.postmaster();
    let pid = rig.server_processes().into_iter().find(is_writer).unwrap();
    Rig::signal(pid, Signal::SIGKILL);
    let status = rig.await_status("the crash", |s| down(&s.server).is_some());
    assert_eq!(down(&status.server), Some(DownReason::Crashed));
    assert!(rig.server_processes().is_empty());
    rig.start_primary(1, "");
    assert_ne!(rig.postmaster(), postmaster);
}

#[test]
fn a_restart_by_hand_under_a_permit_is_taken_over() {
    let mut rig = Rig::primary();
    let before = rig.postmaster();
    let out = rig.exec(
        "pg_ctl",
        &[
            "restart",
            "-w",
            "-l",
            "/dev/null",
            "-D",
            rig.pgdata().to_str().unwrap(),
        ],
    );
    assert!(out.status.success(), "{out:?}");
    rig.await_status("a primary again", |s| s.server == Server::Primary);
    assert_ne!(rig.postmaster(), before);
    rig.sql("insert into t values (1)");
    // It is under the permit like any other.
    let end = pgbaton::guard::clock::boot_ms();
    let status = rig.must(
        1,
        Order::Stop {
            fast_ms: 20_000,
            hint: None,
        },
    );
    assert!(status.rest.unwrap().clean, "{end}");
    assert!(rig.server_processes().is_empty());
}

#[test]
fn the_guards_death_ends_the_server_and_is_recovered_from() {
    let mut rig = Rig::primary();
    let boot = rig.status().boot_id;
    let data = rig.status().data_id;
    rig.sql("insert into t values (1)");
    rig.kill_guard();
    wait_for("the server's end", || {
        rig.server_processes().is_empty().then_some(())
    });
    rig.start();
    let status = rig.status();
    assert_ne!(status.boot_id, boot);
    assert_eq!(
        (status.data_id, status.highest_term, status.knows_term),
        (data, Term(1), true)
    );
    rig.start_primary(1, "");
    assert_eq!(rig.sql("select count(*) from t"), "1");
}

#[test]
fn the_guard_ends_with_whoever_asked_the_kernel_for_that() {
    let mut rig = Rig::primary();
    let guard = rig.guard_pid();
    rig.kill_parent();
    wait_for("the guard's end", || {
        pgbaton::guard::processes::read_one(guard)
            .is_none_or(|p| !p.is_alive())
            .then_some(())
    });
    wait_for("the server's end", || {
        rig.server_processes().is_empty().then_some(())
    });
}

#[test]
fn a_guard_that_is_not_init_refuses_or_has_a_keeper() {
    let mut rig = Rig::new();
    rig.namespace = false;
    let out = rig.guard_command().output().unwrap();
    assert!(!out.status.success());
    let text = String::from_utf8_lossy(&out.stderr).into_owned();
    assert!(text.contains("--allow-not-init"), "{text}");
    assert!(!rig.base().join("data/pgbaton").exists(), "nothing was changed");
    rig.extra_args = vec!["--allow-not-init".to_owned()];
    rig.start();
    rig.initialise();
    rig.start_primary(1, "");
    assert!(!rig.server_processes().is_empty());
    rig.kill_guard();
    wait_for("the server's end", || {
        rig.server_processes().is_empty().then_some(())
    });
}

#[test]
fn the_stop_signal_without_a_sidecar_stops_the_server_cleanly() {
    let mut rig = Rig::primary();
    // A sidecar that spoke lately is waited for; this one falls silent.
    rig.signal_guard(Signal::SIGINT);
    assert!(rig.await_end().success());
    assert!(rig.server_processes().is_empty());
    assert_eq!(rig.control("Database cluster state"), "shut down");
    assert!(rig.pgdata().join("standby.signal").exists());
}

#[test]
fn the_stop_signal_with_a_sidecar_waits_for_its_order() {
    let mut rig = Rig::primary();
    rig.signal_guard(Signal::SIGTERM);
    let status = rig.await_status("the signal seen", |s| s.stopping);
    assert_eq!(status.server, Server::Primary, "handed over first");
    rig.sql("insert into t values (1)");
    let status = rig.must(
        1,
        Order::Stop {
            fast_ms: 10_000,
            hint: None,
        },
    );
    assert!(status.rest.unwrap().clean);
    assert!(rig.await_end().success());
    assert!(rig.server_processes().is_empty());
}

#[test]
fn pgbatons_settings_do_not_stay_in_auto_conf() {
    let mut rig = Rig::primary();
    rig.sql("alter system set synchronous_standby_names = '*'");
    rig.sql("alter system set work_mem = '5MB'");
    let auto = rig.pgdata().join("postgresql.auto.conf");
    wait_for("the setting's removal", || {
        (!fs::read_to_string(&auto).unwrap().contains("synchronous")).then_some(())
    });
    rig.sql("select pg_reload_conf()");
    let status = rig.await_status("a warning", |s| s.warning.contains("synchronous_standby_names"));
    assert_eq!(status.synchronous_standby_names, "");
    assert_eq!(rig.sql("show synchronous_standby_names"), "");
    wait_for("the user's own", || {
        (rig.sql("show work_mem") == "5MB").then_some(())
    });
    // Written while the server is down, it is gone before the next start.
    rig.must(
        1,
        Order::Stop {
            fast_ms: 20_000,
            hint: None,
        },
    );
    let text = fs::read_to_string(&auto).unwrap() + "primary_conninfo = 'host=elsewhere password=x'\n";
    fs::write(&auto, text).unwrap();
    rig.start_primary(1, "");
    assert_eq!(rig.sql("show primary_conninfo"), "");
    assert!(!fs::read_to_string(&auto).unwrap().contains("elsewhere"));
}

#[test]
fn an_initialisation_ends_with_its_permit() {
    let mut rig = Rig::new();
    rig.extra_env = vec![("TEST_SLOW_INIT".to_owned(), "600".to_owned())];
    rig.start();
    rig.permit(1, 4_000);
    rig.must(1, Order::Initialise);
    let error = rig.await_operation(rig.sequence);
    assert!(error.is_some());
    let status = rig.status();
    assert_eq!(down(&status.server), Some(DownReason::PermitEnded));
    assert_eq!(status.data, DataState::Incomplete);
    assert!(rig.server_processes().is_empty());
}

#[test]
fn data_that_is_not_known_is_a_new_members() {
    let mut rig = Rig::primary();
    let first = rig.status();
    rig.must(
        1,
        Order::Stop {
            fast_ms: 20_000,
            hint: None,
        },
    );
    rig.kill_guard();
    fs::remove_dir_all(rig.base().join("data/pgbaton")).unwrap();
    rig.start();
    let adopted = rig.status();
    assert_eq!(adopted.data, DataState::Complete);
    assert_eq!(adopted.system_identifier, first.system_identifier);
    assert_ne!(adopted.data_id, first.data_id);
    assert_eq!((adopted.knows_term, adopted.highest_term), (false, Term(0)));
    let noted = rig.must(7, Order::NoteTerm);
    assert_eq!((noted.knows_term, noted.highest_term), (true, Term(7)));
    // Lost data leaves no pledge and no data id behind, but the highest term stays.
    rig.must(8, Order::Pledge { hint: None });
    rig.kill_guard();
    fs::remove_dir_all(rig.pgdata()).unwrap();
    rig.start();
    let empty = rig.status();
    assert_eq!((empty.data, empty.data_id.clone()), (DataState::Empty, None));
    assert_eq!(empty.highest_term, Term(8));
    let late = rig.order(7, Order::NoteTerm);
    assert!(matches!(
        late,
        Answer::Refused {
            cause: Refusal::OldTerm,
            ..
        }
    ));
}

#[test]
fn the_end_of_wal_is_the_one_that_postgresql_finds() {
    let mut rig = Rig::primary();
    let mut expected: Option<Position> = None;
    for step in [
        "select 1",
        "insert into t select generate_series(1, 100000)",
        "insert into t values (1); select pg_switch_wal()",
        "checkpoint; insert into t select generate_series(1, 300000); checkpoint; select pg_switch_wal()",
    ] {
        rig.sql(step);
        Rig::signal(rig.postmaster(), Signal::SIGKILL);
        rig.await_status("the crash", |s| down(&s.server).is_some());
        let read = pgbaton::guard::wal::end_of_wal(&rig.pgdata(), None).unwrap();
        assert_eq!(
            read.last_record.to_string(),
            crate::rig::waldump(
                &rig.pgdata(),
                1,
                &rig.control("Latest checkpoint's REDO location")
            ),
            "after '{step}'"
        );
        for hint in [0, 1, 8, 65536, 1 << 20, 1 << 40] {
            let near = pgbaton::core::types::Lsn(read.last_record.0.saturating_sub(hint) + hint / 3);
            let hinted = pgbaton::guard::wal::end_of_wal(&rig.pgdata(), Some(near)).unwrap();
            assert_eq!(hinted, read, "hint {near} after '{step}'");
        }
        assert!(expected.is_none_or(|e| e.last_record < read.last_record));
        expected = Some(read);
        rig.start_primary(1, "");
    }
}

#[test]
fn the_guard_is_small() {
    let rig = Rig::primary();
    let of = |what: &str| {
        let text = fs::read_to_string(format!("/proc/{}/status", rig.guard_pid())).unwrap();
        let line = text.lines().find(|l| l.starts_with(what)).unwrap().to_owned();
        line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap()
    };
    let ticks = || {
        let stat = fs::read_to_string(format!("/proc/{}/stat", rig.guard_pid())).unwrap();
        let mut rest = stat.rsplit(')').next().unwrap().split_whitespace().skip(11);
        let mut next = || rest.next().unwrap().parse::<u64>().unwrap();
        next() + next()
    };
    let before = ticks();
    std::thread::sleep(Duration::from_secs(5));
    eprintln!(
        "guard: {} kB resident, {} ticks of CPU in 5 s",
        of("VmRSS"),
        ticks() - before
    );
    assert!(of("VmRSS") < 5 * 1024);
}
