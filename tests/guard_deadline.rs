//! How soon a server is gone: 100 ms after its permit's end, and after it left recovery by somebody else's hand.
//!
//! One hiccup of a loaded machine is no broken promise, so the best of three rounds counts; a mechanism that is slow is slow in all three.
#![allow(clippy::unwrap_used, reason = "a test ends by it")]

#[path = "support/guard_rig.rs"]
mod rig;

use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::process::{Child, Command};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use nix::sys::signal::Signal;
use pgbaton::guard::clock::boot_ms;
use pgbaton::guard::control::{Control, ControlState};
use pgbaton::guard::processes::read_one;
use pgbaton::guard::protocol::{DownReason, Order, Server};
use rig::{PATIENCE, Rig, wait_for};

/// What is promised.
const WITHIN_MS: u64 = 100;
const ROUNDS: usize = 3;

fn promise(what: &str, mut round: impl FnMut(u64) -> Vec<u64>) {
    let mut seen = Vec::new();
    for number in 0..ROUNDS {
        let late = round(u64::try_from(number).unwrap());
        eprintln!("{what}: {late:?} ms");
        if late.iter().all(|ms| *ms <= WITHIN_MS) {
            return;
        }
        seen.push(late);
    }
    panic!("{what}: {seen:?} ms, promised {WITHIN_MS}");
}

/// A process that holds a connection to the guard, as the sidecar does.
fn sidecar(rig: &Rig) -> Child {
    let stream = UnixStream::connect(rig.base().join("run/guard.sock")).unwrap();
    Command::new("sleep")
        .arg("600")
        .stdin(OwnedFd::from(stream))
        .spawn()
        .unwrap()
}

/// When a process of the server was last seen alive (boot clock, taken before looking).
fn last_alive(rig: &Rig) -> u64 {
    let end = boot_ms() + u64::try_from(PATIENCE.as_millis()).unwrap();
    let mut known = rig.server_processes();
    let mut last = boot_ms();
    loop {
        let at = boot_ms();
        // Few are looked at quickly; all of them when those are gone.
        if known
            .iter()
            .any(|pid| read_one(*pid).is_some_and(|p| p.is_alive()))
        {
            last = at;
            std::thread::sleep(Duration::from_micros(500));
        } else {
            known = rig.server_processes();
            if known.is_empty() {
                return last;
            }
        }
        assert!(at < end, "the server does not end");
    }
}

/// What the guard itself says about the end of this term's permit.
fn told_lateness(rig: &Rig, term: u64) -> u64 {
    wait_for("the guard's own word", || {
        let log = rig.log();
        let line = log
            .lines()
            .find(|l| l.contains("nothing of the server is left") && l.contains(&format!("term={term} ")))?;
        line.split("late_ms=")
            .nth(1)?
            .split_whitespace()
            .next()?
            .parse()
            .ok()
    })
}

fn deadline_with(what: &str, ended_by: Signal) {
    let mut rig = Rig::primary();
    promise(what, |round| {
        let term = 2 + 2 * round;
        if round > 0 {
            rig.start_primary(term, "");
        }
        let mut sidecar = sidecar(&rig);
        let mut writers = rig.writers();
        wait_for("eight writing clients", || {
            let busy = "select count(*) from pg_stat_activity where application_name = 'pgbench'";
            (rig.sql(busy) == "8" && rig.sql("select count(*) from t") != "0").then_some(())
        });
        // The last that the sidecar does. A later term sets its own, shorter deadline.
        let deadline = rig.permit(term + 1, 1_200).permit.unwrap().deadline_boot_ms;
        Rig::signal(i32::try_from(sidecar.id()).unwrap(), ended_by);
        let last = last_alive(&rig);
        writers.wait().unwrap();
        sidecar.kill().unwrap();
        sidecar.wait().unwrap();
        assert!(boot_ms() >= deadline, "not before its time");
        assert!(rig.server_processes().is_empty());
        let told = told_lateness(&rig, term + 1);
        vec![last.saturating_sub(deadline), told]
    });
    let status = rig.await_status("the reason", |s| matches!(s.server, Server::Down { .. }));
    assert!(
        matches!(
            status.server,
            Server::Down {
                reason: DownReason::PermitEnded,
                ..
            }
        ),
        "{status:?}"
    );
}

#[test]
fn the_server_of_a_frozen_sidecar_is_gone_at_the_deadline() {
    deadline_with("after the deadline, sidecar frozen", Signal::SIGSTOP);
}

#[test]
fn the_server_of_a_dead_sidecar_is_gone_at_the_deadline() {
    deadline_with("after the deadline, sidecar killed", Signal::SIGKILL);
}

#[test]
fn a_server_promoted_by_hand_is_gone_at_once() {
    let primary = Rig::primary();
    let mut standby = Rig::standby_of(&primary, 1);
    promise("after leaving recovery by hand", |round| {
        if round > 0 {
            // It has diverged; a new copy serves the next round.
            let order = standby.clone_order(&primary, 1);
            standby.must(1, order);
            assert_eq!(standby.await_operation(standby.sequence), None);
            standby.follow(&primary, 1);
            standby.await_status("a standby", |s| s.server == Server::Standby);
        }
        let done = AtomicBool::new(false);
        let (left, last) = std::thread::scope(|scope| {
            let pgdata = standby.pgdata();
            let (done, seen) = (&done, &standby);
            let watcher = scope.spawn(move || {
                let left = wait_for("the server to leave recovery", || {
                    let at = boot_ms();
                    let end = at + 50;
                    while boot_ms() < end {
                        let control = Control::read(&pgdata);
                        if control.is_ok_and(|c| c.state == ControlState::InProduction) {
                            return Some(boot_ms());
                        }
                    }
                    // The guard may see it before PostgreSQL has noted it in the control file.
                    seen.server_processes().is_empty().then(boot_ms)
                });
                let last = last_alive(seen);
                done.store(true, Ordering::SeqCst);
                (left, last)
            });
            // The guard may remove the file before PostgreSQL sees it: then nothing was promoted.
            while !done.load(Ordering::SeqCst) && !watcher.is_finished() {
                drop(standby.psql("select pg_promote(false)"));
            }
            watcher.join().unwrap()
        });
        vec![last.saturating_sub(left)]
    });
    let status = standby.await_status("the reason", |s| matches!(s.server, Server::Down { .. }));
    assert!(
        matches!(
            status.server,
            Server::Down {
                reason: DownReason::Unpermitted,
                ..
            }
        ),
        "{status:?}"
    );
}

#[test]
fn a_fast_stop_that_a_frozen_standby_holds_up_is_cut_at_its_bound() {
    let mut primary = Rig::primary();
    let standby = Rig::standby_of(&primary, 1);
    primary.sql("insert into t values (1)");
    wait_for("streaming", || {
        let seen = "select count(*) from pg_stat_replication where state = 'streaming'";
        (primary.sql(seen) == "1").then_some(())
    });
    for pid in standby.server_processes() {
        Rig::signal(pid, Signal::SIGSTOP);
    }
    // What it is to miss: without that, nothing holds the stop up.
    primary.sql("insert into t select generate_series(1, 10000)");
    let began = std::time::Instant::now();
    let status = primary.must(
        1,
        Order::Stop {
            fast_ms: 700,
            hint: None,
        },
    );
    let took = began.elapsed();
    eprintln!("fast stop with a frozen standby: {} ms", took.as_millis());
    assert!(took.as_millis() >= 700, "the standby did not hold it up");
    // wal_sender_timeout, 5 s here, would end it too; the machine may be slow.
    assert!(took.as_millis() < 4_000, "{took:?}");
    assert!(primary.server_processes().is_empty());
    assert!(status.rest.is_some());
}
