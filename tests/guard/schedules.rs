//! Schedules that broke earlier drafts of the design, on real servers (see docs/safety.md).
use std::fs;
use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::programs::Programs;
use crate::rig::{Rig, wait_for};
use pgbaton::core::types::{Lsn, Timeline};
use pgbaton::guard::clock::boot_ms;
use pgbaton::guard::control::{Control, ControlState};
use pgbaton::guard::protocol::{Answer, DataState, DownReason, Order, Refusal, Server};

fn refused(answer: &Answer, says: &str) {
    match answer {
        Answer::Refused {
            cause: Refusal::WrongState,
            reason,
            ..
        } if reason.contains(says) => {}
        other => panic!("'{says}': {other:?}"),
    }
}

/// Schedule 15: a receiver that connects has no row in pg_stat_wal_receiver, and streams a moment later.
#[test]
fn a_pledge_ends_a_receiver_that_is_connecting() {
    let primary = Rig::primary();
    let mut standby = Rig::standby_of(&primary, 1);
    // Takes connections and says nothing.
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = silent.local_addr().unwrap().port();
    let taken: Arc<Mutex<Vec<TcpStream>>> = Arc::default();
    let keep = taken.clone();
    std::thread::spawn(move || {
        for stream in silent.incoming().flatten() {
            keep.lock().unwrap().push(stream);
        }
    });
    for term in 2..6 {
        let mut upstream = primary.upstream("connecting");
        upstream.port = port;
        let before = taken.lock().unwrap().len();
        standby.must(
            term,
            Order::Follow {
                upstream,
                slot: "s".to_owned(),
                synchronous_standby_names: "x".to_owned(),
            },
        );
        wait_for("a receiver that connects", || {
            let runs = !standby.titled("walreceiver").is_empty() && taken.lock().unwrap().len() > before;
            (runs && standby.sql("select count(*) from pg_stat_wal_receiver") == "0").then_some(())
        });
        // With replay paused the startup process does not end the receiver by itself.
        let paused = term % 2 == 0;
        if paused {
            standby.sql("select pg_wal_replay_pause()");
            wait_for("the pause", || {
                (standby.sql("select pg_get_wal_replay_pause_state()") == "paused").then_some(())
            });
            assert!(!standby.titled("walreceiver").is_empty(), "still connecting");
        }
        let status = standby.must(term, Order::Pledge { hint: None });
        let left = standby.titled("walreceiver");
        assert!(left.is_empty(), "term {term}: {left:?}");
        assert!(status.pledge.unwrap().position.is_some());
        assert_eq!(status.server, Server::Standby, "let go of, not ended");
        let then = taken.lock().unwrap().len();
        std::thread::sleep(Duration::from_millis(700));
        assert!(standby.titled("walreceiver").is_empty());
        assert_eq!(taken.lock().unwrap().len(), then, "nobody connects any more");
        if paused {
            standby.sql("select pg_wal_replay_resume()");
        }
    }
}

/// Sends the order and does not wait for its answer: it never comes.
fn promote_unheard(rig: &mut Rig, term: u64, timeline: u32) {
    rig.permit(term, 120_000);
    let stamp = rig.stamp(term);
    let timeline = Timeline(timeline);
    let request = crate::rig::request(Order::Promote { timeline }, Some(stamp));
    let mut connection = rig.connect();
    std::thread::spawn(move || {
        connection.send(&serde_json::to_vec(&request).unwrap());
        connection.read()
    });
}

fn stand_alone(rig: &mut Rig, term: u64) {
    rig.must(
        term,
        Order::StandAlone {
            synchronous_standby_names: "x".to_owned(),
        },
    );
    rig.await_status("a standby", |s| s.server == Server::Standby);
}

fn restart(rig: &mut Rig) {
    rig.kill_guard();
    wait_for("the end of all", || {
        rig.server_processes().is_empty().then_some(())
    });
    rig.start();
}

/// Before PostgreSQL heard of it: still a standby on timeline 1, and the numbers below are barred.
fn killed_before_it_began(dying: &mut Rig, programs: &Programs) {
    dying.must(2, Order::Pledge { hint: None });
    programs.stall("pg_ctl", "");
    promote_unheard(dying, 2, 4);
    programs.await_stall(dying);
    restart(dying);
    let status = dying.must(3, Order::Pledge { hint: None });
    assert_eq!(status.data, DataState::Complete);
    assert_eq!(status.pledge.unwrap().position.unwrap().timeline, Timeline(1));
    stand_alone(dying, 3);
    assert_eq!(dying.sql("select pg_is_in_recovery()"), "t");
    // Its bars are gone, or PostgreSQL would take the highest of them for its history and never come up.
    for number in [2, 3, 4] {
        let history = dying.pgdata().join(format!("pg_wal/{number:08X}.history"));
        assert!(!history.exists(), "{number}");
    }
}

/// Promoted, written to, and killed before anybody was told.
fn killed_unheard(dying: &mut Rig, programs: &Programs) {
    programs.stall("pg_ctl", "\"$REAL\" \"$@\"");
    promote_unheard(dying, 3, 5);
    programs.await_stall(dying);
    wait_for("the end of recovery", || {
        let control = Control::read(&dying.pgdata());
        control
            .is_ok_and(|c| c.state == ControlState::InProduction)
            .then_some(())
    });
    wait_for("a row that nobody knows of", || {
        dying
            .psql("insert into t values (666)")
            .status
            .success()
            .then_some(())
    });
    restart(dying);
    programs.restore("pg_ctl");
    let status = dying.must(4, Order::Pledge { hint: None });
    // By the timeline of its WAL the core sees that it is off the record: it is cloned, never rewound (`is_recorded`).
    assert_eq!(status.pledge.unwrap().position.unwrap().timeline, Timeline(5));
    assert!(matches!(status.server, Server::Down { .. }));
    stand_alone(dying, 4);
    assert_eq!(dying.sql("select pg_is_in_recovery()"), "t");
    dying.permit(4, 120_000);
    let timeline = Timeline(5);
    refused(
        &dying.order(4, Order::Promote { timeline }),
        "timeline 5 is in pg_wal already",
    );
    dying.must(
        4,
        Order::Stop {
            fast_ms: 20_000,
            hint: None,
        },
    );
}

/// Schedule 22: killed in the middle of `promote`, unheard. Whatever became of it, its number is nobody's any more.
#[test]
fn a_promotion_killed_in_the_middle_leaves_no_number_that_is_used_twice() {
    let mut primary = Rig::primary();
    let mut dying = Rig::new();
    let programs = Programs::first_in_path(&mut dying);
    dying.start();
    let order = dying.clone_order(&primary, 1);
    dying.must(1, order);
    assert_eq!(dying.await_operation(dying.sequence), None);
    dying.follow(&primary, 1);
    dying.await_status("a standby", |s| s.server == Server::Standby);
    let mut third = Rig::standby_of(&primary, 1);
    let data_id = dying.status().data_id;
    let stop = Order::Stop {
        fast_ms: 20_000,
        hint: None,
    };
    primary.must(1, stop);

    killed_before_it_began(&mut dying, &programs);
    assert_eq!(dying.status().data_id, data_id);
    killed_unheard(&mut dying, &programs);

    // Another one leads, from the same place, under a number of its own.
    third.must(5, Order::Pledge { hint: None });
    third.permit(5, 600_000);
    let timeline = Timeline(6);
    third.must(5, Order::Promote { timeline });
    let history = fs::read_to_string(third.pgdata().join("pg_wal/00000006.history")).unwrap();
    assert!(history.starts_with("1\t"), "{history}");
    let barred = fs::metadata(third.pgdata().join("pg_wal/00000005.history")).unwrap();
    assert_eq!(barred.len(), 0);
    third.sql("insert into t values (1)");
    let order = dying.clone_order(&third, 6);
    dying.must(5, order);
    assert_eq!(dying.await_operation(dying.sequence), None);
    dying.follow(&third, 5);
    wait_for("the rows", || {
        (dying.psql("select string_agg(i::text, ',') from t").stdout == b"1\n").then_some(())
    });
}

/// A file system of its own for PGDATA that can be made to hang.
struct Disk {
    at: PathBuf,
}

impl Disk {
    /// None where the kernel does not let us.
    fn under(rig: &Rig) -> Option<Self> {
        let (at, image) = (rig.base().join("data"), rig.base().join("image"));
        fs::File::create(&image).unwrap().set_len(400 << 20).unwrap();
        let run = |program: &str, args: &[&str]| {
            let out = Command::new(program)
                .args(args)
                .env("PATH", format!("{}:/usr/sbin:/sbin", crate::rig::path_env()))
                .output();
            out.is_ok_and(|o| o.status.success())
        };
        let (place, file) = (at.display().to_string(), image.display().to_string());
        let made = run("mkfs.ext4", &["-q", &file]) && run("mount", &["-o", "loop", &file, &place]);
        made.then_some(Self { at })
    }

    fn freeze(&self, how: &str) -> bool {
        let out = Command::new("fsfreeze")
            .arg(how)
            .arg(&self.at)
            .env("PATH", format!("{}:/usr/sbin:/sbin", crate::rig::path_env()))
            .output();
        out.is_ok_and(|o| o.status.success())
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        self.freeze("--unfreeze");
        // Lazily: what still sits in it ends with the guard.
        let _ = Command::new("umount").arg("--lazy").arg(&self.at).status();
    }
}

/// The signal file is laid after the kill: a disk that hangs must not delay it.
#[test]
fn a_hung_disk_does_not_delay_the_end_of_the_permit() {
    let mut rig = Rig::new();
    let Some(disk) = Disk::under(&rig) else {
        eprintln!("skipped: no right to mount a file system of our own here");
        return;
    };
    rig.start();
    rig.initialise();
    let mut late = Vec::new();
    for term in [2, 4, 6] {
        rig.start_primary(term, "");
        rig.sql("insert into t values (1)");
        rig.sql("checkpoint");
        let deadline = rig.permit(term + 1, 1_500).permit.unwrap().deadline_boot_ms;
        // Nothing is being written, so nothing of PostgreSQL waits for the disk, which no signal would end.
        assert!(disk.freeze("--freeze"), "fsfreeze");
        let status = rig.await_status("the end", |s| matches!(s.server, Server::Down { .. }));
        late.push(boot_ms().saturating_sub(deadline));
        assert!(rig.server_processes().is_empty());
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
        assert!(!rig.pgdata().join("standby.signal").exists(), "the disk hangs");
        assert!(disk.freeze("--unfreeze"));
        wait_for("standby.signal", || {
            rig.pgdata().join("standby.signal").exists().then_some(())
        });
        // Seen by polling, on a machine that may be busy; a kill that waits for the disk does not end at all.
        if late.iter().any(|ms| *ms <= 150) {
            eprintln!("gone {late:?} ms after the deadline, on a disk that hangs");
            return;
        }
    }
    panic!("late by {late:?} ms");
}

/// A position is told only when all WAL has been read: after a restart receive is NULL and replay lags (schedule 13).
#[test]
fn a_restarted_standby_tells_all_the_wal_that_it_holds() {
    let primary = Rig::primary();
    let mut standby = Rig::standby_of(&primary, 1);
    standby.sql("select pg_wal_replay_pause()");
    primary.sql("insert into t select generate_series(1, 100000)");
    let flushed: Lsn = primary.sql("select pg_current_wal_flush_lsn()").parse().unwrap();
    wait_for("the WAL", || {
        let received = standby.sql("select pg_last_wal_receive_lsn()");
        (received.parse::<Lsn>().unwrap() >= flushed).then_some(())
    });
    restart(&mut standby);
    let held = standby
        .must(2, Order::Pledge { hint: None })
        .pledge
        .unwrap()
        .position
        .unwrap();
    // The start of the last record, a commit of a few dozen bytes.
    assert!(
        held.last_record < flushed && held.last_record.0 + 512 > flushed.0,
        "{held} and {flushed}"
    );
}
