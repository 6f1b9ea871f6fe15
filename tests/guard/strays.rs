//! What a stranger or a dead server left in PGDATA neither keeps the server from starting nor makes it something else.
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use crate::programs::Programs;
use crate::rig::{Rig, wait_for};
use pgbaton::guard::protocol::{Answer, DataState, DownReason, Order, Refusal, Server};

const NAMES: &str = "ANY 1 (\"nobody\")";

fn stop(rig: &mut Rig) {
    let order = Order::Stop {
        fast_ms: 20_000,
        hint: None,
    };
    rig.must(1, order);
}

/// The number that this process or thread has in its innermost PID namespace.
fn number_within(status: &str) -> i32 {
    let text = fs::read_to_string(status).unwrap();
    let line = text.lines().find(|l| l.starts_with("NSpid:")).unwrap();
    line.split_whitespace().last().unwrap().parse().unwrap()
}

/// A process of PostgreSQL's user in the guard's PID namespace that is none of PostgreSQL's.
fn foreigner(rig: &Rig) -> (Child, i32) {
    let target = rig.guard_pid().to_string();
    let mut command = Command::new("nsenter");
    command.args(["-t", &target, "-p", "-m"]);
    if crate::rig::is_root() {
        command.args(["setpriv", "--reuid", "postgres", "--regid", "postgres"]);
        command.arg("--clear-groups");
    } else {
        command.args(["-U", "--preserve-credentials"]);
    }
    let child = command
        .args(["sleep", "600"])
        .stdin(Stdio::null())
        .spawn()
        .unwrap();
    let outer = child.id();
    let pid = wait_for("the foreign process", || {
        let children = fs::read_to_string(format!("/proc/{outer}/task/{outer}/children")).ok()?;
        let inner: i32 = children.trim().parse().ok()?;
        let runs = pgbaton::guard::processes::read_one(inner).is_some_and(|p| p.name == "sleep");
        runs.then_some(inner)
    });
    (child, pid)
}

/// Lays lock files as a server with this number left them.
fn lay_locks(rig: &Rig, number: i32) {
    let (pgdata, sockets) = (rig.pgdata(), rig.base().join("sock"));
    let lines = format!(
        "{number}\n{}\n1700000000\n{}\n{}\n",
        pgdata.display(),
        rig.port,
        sockets.display()
    );
    for file in lock_files(rig) {
        lay_lock(&file, &lines);
    }
}

/// Of PGDATA and of the socket.
fn lock_files(rig: &Rig) -> [PathBuf; 2] {
    let socket = format!("sock/.s.PGSQL.{}.lock", rig.port);
    [rig.pgdata().join("postmaster.pid"), rig.base().join(socket)]
}

fn lay_lock(file: &Path, text: &str) {
    fs::write(file, text).unwrap();
    if crate::rig::is_root() {
        let user = nix::unistd::User::from_name("postgres").unwrap().unwrap();
        std::os::unix::fs::chown(file, Some(user.uid.as_raw()), Some(user.gid.as_raw())).unwrap();
    }
}

/// `pg_ctl restart` by hand, met by the guard's SIGKILL between open() and write(): found by a soak, the member never came back.
#[test]
fn empty_lock_files_do_not_keep_the_server_down() {
    let mut rig = Rig::primary();
    stop(&mut rig);
    for file in lock_files(&rig) {
        lay_lock(&file, "");
    }
    let foreign = rig.base().join("sock/.s.PGSQL.1.lock");
    lay_lock(&foreign, "1\n/somewhere/else\n");
    rig.start_primary(1, "");
    rig.sql("insert into t values (1)");
    assert!(foreign.exists(), "it is another server's");
}

#[test]
fn a_stale_pid_file_that_names_something_alive_does_not_keep_the_server_down() {
    let mut rig = Rig::primary();
    let (mut sleeper, outer) = foreigner(&rig);
    let process = number_within(&format!("/proc/{outer}/status"));
    let guard = rig.guard_pid();
    let thread = fs::read_dir(format!("/proc/{guard}/task"))
        .unwrap()
        .flatten()
        .find(|t| t.file_name() != *guard.to_string())
        .map(|t| number_within(&t.path().join("status").display().to_string()))
        .unwrap();
    // kill(0) finds both, and PostgreSQL alone would ask no more than that.
    for number in [process, thread] {
        stop(&mut rig);
        lay_locks(&rig, number);
        rig.start_primary(1, "");
        rig.sql("insert into t values (1)");
        stop(&mut rig);
        lay_locks(&rig, number);
        rig.must(
            1,
            Order::StandAlone {
                synchronous_standby_names: NAMES.to_owned(),
            },
        );
        rig.await_status("a standby", |s| s.server == Server::Standby);
    }
    assert_eq!(rig.sql("select count(*) from t"), "2");
    assert!(
        pgbaton::guard::processes::read_one(outer).is_some_and(|p| p.is_alive()),
        "it was nobody's business"
    );
    Rig::signal(outer, nix::sys::signal::Signal::SIGKILL);
    sleeper.wait().unwrap();
}

#[test]
fn a_recovery_signal_of_a_stranger_changes_no_role() {
    let mut rig = Rig::primary();
    let signal = rig.pgdata().join("recovery.signal");
    let lay = || {
        fs::write(&signal, "").unwrap();
        assert!(signal.exists());
    };
    stop(&mut rig);
    lay();
    // With it a primary would wait for restore_command, or begin a timeline of its own.
    rig.start_primary(1, "");
    assert!(!signal.exists());
    assert_eq!(rig.sql("select pg_is_in_recovery()"), "f");
    assert!(
        rig.sql("select pg_walfile_name(pg_current_wal_lsn())")
            .starts_with("00000001")
    );
    stop(&mut rig);
    lay();
    rig.must(
        1,
        Order::StandAlone {
            synchronous_standby_names: NAMES.to_owned(),
        },
    );
    rig.await_status("a standby", |s| s.server == Server::Standby);
    assert!(!signal.exists());
    // Laid under a running standby it waits for the next start, also one after a kill.
    lay();
    rig.kill_guard();
    wait_for("the end of all", || {
        rig.server_processes().is_empty().then_some(())
    });
    rig.start();
    rig.must(
        1,
        Order::StandAlone {
            synchronous_standby_names: NAMES.to_owned(),
        },
    );
    rig.await_status("a standby", |s| s.server == Server::Standby);
    assert!(!signal.exists());
    assert_eq!(rig.sql("select pg_is_in_recovery()"), "t");
}

/// Schedule 23: PGDATA is gone, the pod and its Lease are the same, and the entrypoint would make an empty primary.
#[test]
fn no_order_but_initialise_makes_a_database() {
    let mut rig = Rig::new();
    let programs = Programs::first_in_path(&mut rig);
    rig.start();
    rig.initialise();
    rig.start_primary(1, "");
    let before = rig.stamp(1);
    programs.replace(
        "initdb",
        "touch \"$(dirname \"$0\")/../data/initdb-ran\"; exec \"$REAL\" \"$@\"",
    );
    for pid in rig.server_processes() {
        let _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGKILL);
    }
    let crashed = |s: &Server| {
        matches!(
            s,
            Server::Down {
                reason: DownReason::Crashed,
                ..
            }
        )
    };
    rig.await_status("the crash", |s| crashed(&s.server));
    fs::remove_dir_all(rig.pgdata()).unwrap();
    let empty = rig.await_status("nothing there", |s| s.data == DataState::Empty);
    assert!(empty.permit.is_some() && empty.data_id.is_none());
    let start = || Order::StartPrimary {
        synchronous_standby_names: String::new(),
    };
    let cause = |answer: Answer| match answer {
        Answer::Refused { cause, reason, .. } => (cause, reason),
        other => panic!("{other:?}"),
    };
    // Meant for the data that was here.
    let mut late = before;
    late.sequence = 1000;
    rig.sequence = 1000;
    assert_eq!(
        cause(rig.ask(&crate::rig::request(start(), Some(late)))).0,
        Refusal::Foreign
    );
    let upstream = rig.upstream("w");
    for order in [
        start(),
        Order::StandAlone {
            synchronous_standby_names: NAMES.to_owned(),
        },
        Order::Follow {
            upstream: upstream.clone(),
            slot: "s".to_owned(),
            synchronous_standby_names: NAMES.to_owned(),
        },
    ] {
        rig.permit(1, 60_000);
        let (cause, reason) = cause(rig.order(1, order));
        assert_eq!(cause, Refusal::WrongState);
        assert!(reason.contains("no complete database"), "{reason}");
    }
    std::thread::sleep(std::time::Duration::from_millis(500));
    assert!(!rig.base().join("data/initdb-ran").exists());
    assert_eq!(rig.status().data, DataState::Empty);
    assert!(rig.server_processes().is_empty());
    rig.initialise();
    assert!(rig.base().join("data/initdb-ran").exists(), "the trap works");
}

/// Why a server died is told, shortly, and without the passwords that stood in what it wrote.
#[test]
fn the_last_words_of_a_server_are_short_and_hold_no_password() {
    let mut rig = Rig::new();
    let programs = Programs::first_in_path(&mut rig);
    rig.start();
    rig.initialise();
    let long = "x".repeat(5000);
    programs.replace(
        "postgres",
        &format!(
            "if [ \"$1\" = --version ]; then exec \"$REAL\" \"$@\"; fi\n\
             for n in $(seq 50); do echo \"line $n {long}\" >&2; done\n\
             echo \"FATAL:  could not open \\\"/nowhere\\\"\" >&2\n\
             printf '%s and %s\\n' {long} \"$POSTGRES_PASSWORD\" >&2\n\
             printf '%299.299s%s\\n' '' \"$POSTGRES_PASSWORD\" >&2\n\
             echo \"STATEMENT:  alter role repl password 'another-secret'\" >&2\n\
             exit 3"
        ),
    );
    rig.permit(1, 60_000);
    // Accepted: how it ends is seen later.
    rig.order(
        1,
        Order::StartPrimary {
            synchronous_standby_names: String::new(),
        },
    );
    // That it ended is told at once; its last lines may still be in the pipe then.
    let status = rig.await_status("the end", |s| {
        matches!(
            &s.server,
            Server::Down {
                reason: DownReason::Crashed,
                detail,
            } if detail.contains("STATEMENT:")
        )
    });
    let Server::Down { detail, .. } = &status.server else {
        unreachable!()
    };
    assert!(detail.starts_with("exit status 3\n"), "{detail}");
    assert!(detail.contains("FATAL:  could not open"), "{detail}");
    assert!(detail.chars().count() < 9 * 301 + 20 && detail.lines().count() <= 9);
    // Not the beginning of one either, where a line was cut.
    for secret in [crate::rig::PASSWORD, &crate::rig::PASSWORD[..3], "another-secret"] {
        assert!(!detail.contains(secret), "{detail}");
    }
    assert!(
        !format!(
            "{:?}",
            rig.connect().ask(&crate::rig::request(Order::Status, None))
        )
        .contains("sEc")
    );
}
