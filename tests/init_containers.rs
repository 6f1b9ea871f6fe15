//! `install` and `prepare`, as init containers run them: the real program on real directories.
#![allow(clippy::unwrap_used, reason = "a test ends by it")]

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Output};

use tempfile::TempDir;

/// Nobody's number in /etc/passwd.
const USER: u32 = 54_321;

fn is_root() -> bool {
    nix::unistd::getuid().is_root()
}

fn pgbaton(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_pgbaton"));
    command
        .args(args)
        .env_remove("PGDATA")
        .env_remove("PGBATON_INSTALL");
    command
}

/// Exit status and everything that was said.
fn said(out: &Output) -> (Option<i32>, String) {
    let text = [&out.stdout[..], &out.stderr[..]].concat();
    (out.status.code(), String::from_utf8(text).unwrap())
}

/// A directory that everybody may look into.
fn directory() -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
    dir
}

fn names(dir: &Path) -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(dir)
        .unwrap()
        .map(|e| e.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

fn install(dir: &Path) -> (Option<i32>, String) {
    said(&pgbaton(&["install", dir.to_str().unwrap()]).output().unwrap())
}

#[test]
fn the_program_is_installed_whole_and_only_when_it_differs() {
    let dir = directory();
    let path = dir.path().join("pgbaton");
    let (code, text) = install(dir.path());
    assert_eq!(code, Some(0), "{text}");
    assert!(text.contains(&format!("installed {}", path.display())), "{text}");
    let ours = fs::read(env!("CARGO_BIN_EXE_pgbaton")).unwrap();
    assert!(fs::read(&path).unwrap() == ours, "other bytes");
    let meta = fs::metadata(&path).unwrap();
    assert_eq!(meta.permissions().mode() & 0o7777, 0o755);
    assert!(Command::new(&path).arg("--version").status().unwrap().success());

    let (code, text) = install(dir.path());
    assert_eq!(code, Some(0), "{text}");
    assert!(text.contains("is there already"), "{text}");
    assert_eq!(fs::metadata(&path).unwrap().ino(), meta.ino());

    // Another program, one of the same length, one that nobody may run: each is replaced, and never written over.
    let mut same_length = ours.clone();
    *same_length.last_mut().unwrap() ^= 1;
    for (content, mode) in [(&b"old"[..], 0o755), (&same_length, 0o755), (&ours, 0o644)] {
        fs::write(&path, content).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        let before = fs::metadata(&path).unwrap().ino();
        assert_eq!(install(dir.path()).0, Some(0));
        let after = fs::metadata(&path).unwrap();
        assert!(fs::read(&path).unwrap() == ours, "{mode:o}");
        assert_ne!(after.ino(), before, "a running guard's file was changed");
        assert_eq!(after.permissions().mode() & 0o7777, 0o755);
    }
    assert_eq!(names(dir.path()), ["pgbaton"], "something is left");
}

#[test]
fn where_it_cannot_be_installed_it_says_what_to_mount() {
    let dir = directory();
    let (code, text) = install(&dir.path().join("not-there"));
    assert_eq!(code, Some(1), "{text}");
    for part in [
        "cannot install this program as",
        "No such file",
        "Mount an emptyDir at",
    ] {
        assert!(text.contains(part), "{part} is not in {text}");
    }
    assert!(names(dir.path()).is_empty());
    if !is_root() {
        return;
    }
    // Another user's directory.
    let program = dir.path().join("program");
    fs::copy(env!("CARGO_BIN_EXE_pgbaton"), &program).unwrap();
    let closed = dir.path().join("closed");
    fs::create_dir(&closed).unwrap();
    let out = Command::new(&program)
        .arg("install")
        .arg(&closed)
        .uid(USER)
        .gid(USER)
        .output()
        .unwrap();
    let (code, text) = said(&out);
    assert_eq!(code, Some(1), "{text}");
    assert!(
        text.contains("Permission denied") && text.contains(&format!("user {USER} may write")),
        "{text}"
    );
    assert!(names(&closed).is_empty());
}

/// The guard's container waits for the file, whatever else is wrong with the sidecar.
#[test]
fn the_sidecar_installs_before_anything_else_can_fail() {
    let dir = directory();
    let sidecar = |install: &Path| {
        let settings = [
            "sidecar",
            "--member=postgres-1",
            "--namespace=default",
            "--pod-uid=a-b",
            "--pod-ip=127.0.0.1",
            "--postgres-password=a",
            "--replication-user=replicator",
            "--replication-password=b",
            "--lease-duration=1s",
            "--log=no=such=level",
        ];
        said(
            &pgbaton(&settings)
                .env("PGBATON_INSTALL", install)
                .output()
                .unwrap(),
        )
    };
    let (code, text) = sidecar(dir.path());
    assert_eq!(code, Some(2), "{text}");
    assert_eq!(names(dir.path()), ["pgbaton"]);
    let (code, text) = sidecar(&dir.path().join("not-there"));
    assert_eq!(code, Some(1), "{text}");
    assert!(
        text.starts_with("pgbaton sidecar: cannot install this program"),
        "{text}"
    );
    // Set and empty is not set.
    assert_eq!(sidecar(Path::new("")).0, Some(2));
}

/// A volume with a database in it, as the tutorial's cluster has it; nobody's yet.
struct Volume(TempDir);

impl Volume {
    fn new() -> Self {
        let dir = directory();
        let pgdata = dir.path().join("pgdata");
        fs::create_dir(&pgdata).unwrap();
        fs::write(pgdata.join("PG_VERSION"), "15\n").unwrap();
        fs::set_permissions(&pgdata, fs::Permissions::from_mode(0o750)).unwrap();
        Self(dir)
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    fn prepare(&self, more: &[&str]) -> (Option<i32>, String) {
        let user = USER.to_string();
        let mut command = pgbaton(&["prepare", "--user", &user]);
        said(
            &command
                .env("PGDATA", self.path().join("pgdata"))
                .args(more)
                .output()
                .unwrap(),
        )
    }

    /// Owner, mode and time of PGDATA and of the file in it, and its content.
    fn data(&self) -> String {
        let show = |name: &str| {
            let meta = fs::metadata(self.path().join(name)).unwrap();
            format!("{} {:o} {:?}", meta.uid(), meta.mode(), meta.modified().unwrap())
        };
        let content = fs::read_to_string(self.path().join("pgdata/PG_VERSION")).unwrap();
        format!("{} {} {content}", show("pgdata"), show("pgdata/PG_VERSION"))
    }

    fn refuses(&self, more: &[&str], parts: &[&str]) {
        let (before, entries) = (self.data(), names(self.path()));
        let (code, text) = self.prepare(more);
        assert_eq!(code, Some(1), "{text}");
        for part in parts {
            assert!(text.contains(part), "{part} is not in {text}");
        }
        assert_eq!((self.data(), names(self.path())), (before, entries), "{text}");
    }
}

#[test]
fn the_archive_is_made_for_postgresqls_user_and_the_data_left_alone() {
    let volume = Volume::new();
    let before = volume.data();
    let (code, text) = volume.prepare(&[]);
    assert_eq!(code, Some(0), "{text}");
    let archive = volume.path().join("archive");
    let user = if is_root() {
        USER
    } else {
        nix::unistd::getuid().as_raw()
    };
    assert!(text.contains("was made for user"), "{text}");
    assert_eq!(fs::metadata(&archive).unwrap().uid(), user);
    assert_eq!(
        fs::metadata(volume.path()).unwrap().uid(),
        user,
        "the guard makes its directory here"
    );
    assert_eq!(volume.data(), before);
    assert_eq!(names(volume.path()), ["archive", "pgdata"]);

    // Again, with files of root's in it: they are the user's then, and stay.
    fs::write(archive.join("000000010000000000000001"), "wal").unwrap();
    let (code, text) = volume.prepare(&[]);
    assert_eq!(code, Some(0), "{text}");
    assert!(text.contains("is there for user"), "{text}");
    let file = archive.join("000000010000000000000001");
    assert_eq!(fs::metadata(&file).unwrap().uid(), user);
    assert_eq!(fs::read(&file).unwrap(), b"wal");

    let other = volume.path().join("wal/archive");
    let (code, text) = volume.prepare(&["--archive-dir", other.to_str().unwrap()]);
    assert_eq!(code, Some(0), "{text}");
    assert_eq!(fs::metadata(&other).unwrap().uid(), user);
    assert_eq!(volume.data(), before);
}

#[test]
fn a_place_that_the_guard_cannot_use_is_refused() {
    let (code, text) = said(&pgbaton(&["prepare"]).output().unwrap());
    assert_eq!(code, Some(1));
    assert!(text.contains("PGDATA is not set"), "{text}");

    let volume = Volume::new();
    let at = |name: &str| volume.path().join(name).display().to_string();
    volume.refuses(&["--pgdata", "data/pgdata"], &["must be an absolute path"]);
    volume.refuses(&["--pgdata", "/pgdata"], &["directly below /"]);
    volume.refuses(&["--pgdata", &at("pgdata/PG_VERSION")], &["is not a directory"]);
    volume.refuses(
        &["--pgdata", &at("missing/pgdata")],
        &["is not mounted in this container"],
    );
    for inside in ["pgdata", "pgdata/archive", "pgbaton", "pgbaton/archive", "."] {
        volume.refuses(&["--archive-dir", &at(inside)], &["name another directory"]);
    }
    volume.refuses(&["--archive-dir", "archive"], &["absolute path"]);
    volume.refuses(&["--archive-dir", &at("pgdata/PG_VERSION")], &["--archive-dir"]);
    fs::write(volume.path().join("archive"), "").unwrap();
    volume.refuses(&[], &["is there and is not a directory"]);
}

/// A mount point cannot be renamed, and has nothing beside it on its volume.
#[test]
fn a_data_directory_that_is_a_mount_point_is_refused() {
    let volume = Volume::new();
    let pgdata = volume.path().join("pgdata");
    let mut unshare = Command::new("unshare");
    unshare.arg("--mount");
    if !is_root() {
        unshare.args(["--user", "--map-root-user"]);
    }
    let out = unshare
        .args([
            "sh",
            "-ec",
            "mount --bind \"$PGDATA\" \"$PGDATA\"\nexec \"$0\" prepare --user 54321",
        ])
        .arg(env!("CARGO_BIN_EXE_pgbaton"))
        .env("PGDATA", &pgdata)
        .output()
        .unwrap();
    let (code, text) = said(&out);
    assert_eq!(code, Some(1), "{text}");
    assert!(text.contains("is itself a mount point"), "{text}");
    assert_eq!(names(volume.path()), ["pgdata"]);
}

#[test]
fn a_volume_that_postgresqls_user_may_not_write_is_refused() {
    if !is_root() {
        return;
    }
    // Root gives what is root's, and leaves to others what is theirs.
    let volume = Volume::new();
    chown(volume.path(), Some(USER + 1), Some(USER + 1)).unwrap();
    let says = format!("user {USER} may not write in {}", volume.path().display());
    volume.refuses(&[], &[&says, "mode 0755", "fsGroup"]);
    fs::set_permissions(volume.path(), fs::Permissions::from_mode(0o775)).unwrap();
    volume.refuses(&[], &[&says]);
    chown(volume.path(), Some(USER + 1), Some(USER)).unwrap();
    let (code, text) = volume.prepare(&[]);
    assert_eq!(code, Some(0), "as with fsGroup: {text}");

    // Without root there is nothing to give.
    let volume = Volume::new();
    let program = volume.path().join("program");
    fs::copy(env!("CARGO_BIN_EXE_pgbaton"), &program).unwrap();
    let prepare = || {
        let mut command = Command::new(&program);
        command
            .arg("prepare")
            .env("PGDATA", volume.path().join("pgdata"))
            .env_remove("PGBATON_ARCHIVE_DIR");
        said(&command.uid(USER).gid(USER).output().unwrap())
    };
    let (code, text) = prepare();
    assert_eq!(code, Some(1), "{text}");
    assert!(text.contains(&format!("user {USER} may not write in")), "{text}");
    assert_eq!(names(volume.path()), ["pgdata", "program"]);
    chown(volume.path(), Some(USER), Some(USER)).unwrap();
    let (code, text) = prepare();
    assert_eq!(code, Some(0), "{text}");
    let archive = volume.path().join("archive");
    assert_eq!(fs::metadata(&archive).unwrap().uid(), USER);
    // Made by root before: archiving would fail for ever.
    chown(&archive, Some(0), Some(0)).unwrap();
    let (code, text) = prepare();
    assert_eq!(code, Some(1), "{text}");
    assert!(
        text.contains(&format!("may not write in {}", archive.display())),
        "{text}"
    );
}
