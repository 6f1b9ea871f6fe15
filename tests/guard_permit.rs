//! Nothing runs read-write without a permit, whatever becomes of the sidecar, and whoever promotes or starts.
#![allow(clippy::unwrap_used, reason = "a test ends by it")]

#[path = "support/guard_rig.rs"]
mod rig;

use std::fs;
use std::process::{Command, Stdio};

use nix::sys::signal::Signal;
use pgbaton::guard::clock::boot_ms;
use pgbaton::guard::protocol::{Answer, DownReason, Order, Refusal, Server};
use rig::{Rig, wait_for};

fn reason(server: &Server) -> Option<DownReason> {
    match server {
        Server::Down { reason, .. } => Some(*reason),
        _ => None,
    }
}

#[test]
fn at_the_deadline_nothing_of_the_server_is_left() {
    let mut rig = Rig::primary();
    // A sidecar that hangs: connected, in the middle of a line, and stopped.
    let mut hung = Command::new("sleep")
        .arg("600")
        .stdin(Stdio::null())
        .spawn()
        .unwrap();
    Rig::signal(i32::try_from(hung.id()).unwrap(), Signal::SIGSTOP);
    let mut frozen = rig.connect();
    frozen.send(b"{\"version\":1,\"order\":{\"order\":\"watch\",\"revision\":0,\"wait_ms\":10000}");
    let mut writers = rig.writers();
    wait_for("rows", || {
        (rig.sql("select count(*) from t") != "0").then_some(())
    });
    assert!(
        rig.server_processes().len() >= 8 + 5,
        "{:?}",
        rig.server_processes()
    );
    // Never shortened within a term; a later term sets its own.
    let before = rig.status().permit.unwrap().deadline_boot_ms;
    assert_eq!(rig.permit(1, 1_000).permit.unwrap().deadline_boot_ms, before);
    let deadline = rig.permit(2, 1_500).permit.unwrap().deadline_boot_ms;
    assert!(deadline < before);
    wait_for("the last process", || {
        rig.server_processes().is_empty().then_some(())
    });
    let late = boot_ms().saturating_sub(deadline);
    eprintln!("nothing left {late} ms after the deadline");
    assert!(boot_ms() >= deadline, "not before its time");
    writers.wait().unwrap();
    let status = rig.await_status("the reason", |s| reason(&s.server).is_some());
    assert_eq!(reason(&status.server), Some(DownReason::PermitEnded));
    assert_eq!(status.permit, None);
    wait_for("standby.signal", || {
        rig.pgdata().join("standby.signal").exists().then_some(())
    });
    // It stays down until told what to be, and comes back under a fresh permit.
    let again = rig.order(
        2,
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
    rig.start_primary(2, "");
    rig.sql("insert into t values (1)");
    hung.kill().unwrap();
    hung.wait().unwrap();
}

#[test]
fn extending_keeps_the_server_and_a_frozen_one_dies_too() {
    let mut rig = Rig::primary();
    rig.permit(2, 700);
    for _ in 0..10 {
        std::thread::sleep(std::time::Duration::from_millis(100));
        rig.permit(2, 700);
    }
    assert_eq!(rig.sql("select 1"), "1");
    // Stopped processes do not outlive the deadline either.
    for pid in rig.server_processes() {
        Rig::signal(pid, Signal::SIGSTOP);
    }
    wait_for("the end", || rig.server_processes().is_empty().then_some(()));
}

#[test]
fn a_backend_without_its_postmaster_is_ended() {
    let rig = Rig::primary();
    let mut client = Command::new(rig::bin_dir().join("psql"))
        .args([
            "-X",
            "-h",
            "127.0.0.1",
            "-U",
            rig::SUPERUSER,
            "-d",
            "postgres",
            "-c",
            "select pg_sleep(600)",
        ])
        .arg("-p")
        .arg(rig.port.to_string())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let backend = wait_for("the backend", || rig.titled("SELECT").first().copied());
    // Frozen it does not notice its postmaster's death, and would acknowledge when it thaws.
    Rig::signal(backend, Signal::SIGSTOP);
    Rig::signal(rig.postmaster(), Signal::SIGKILL);
    wait_for("the end of all", || {
        rig.server_processes().is_empty().then_some(())
    });
    client.wait().unwrap();
}

#[test]
fn a_standby_promoted_by_hand_dies() {
    let primary = Rig::primary();
    let mut standby = Rig::standby_of(&primary, 1);
    for by_hand in ["pg_ctl", "pg_promote"] {
        wait_for("streaming", || {
            (!standby.titled("walreceiver").is_empty()).then_some(())
        });
        let status = wait_for("the end", || {
            // The file may be removed before PostgreSQL sees it: then nothing was promoted.
            if by_hand == "pg_ctl" {
                standby.exec("pg_ctl", &["promote", "-W"]);
            } else {
                drop(standby.psql("select pg_promote(false)"));
            }
            Some(standby.status()).filter(|s| reason(&s.server).is_some())
        });
        assert_eq!(reason(&status.server), Some(DownReason::Unpermitted), "{by_hand}");
        assert!(standby.server_processes().is_empty());
        wait_for("standby.signal", || {
            standby.pgdata().join("standby.signal").exists().then_some(())
        });
        if by_hand == "pg_promote" {
            break;
        }
        // It has diverged; a new copy serves the next round.
        let order = standby.clone_order(&primary, 1);
        standby.must(1, order);
        assert_eq!(standby.await_operation(standby.sequence), None);
        standby.follow(&primary, 1);
        standby.await_status("a standby", |s| s.server == Server::Standby);
    }
}

#[test]
fn a_permit_alone_does_not_make_a_promotion_by_hand_right() {
    let primary = Rig::primary();
    let mut standby = Rig::standby_of(&primary, 1);
    standby.permit(5, 60_000);
    let status = wait_for("the end", || {
        // The file may be removed before PostgreSQL sees it.
        drop(standby.psql("select pg_promote(false)"));
        Some(standby.status()).filter(|s| reason(&s.server).is_some())
    });
    assert_eq!(reason(&status.server), Some(DownReason::Unpermitted));
}

#[test]
fn a_stray_promote_file_is_removed_and_standby_signal_missed() {
    let primary = Rig::primary();
    let standby = Rig::standby_of(&primary, 1);
    let promote = standby.pgdata().join("promote");
    fs::write(&promote, "").unwrap();
    wait_for("its removal", || (!promote.exists()).then_some(()));
    assert_eq!(standby.sql("select pg_is_in_recovery()"), "t");
    fs::remove_file(standby.pgdata().join("standby.signal")).unwrap();
    let status = standby.await_status("the end", |s| reason(&s.server).is_some());
    assert_eq!(reason(&status.server), Some(DownReason::Unpermitted));
}

#[test]
fn a_server_started_by_hand_dies() {
    let mut rig = Rig::primary();
    rig.must(
        1,
        Order::Stop {
            fast_ms: 20_000,
            hint: None,
        },
    );
    fs::remove_file(rig.pgdata().join("standby.signal")).unwrap();
    let conf = format!("-c config_file={}", rig.base().join("postgresql.conf").display());
    rig.exec("pg_ctl", &["start", "-W", "-l", "/dev/null", "-o", &conf]);
    let status = rig.await_status("the end", |s| reason(&s.server) == Some(DownReason::Unpermitted));
    assert!(status.permit.is_none());
    assert!(rig.server_processes().is_empty());
    wait_for("standby.signal", || {
        rig.pgdata().join("standby.signal").exists().then_some(())
    });
}

#[test]
fn a_fast_stop_that_hangs_ends_with_the_permit() {
    let mut rig = Rig::primary();
    rig.permit(2, 2_000);
    // A frozen checkpointer holds a fast stop for ever.
    let checkpointer = rig.titled("checkpointer")[0];
    Rig::signal(checkpointer, Signal::SIGSTOP);
    let deadline = rig.status().permit.unwrap().deadline_boot_ms;
    let status = rig.must(
        2,
        Order::Stop {
            fast_ms: 600_000,
            hint: None,
        },
    );
    assert!(boot_ms() >= deadline);
    assert!(!status.rest.unwrap().clean);
    assert!(rig.server_processes().is_empty());
}
