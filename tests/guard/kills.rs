//! A guard killed at each step of an initialisation, clone and rewind: what the next guard finds, and that it goes on from there.
use std::fs;
use std::path::Path;
use std::process::Command;

use crate::programs::{Programs, snapshot};
use crate::rig::{Rig, wait_for};
use pgbaton::core::types::{DataId, Timeline};
use pgbaton::guard::protocol::{DataState, Order, Server, Status};

/// Where a program that makes a data directory stops. Its argument that names the directory is `$DIR`.
const STEPS: [(&str, &str); 5] = [
    ("before the first file", ""),
    (
        "with some files and no pg_control",
        "\"$REAL\" \"$@\" || exit\nrm -rf \"$DIR\"/global \"$DIR\"/pg_xact \"$DIR\"/PG_VERSION",
    ),
    (
        "before pg_control",
        "\"$REAL\" \"$@\" || exit\nrm \"$DIR/global/pg_control\"",
    ),
    (
        "with half of pg_control",
        "\"$REAL\" \"$@\" || exit\ntruncate -s 40 \"$DIR/global/pg_control\"",
    ),
    ("just before its end", "\"$REAL\" \"$@\" || exit"),
];

/// Kills the guard, sees all of it end, and starts the next.
fn kill_and_restart(rig: &mut Rig) -> Status {
    rig.kill_guard();
    wait_for("the end of all", || {
        rig.server_processes().is_empty().then_some(())
    });
    rig.start();
    rig.status()
}

fn stop(rig: &mut Rig, term: u64) {
    let order = Order::Stop {
        fast_ms: 20_000,
        hint: None,
    };
    rig.must(term, order);
}

/// Starts what is there as a standby of nobody and counts rows.
fn rows(rig: &mut Rig, term: u64) -> String {
    let names = "x".to_owned();
    rig.must(
        term,
        Order::StandAlone {
            synchronous_standby_names: names,
        },
    );
    rig.await_status("a standby", |s| s.server == Server::Standby);
    let found = rig.sql("select count(*) from t");
    stop(rig, term);
    found
}

#[test]
fn an_initialisation_killed_at_each_step_is_done_again() {
    let mut rig = Rig::new();
    let programs = Programs::first_in_path(&mut rig);
    rig.start();
    let directory = "for a in \"$@\"; do case $a in --pgdata=*) DIR=${a#*=};; esac; done\n";
    for (step, script) in STEPS {
        programs.stall("initdb", &format!("{directory}{script}"));
        rig.permit(1, 120_000);
        rig.must(1, Order::Initialise);
        programs.await_stall(&rig);
        let status = kill_and_restart(&mut rig);
        // No file yet, or not a database, however complete it looks: the image's own scripts have not run.
        let expected = if step == "before the first file" {
            DataState::Empty
        } else {
            DataState::Incomplete
        };
        assert_eq!((status.data, status.data_id), (expected, None), "{step}");
        let start = Order::StartPrimary {
            synchronous_standby_names: String::new(),
        };
        rig.permit(1, 120_000);
        assert!(
            matches!(
                rig.order(1, start),
                pgbaton::guard::protocol::Answer::Refused { .. }
            ),
            "{step}"
        );
    }
    programs.restore("initdb");
    // The server is made and runs for good, and nobody has marked it yet.
    programs.replace(
        "postgres",
        "case \"$*\" in *archive_mode=off*) touch \"$PGDATA/../../marks/final\"; exec sleep 600;; esac\nexec \"$REAL\" \"$@\"",
    );
    rig.permit(1, 120_000);
    rig.must(1, Order::Initialise);
    wait_for("the last step", || {
        rig.base().join("marks/final").exists().then_some(())
    });
    let status = kill_and_restart(&mut rig);
    assert_eq!((status.data, status.data_id), (DataState::Incomplete, None));
    programs.restore("postgres");
    kill_and_restart(&mut rig);
    rig.initialise();
    rig.start_primary(1, "");
    assert_eq!(
        rig.sql("select count(*) from pg_roles where rolname = 'repl'"),
        "1"
    );
}

#[test]
fn a_clone_killed_at_each_step_leaves_the_old_data() {
    let primary = Rig::primary();
    primary.sql("insert into t select generate_series(1, 1000)");
    let mut old = Rig::new();
    let programs = Programs::first_in_path(&mut old);
    old.start();
    old.initialise();
    let data_id = old.status().data_id;
    let before = snapshot(&old.pgdata());
    let directory = "for a in \"$@\"; do case $last in --pgdata) DIR=$a;; esac; last=$a; done\n";
    for (step, script) in STEPS {
        programs.stall("pg_basebackup", &format!("{directory}{script}"));
        let order = old.clone_order(&primary, 1);
        old.must(1, order);
        programs.await_stall(&old);
        let status = kill_and_restart(&mut old);
        assert_eq!(
            (status.data, &status.data_id),
            (DataState::Complete, &data_id),
            "{step}"
        );
        assert_eq!(snapshot(&old.pgdata()), before, "{step}");
        assert!(!old.base().join("data/pgbaton/clone").exists(), "{step}");
    }
    programs.restore("pg_basebackup");
    let order = old.clone_order(&primary, 1);
    old.must(1, order);
    assert_eq!(old.await_operation(old.sequence), None);
    assert_ne!(old.status().data_id, data_id);
    assert_eq!(rows(&mut old, 1), "1000");
}

/// One state of the disk between the copy's last byte and the end of the swap.
struct Between {
    step: &'static str,
    /// What lies in PGDATA, beside it as `.old`, and in the clone's directory.
    pgdata: &'static str,
    old: &'static str,
    clone: &'static str,
    /// What the state file says: the swap, and whether the data id is the new one.
    swapping: bool,
    renewed: bool,
    /// Whose data the next guard must have.
    then: &'static str,
}

const BETWEEN: [Between; 10] = [
    between(
        "copied, not marked",
        ["old", "", "unmarked"],
        [false, false],
        "old",
    ),
    between("marked", ["old", "", "new"], [false, false], "old"),
    between("the swap is written", ["old", "", "new"], [true, false], "new"),
    between(
        "an older PGDATA.old is there still",
        ["old", "old", "new"],
        [true, false],
        "new",
    ),
    between("PGDATA is moved aside", ["", "old", "new"], [true, false], "new"),
    between("the copy is in place", ["new", "old", ""], [true, false], "new"),
    between("the state is written", ["new", "old", ""], [false, true], "new"),
    between("the old data is gone", ["new", "", ""], [false, true], "new"),
    between(
        "a guard made an empty PGDATA in between",
        ["empty", "old", "new"],
        [true, false],
        "new",
    ),
    // No order of steps leads here; a disk that lost the copy might.
    between("the copy is lost", ["", "old", ""], [true, false], "old"),
];

const fn between(
    step: &'static str,
    [pgdata, old, clone]: [&'static str; 3],
    [swapping, renewed]: [bool; 2],
    then: &'static str,
) -> Between {
    Between {
        step,
        pgdata,
        old,
        clone,
        swapping,
        renewed,
        then,
    }
}

fn copy(from: &Path, to: &Path) {
    let done = Command::new("cp").arg("-a").arg(from).arg(to).status().unwrap();
    assert!(done.success());
}

/// Lays the directories of this state.
fn lay(base: &Path, b: &Between) {
    for (place, what) in [
        ("data/pgdata", b.pgdata),
        ("data/pgdata.old", b.old),
        ("data/pgbaton/clone", b.clone),
    ] {
        let place = base.join(place);
        if place.exists() {
            fs::remove_dir_all(&place).unwrap();
        }
        if what == "empty" {
            fs::create_dir(&place).unwrap();
        } else if !what.is_empty() {
            copy(&base.join(format!("kept-{what}")), &place);
        }
    }
}

#[test]
fn a_swap_killed_between_any_two_steps_is_finished_or_undone() {
    let mut rig = Rig::new();
    rig.start();
    rig.initialise();
    let old_id = rig.status().data_id.unwrap();
    rig.kill_guard();
    let new_id = DataId::from_random([7; 8]);
    let base = rig.base().to_owned();
    let kept = |name: &str| base.join(format!("kept-{name}"));
    let mark = |name: &str, data_id: Option<&DataId>| {
        copy(&rig.pgdata(), &kept(name));
        let file = kept(name).join("pgbaton.data_id");
        match data_id {
            Some(id) => fs::write(file, format!("{id}\n")).unwrap(),
            None => fs::remove_file(file).unwrap(),
        }
        fs::write(kept(name).join("whose"), name).unwrap();
        // Enough to be told as a database; the rest takes time to copy.
        for large in ["base", "pg_wal"] {
            fs::remove_dir_all(kept(name).join(large)).unwrap();
        }
    };
    mark("old", Some(&old_id));
    mark("new", Some(&new_id));
    mark("unmarked", None);
    let state: serde_json::Value =
        serde_json::from_slice(&fs::read(base.join("data/pgbaton/state.json")).unwrap()).unwrap();
    let (old_dir, clone_dir) = (base.join("data/pgdata.old"), base.join("data/pgbaton/clone"));
    for b in &BETWEEN {
        lay(&base, b);
        let mut state = state.clone();
        state["swap"] = b.swapping.then(|| new_id.to_string()).into();
        if b.renewed {
            state["data_id"] = new_id.to_string().into();
        }
        fs::write(base.join("data/pgbaton/state.json"), state.to_string()).unwrap();
        rig.start();
        let status = rig.status();
        let (id, whose) = match b.then {
            "new" => (&new_id, "new"),
            _ => (&old_id, "old"),
        };
        assert_eq!(
            (status.data, status.data_id.as_ref()),
            (DataState::Complete, Some(id)),
            "{}",
            b.step
        );
        assert_eq!(
            fs::read_to_string(rig.pgdata().join("whose")).unwrap(),
            whose,
            "{}",
            b.step
        );
        assert!(!old_dir.exists() && !clone_dir.exists(), "{}", b.step);
        rig.kill_guard();
    }
}

#[test]
fn a_rewind_killed_at_each_step_is_known_as_such_and_a_clone_helps() {
    let mut primary = Rig::primary();
    let mut old = Rig::new();
    let programs = Programs::first_in_path(&mut old);
    old.start();
    let order = old.clone_order(&primary, 1);
    old.must(1, order);
    assert_eq!(old.await_operation(old.sequence), None);
    primary.sql("insert into t select generate_series(1, 1000)");
    let rewind = |rig: &Rig| Order::Rewind {
        upstream: rig.upstream("rewind"),
        timeline: Timeline(1),
        source_major: None,
    };
    let directory = "for a in \"$@\"; do case $last in --target-pgdata) DIR=$a;; esac; last=$a; done\n";
    let say = "echo 'pg_rewind: reading source file list' >&2\n";
    let steps = [
        ("before anything", ""),
        ("about to change files", say),
        (
            "with files removed and not copied yet",
            "rm -rf \"$DIR\"/base/1 \"$DIR\"/pg_xact",
        ),
        ("before pg_control", "rm \"$DIR/global/pg_control\""),
        ("just before its end", "\"$REAL\" \"$@\" || exit"),
    ];
    for (step, script) in steps {
        programs.stall("pg_rewind", &format!("{directory}{script}"));
        let first = old.status().data_id;
        old.must(1, rewind(&primary));
        programs.await_stall(&old);
        let status = kill_and_restart(&mut old);
        // pg_rewind works in place and nobody can tell how far it came: none of it is taken for a database.
        assert_eq!(
            (status.data, status.data_id),
            (DataState::Incomplete, None),
            "{step}"
        );
        for order in [
            rewind(&primary),
            Order::StandAlone {
                synchronous_standby_names: "x".to_owned(),
            },
        ] {
            let answer = old.order(1, order);
            assert!(
                matches!(answer, pgbaton::guard::protocol::Answer::Refused { .. }),
                "{step}: {answer:?}"
            );
        }
        let order = old.clone_order(&primary, 1);
        old.must(1, order);
        assert_eq!(old.await_operation(old.sequence), None, "{step}");
        let status = old.status();
        assert_eq!(status.data, DataState::Complete, "{step}");
        assert!(
            status.data_id.is_some() && status.data_id != first,
            "{step}: a new life"
        );
    }
    stop(&mut primary, 1);
    assert_eq!(rows(&mut old, 1), "1000");
}
