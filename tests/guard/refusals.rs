//! Where the guard cannot guard it says why and what to change, and leaves the disk as it was.
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use crate::programs::snapshot;
use crate::rig::Rig;
use pgbaton::guard::protocol::Server;

/// A guard started as in its container, with nothing but these arguments; `before` runs in its mount namespace first.
fn guard(rig: &Rig, before: &str, args: &[&str]) -> (bool, String) {
    let namespace = "exec unshare --pid --fork --kill-child --mount-proc \"$@\"";
    let mut command = Command::new("unshare");
    command.arg("--mount");
    if !crate::rig::is_root() {
        command.args(["--user", "--map-root-user"]);
    }
    let out = command
        .args(["sh", "-ec", &format!("{before}\n{namespace}"), "sh"])
        .arg(rig.base().join("pgbaton"))
        .arg("guard")
        .args(args)
        .env_remove("PGDATA")
        .env("PATH", crate::rig::path_env())
        .stdin(Stdio::null())
        .current_dir(rig.base())
        .output()
        .unwrap();
    (
        out.status.success(),
        String::from_utf8_lossy(&out.stderr).into_owned(),
    )
}

struct Bad<'a> {
    args: &'a [&'a str],
    says: &'a [&'a str],
}

fn refused(rig: &Rig, before: &str, bad: &Bad) {
    let disk = snapshot(rig.base());
    let (success, text) = guard(rig, before, bad.args);
    assert!(!success, "{:?}: {text}", bad.args);
    for part in bad.says {
        assert!(text.contains(part), "{:?}: '{part}' is not in: {text}", bad.args);
    }
    assert!(!text.contains("panicked"), "{text}");
    assert_eq!(snapshot(rig.base()), disk, "{:?}", bad.args);
}

#[test]
fn a_bad_flag_is_named_and_nothing_is_changed() {
    let rig = Rig::new();
    let data = rig.base().join("new/data/pgdata").display().to_string();
    let run = rig.base().join("new/run").display().to_string();
    let place = ["--pgdata", &data, "--run-dir", &run];
    let entry = ["--", "entry.sh"];
    let with = |more: &[&'static str]| -> Vec<String> {
        let all = place.iter().copied().chain(more.iter().copied()).chain(entry);
        all.map(str::to_owned).collect()
    };
    for (more, says) in [
        (
            vec!["--stop-timeout", "0s"],
            vec!["--stop-timeout", "between 1s and 1h"],
        ),
        (
            vec!["--stop-timeout", "2h"],
            vec!["--stop-timeout", "between 1s and 1h"],
        ),
        (
            vec!["--stop-timeout", "soon"],
            vec!["--stop-timeout", "write it as 25s"],
        ),
        (vec!["--log", "loud"], vec!["--log loud", "no level"]),
        (
            vec!["--log", "pgbaton=loud"],
            vec!["--log pgbaton=loud", "neither a level"],
        ),
        (vec!["--log-format", "xml"], vec!["--log-format", "human, json"]),
        (vec!["--peer-uid", "mouse"], vec!["--peer-uid", "mouse"]),
        (vec!["--peer-uid", "4294967295"], vec!["--peer-uid", "4294967295"]),
        (vec!["--peer-uid=-1"], vec!["--peer-uid", "-1"]),
    ] {
        let args = with(&more);
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        refused(
            &rig,
            "",
            &Bad {
                args: &args,
                says: &says,
            },
        );
    }
}

#[test]
fn a_bad_place_is_named_and_nothing_is_changed() {
    let rig = Rig::new();
    let data = rig.base().join("new/data/pgdata").display().to_string();
    let run = rig.base().join("new/run").display().to_string();
    let within = format!("{data}/run");
    let place = ["--pgdata", &data, "--run-dir", &run];
    let file = rig.base().join("postgresql.conf").display().to_string();
    for bad in [
        Bad {
            args: &["--run-dir", &run, "--", "entry.sh"],
            says: &["PGDATA is not set", "--pgdata"],
        },
        Bad {
            args: &["--pgdata", "data/pgdata", "--run-dir", &run, "--", "entry.sh"],
            says: &["absolute path", "data/pgdata"],
        },
        Bad {
            args: &["--pgdata", &file, "--run-dir", &run, "--", "entry.sh"],
            says: &["is not a directory", &file],
        },
        Bad {
            args: &["--pgdata", &data, "--run-dir", &within, "--", "entry.sh"],
            says: &["--run-dir", "lies in PGDATA"],
        },
        Bad {
            args: &place,
            says: &["no command to guard"],
        },
        Bad {
            args: &[
                "--pgdata",
                "/pgbaton-refused",
                "--run-dir",
                &run,
                "--",
                "entry.sh",
            ],
            says: &["directly below /", "PGDATA=/data/pgdata"],
        },
    ] {
        refused(&rig, "", &bad);
    }
    assert!(!Path::new("/pgbaton-refused").exists() && !Path::new("/pgbaton").exists());
}

#[test]
fn a_bad_user_is_named_and_nothing_is_changed() {
    let rig = Rig::new();
    let data = rig.base().join("new/data/pgdata").display().to_string();
    let run = rig.base().join("new/run").display().to_string();
    for (user, says) in [
        ("no-such-user", ["no-such-user", "--user"]),
        ("root", ["is root", "does not run as root"]),
        ("0", ["is root", "does not run as root"]),
    ] {
        let args = [
            "--pgdata",
            &data,
            "--run-dir",
            &run,
            "--user",
            user,
            "--",
            "entry.sh",
        ];
        let bad = Bad {
            args: &args,
            says: &says,
        };
        refused(&rig, "", &bad);
    }
}

#[test]
fn a_volume_that_would_lose_the_pledge_without_the_data_is_refused() {
    let rig = Rig::new();
    fs::create_dir(rig.base().join("data/pgbaton")).unwrap();
    fs::create_dir(rig.pgdata()).unwrap();
    let pgdata = rig.pgdata().display().to_string();
    let run = rig.base().join("no-run").display().to_string();
    let args = ["--pgdata", &pgdata, "--run-dir", &run, "--", "entry.sh"];
    for (mounted, says) in [
        (
            "data/pgbaton",
            [
                "is on another file system than PGDATA",
                "Mount one volume over both",
            ],
        ),
        (
            "data/pgdata",
            ["is itself a mount point", "Mount the volume one level higher"],
        ),
    ] {
        let mount = format!("mount -t tmpfs none {}", rig.base().join(mounted).display());
        let bad = Bad {
            args: &args,
            says: &says,
        };
        refused(&rig, &mount, &bad);
    }
}

#[test]
fn a_second_guard_on_the_same_volume_gives_up_and_changes_nothing() {
    let mut rig = Rig::primary();
    let pgdata = rig.pgdata().display().to_string();
    let run = rig.base().join("other-run").display().to_string();
    let state = || snapshot(&rig.base().join("data/pgbaton"));
    let before = state();
    let args = ["--pgdata", &pgdata, "--run-dir", &run, "--", "entry.sh"];
    let (success, text) = guard(&rig, "", &args);
    assert!(!success && text.contains("two pods use this volume"), "{text}");
    assert_eq!(state(), before);
    assert!(!Path::new(&run).exists());
    assert_eq!(rig.status().server, Server::Primary);
    rig.sql("insert into t values (1)");
    rig.permit(1, 60_000);
}

#[test]
fn the_refusal_is_left_for_the_sidecar_and_nothing_else() {
    let rig = Rig::new();
    fs::create_dir(rig.pgdata()).unwrap();
    let run = rig.base().join("run");
    let pgdata = rig.pgdata().display().to_string();
    let run_dir = run.display().to_string();
    let args = ["--pgdata", &pgdata, "--run-dir", &run_dir, "--", "entry.sh"];
    let mount = format!("mount -t tmpfs none {pgdata}");
    let before = snapshot(&rig.base().join("data"));
    let (success, text) = guard(&rig, &mount, &args);
    assert!(!success, "{text}");
    assert_eq!(snapshot(&rig.base().join("data")), before);
    let left = pgbaton::guard::refusal::read(&run).unwrap();
    assert!(
        left.contains("is itself a mount point") && text.contains(&left),
        "{left}"
    );
    assert_eq!(fs::read_dir(&run).unwrap().count(), 1);
}
